// An app that asks before it starts.

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { expect, test } from "@playwright/test";

import { accessible } from "../axe.ts";
import { submit } from "../forms.ts";
import { shoot } from "../screens.ts";
import { REPOSITORY, serve } from "../server.ts";

interface Instance {
  pid: number;
  parameters?: Record<string, string>;
}

test("a form comes before the app, which starts with what was chosen", async ({ browser }) => {
  const server = await serve("tests/e2e/apps");
  // Complete without scripts.
  const context = await browser.newContext({ javaScriptEnabled: false });
  const running = () =>
    (JSON.parse(server.command("ps", "--json").stdout) as Instance[]).map(({ parameters }) => parameters);
  try {
    const page = await context.newPage();
    expect((await page.goto(`${server.url}/choosy/deep?x=1`))?.status()).toBe(200);
    await expect(page.getByText("Choose what it starts with.")).toBeVisible();
    await expect(page.getByLabel("Region")).toHaveValue("us");
    expect(running()).toEqual([]);
    await shoot(page, "choose");

    // What is offered does not all go together; a value that is not offered is refused.
    await page.getByLabel("Size").selectOption("large");
    await page.getByRole("button", { name: "Start" }).click();
    await expect(page.getByRole("alert")).toHaveText("These values do not go together.");
    expect(running()).toEqual([]);
    await page.getByLabel("Region").selectOption({ label: "Europe" });
    await page.getByLabel("Size").selectOption("large");
    await page.getByRole("button", { name: "Start" }).click();
    await expect(page.locator("#chosen")).toHaveText("eu size=large");
    expect(new URL(page.url()).pathname + new URL(page.url()).search).toBe("/choosy/deep?x=1");
    expect(running()).toEqual([{ region: "eu", size: "large" }]);

    // It stays what it is: no form for the one that runs, nor after the end of the server.
    const process = await page.locator("#process").innerText();
    await server.killAndRestart();
    await page.goto(`${server.url}/choosy/`);
    await expect(page.locator("#process")).toHaveText(process);
    expect(running()).toEqual([{ region: "eu", size: "large" }]);
    await page.goto(`${server.url}/_skep/apps`);
    await expect(page.getByText("Region: Europe, Size: large")).toBeVisible();

    // Once it has ended, the last choice is selected; the address may say otherwise.
    await submit(page, "End Figures");
    await expect.poll(running).toEqual([]);
    await page.goto(`${server.url}/choosy/`);
    await expect(page.getByLabel("Region")).toHaveValue("eu");
    await expect(page.getByLabel("Size")).toHaveValue("large");
    await page.goto(`${server.url}/choosy/?region=us&size=small`);
    await expect(page.getByLabel("Region")).toHaveValue("us");
    await page.getByRole("button", { name: "Start" }).click();
    await expect(page.locator("#chosen")).toHaveText("us size=small");

    // Another one, under a name, is asked for anew.
    await page.goto(`${server.url}/choosy~second/`);
    await expect(page.getByRole("heading", { name: "Figures · second" })).toBeVisible();
    await page.getByRole("button", { name: "Start" }).click();
    await expect(page.locator("#base")).toHaveText("/choosy~second");
  } finally {
    await context.close();
    await server.stop();
  }
});

test("the form is for everybody, and takes no value it does not offer", async ({ page }) => {
  const server = await serve("tests/e2e/apps");
  try {
    await page.goto(`${server.url}/choosy/`);
    await accessible(page);
    await page
      .locator("select")
      .first()
      .evaluate((select: HTMLSelectElement) => {
        select.options.item(0)?.setAttribute("value", "mars; rm -rf /");
        select.selectedIndex = 0;
      });
    await page.getByRole("button", { name: "Start" }).click();
    await expect(page.getByRole("alert")).toHaveText("What was chosen for Region is not offered.");
    await accessible(page);
    const answer = await page.request.get(`${server.url}/choosy/data`, { headers: { accept: "*/*" } });
    expect(answer.status()).toBe(409);
    expect(await answer.json()).toMatchObject({ code: "choice-needed" });
  } finally {
    await server.stop();
  }
});

test("a choice that comes too late, or is not offered any more, is refused with what to do", async ({
  browser,
}) => {
  const site = mkdtempSync(path.join(tmpdir(), "skep-e2e-choosy-"));
  for (const app of ["choosy", "counter"]) {
    cpSync(path.join(REPOSITORY, "tests/e2e/apps", app), path.join(site, app), { recursive: true });
  }
  const server = await serve(site);
  const context = await browser.newContext();
  try {
    const [first, late] = [await context.newPage(), await context.newPage()];
    await first.goto(`${server.url}/choosy/`);
    await late.goto(`${server.url}/choosy/`);
    await first.getByLabel("Region").selectOption("us");
    await first.getByRole("button", { name: "Start" }).click();
    await expect(first.locator("#chosen")).toHaveText("us size=small");

    await late.getByLabel("Region").selectOption("eu");
    await late.getByRole("button", { name: "Start" }).click();
    await expect(late.getByRole("status")).toContainText(
      "runs already with Region: United States, Size: small. What you chose now was not used.",
    );
    await shoot(late, "running-already", accessible);
    await late.getByRole("link", { name: "Open it" }).click();
    await expect(late.locator("#chosen")).toHaveText("us size=small");

    // Ended there, it may be started with something else.
    await first.goto(`${server.url}/_skep/apps`);
    await submit(first, "End Figures");
    await expect.poll(() => (JSON.parse(server.command("ps", "--json").stdout) as Instance[]).length).toBe(0);
    const file = path.join(site, "choosy/skep.toml");
    const published = readFileSync(file, "utf8");
    writeFileSync(
      file,
      published
        .replace(/\[\[parameter_sets\]\][^]*$/, "")
        .replace(/\{ value = "eu", title = "Europe" \}, /, ""),
    );
    await expect(async () => {
      await first.goto(`${server.url}/choosy/`);
      await expect(first.getByRole("alert")).toHaveText(
        "What was chosen here last is not offered any more. Choose again.",
        { timeout: 1000 },
      );
    }).toPass({ timeout: 60_000 });
    await shoot(first, "choose-again", accessible);
    await first.getByRole("button", { name: "Start" }).click();
    await expect(first.locator("#chosen")).toHaveText("us size=small");
  } finally {
    await context.close();
    await server.stop();
    rmSync(site, { recursive: true, force: true });
  }
});
