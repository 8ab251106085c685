// Several instances of one app for one person, each under a name.

import path from "node:path";

import { expect, type Page, test } from "@playwright/test";

import { accessible } from "../axe.ts";
import { SCREENS, shoot } from "../screens.ts";
import { serve, type Server } from "../server.ts";

interface Instance {
  id: string;
  pid: number;
  name?: string;
}

function running(server: Server): Instance[] {
  const rows = JSON.parse(server.command("ps", "--json").stdout) as Instance[];
  return rows.sort((a, b) => (a.name ?? "").localeCompare(b.name ?? ""));
}

async function add(page: Page, times: number): Promise<void> {
  await expect(page.locator("#line")).toHaveText("up");
  const before = Number(await page.locator("#count").innerText());
  for (let n = 1; n <= times; n += 1) {
    await page.getByRole("button", { name: "Add one" }).click();
    await expect(page.locator("#count")).toHaveText(String(before + n));
  }
}

test("two named instances side by side have a process, an address and a state each", async ({ browser }) => {
  const server = await serve("tests/e2e/apps");
  const context = await browser.newContext();
  try {
    const north = await context.newPage();
    await north.goto(`${server.url}/_skep/apps`);
    await expect(north.getByRole("heading", { name: "All quiet" })).toBeVisible();
    await north.getByLabel("Name").fill("North");
    await north.getByRole("button", { name: "Open" }).click();
    await expect(north.locator("#base")).toHaveText("/counter~north");
    expect(new URL(north.url()).pathname).toBe("/counter~north/");
    await add(north, 2);
    const south = await context.newPage();
    await south.goto(`${server.url}/counter~south/`);
    await expect(south.locator("#base")).toHaveText("/counter~south");
    await add(south, 1);
    const pids = running(server).map(({ name, pid }) => ({ name, pid }));
    expect(pids.map(({ name }) => name)).toEqual(["north", "south"]);
    expect(new Set(pids.map(({ pid }) => pid)).size).toBe(2);

    // A reload leads back to the same process, and so it does after the end of the server.
    await north.reload();
    await expect(north.locator("#count")).toHaveText("2");
    await server.killAndRestart();
    await north.reload();
    await expect(north.locator("#count")).toHaveText("2");
    await south.reload();
    await expect(south.locator("#count")).toHaveText("1");
    expect(running(server).map(({ name, pid }) => ({ name, pid }))).toEqual(pids);

    // A third is allowed, a fourth is not, and the refusal leads to what there is.
    const third = await context.newPage();
    await third.goto(`${server.url}/counter/`);
    await expect(third.locator("#base")).toHaveText("/counter");
    const fourth = await context.newPage();
    expect((await fourth.goto(`${server.url}/counter~west/`))?.status()).toBe(429);
    await expect(fourth.getByText("You have 3 of this app running")).toBeVisible();
    await accessible(fourth);
    await fourth.screenshot({ path: path.join(SCREENS, "named-enough.png") });
    await fourth.getByRole("link", { name: "What runs for you" }).click();
    const row = (name: string) => fourth.getByRole("row").filter({ hasText: name });
    await expect(row("Counter · north").getByText("Running")).toBeVisible();
    await expect(row("Counter · south").getByText("Running")).toBeVisible();
    await shoot(fourth, "apps", accessible);

    // One ends; the others never notice.
    await row("Counter · north").getByRole("button", { name: "End Counter · north" }).click();
    await expect.poll(() => running(server).map(({ name }) => name ?? "")).toEqual(["", "south"]);
    await expect(south.locator("#line")).toHaveText("up");
    await add(south, 1);
    await south.reload();
    await expect(south.locator("#count")).toHaveText("2");
    await north.reload();
    await expect(north.locator("#base")).toHaveText("/counter~north");
    await expect(north.locator("#count")).toHaveText("0");

    // Somebody else has none of this.
    const stranger = await browser.newContext();
    const other = await stranger.newPage();
    await other.goto(`${server.url}/_skep/apps`);
    await expect(other.getByText("north")).toHaveCount(0);
    await other.goto(`${server.url}/counter~south/`);
    await expect(other.locator("#count")).toHaveText("0");
    await stranger.close();
  } finally {
    await context.close();
    await server.stop();
  }
});

test("the addresses of ShinyProxy's instances lead to those of the same name, and nonsense is refused", async ({
  page,
}) => {
  const server = await serve("tests/e2e/apps");
  try {
    await page.goto(`${server.url}/app_direct_i/counter/Second/deep?q=1`);
    await expect(page.locator("#base")).toHaveText("/counter~second");
    expect(page.url()).toBe(`${server.url}/counter~second/deep?q=1`);
    expect((await page.goto(`${server.url}/counter~Second/`))?.status()).toBe(404);
    await expect(page.getByText("A name has 1 to 32 of a-z")).toBeVisible();
    await accessible(page);
    await page.goto(`${server.url}/_skep/apps/open?app=counter&name=~`);
    await expect(page.getByRole("alert")).toBeVisible();
    await accessible(page);
  } finally {
    await server.stop();
  }
});
