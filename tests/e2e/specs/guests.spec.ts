// Somebody lets somebody else into their own copy of an app, and out again.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { type Browser, expect, type Page, test } from "@playwright/test";

import { accessible } from "../axe.ts";
import { submit } from "../forms.ts";
import { SCREENS, shoot } from "../screens.ts";
import { REPOSITORY, serve, type Server } from "../server.ts";

const PASSWORD = "plum tree in June";

async function invite(server: Server, browser: Browser, name: string): Promise<Page> {
  const link = /(http:\S+\/_skep\/invite\?token=\S+)/.exec(server.command("user", "add", name).stdout)?.[1];
  if (link === undefined) throw new Error("no link for choosing a password");
  const page = await (await browser.newContext()).newPage();
  await page.goto(link);
  await page.getByLabel("New password").fill(PASSWORD);
  await page.getByLabel("The same again").fill(PASSWORD);
  await submit(page, "Save and log in");
  await expect(page.getByRole("link", { name })).toBeVisible();
  return page;
}

test("a guest sees what the owner sees, until the owner stops it", async ({ browser }) => {
  const folder = mkdtempSync(path.join(tmpdir(), "skep-e2e-shared-"));
  const config = path.join(folder, "skep.toml");
  const site = path.join(REPOSITORY, "tests/e2e/apps");
  const log = path.join(folder, "access.log");
  writeFileSync(
    config,
    `[server]\naccess_log = "json"\naccess_log_file = "${log}"\n[auth]\nprovider = "local"\n[[sites]]\npath = "${site}"\n`,
  );
  const server = await serve("--config", config);
  try {
    const bob = await invite(server, browser, "bob");
    const eve = await invite(server, browser, "eve");
    await bob.goto(`${server.url}/counter/`);
    await expect(bob.locator("#line")).toHaveText("up");
    await bob.getByRole("button", { name: "Add one" }).click();
    await expect(bob.locator("#count")).toHaveText("1");
    const process = await bob.locator("#process").innerText();
    // Eve has one of her own.
    await eve.goto(`${server.url}/counter/`);
    await expect(eve.locator("#line")).toHaveText("up");
    const own = await eve.locator("#process").innerText();
    expect(own).not.toBe(process);

    const list = await bob.context().newPage();
    await list.goto(`${server.url}/_skep/apps`);
    await list.getByRole("button", { name: "Share Counter" }).click();
    const link = await list.getByLabel("Shared for another").inputValue();
    await shoot(list, "shared", accessible);

    await eve.goto(link);
    await expect(eve.getByText("bob lets you into this very copy")).toBeVisible();
    await accessible(eve);
    await eve.screenshot({ path: path.join(SCREENS, "shared-invitation.png") });
    await eve.getByRole("button", { name: "Join" }).click();
    await expect(eve.locator("#process")).toHaveText(process);
    await expect(eve.locator("#line")).toHaveText("up");
    await eve.getByRole("button", { name: "Add one" }).click();
    await expect(bob.locator("#count")).toHaveText("2");
    await expect(eve.locator("#count")).toHaveText("2");

    // Her own goes on; leaving leads back to it, the link in again.
    await eve.goto(`${server.url}/_skep/apps`);
    await expect(eve.getByRole("heading", { name: "You are a guest" })).toBeVisible();
    await accessible(eve);
    await eve.screenshot({ path: path.join(SCREENS, "shared-guest.png") });
    await submit(eve, "Leave");
    await eve.goto(`${server.url}/counter/`);
    await expect(eve.locator("#process")).toHaveText(own);
    await eve.goto(link);
    await eve.getByRole("button", { name: "Join" }).click();
    await expect(eve.locator("#process")).toHaveText(process);
    await expect(eve.locator("#line")).toHaveText("up");

    // The owner stops it: the guest's line is cut, the owner's is not.
    await list.getByRole("button", { name: "Stop sharing Counter" }).click();
    await expect(eve.locator("#line")).toHaveText("cut");
    await expect(bob.locator("#line")).toHaveText("up");
    await eve.reload();
    await expect(eve.getByText("its owner has stopped sharing it")).toBeVisible();
    await accessible(eve);
    await eve.getByRole("link", { name: "Open your own" }).click();
    await expect(eve.locator("#process")).toHaveText(own);
    expect((await eve.goto(link))?.status()).toBe(404);
    await accessible(eve);

    const { readFileSync } = await import("node:fs");
    const token = new URL(link).searchParams.get("token") ?? "";
    await expect.poll(() => readFileSync(log, "utf8")).toContain("/_skep/share");
    expect(readFileSync(log, "utf8")).not.toContain(token.slice(0, 40));
    expect(server.log()).not.toContain(token.slice(0, 40));
  } finally {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  }
});
