// Every example: its first visitor waits on the launch page, then the app opens under its prefix, answers an input over
// its live transport, and needs nothing from anywhere else.

import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import path from "node:path";

import { expect, type Page, test } from "@playwright/test";

import { EXAMPLES } from "../examples.ts";
import { REPOSITORY } from "../server.ts";
import { type Transport, Witness } from "../witness.ts";

const SCREENS = path.join(import.meta.dirname, "../out/screens");
const base = () => process.env["SKEP_URL"] ?? "";

/** Downloading and installing what an app requires, with the other core busy too. */
const BUILT = 600_000;

async function opened(page: Page): Promise<void> {
  await expect(page.locator("[data-launch]")).toHaveCount(0, { timeout: BUILT });
}

async function pictures(page: Page, id: string): Promise<void> {
  await page.screenshot({ path: path.join(SCREENS, `${id}-desktop.png`) });
  await page.setViewportSize({ width: 390, height: 844 });
  // Charts redraw to the new width, by their own clocks.
  await page.waitForTimeout(500);
  await page.screenshot({ path: path.join(SCREENS, `${id}-phone.png`) });
}

for (const example of EXAMPLES) {
  test(example.id, async ({ page }) => {
    const prefix = `/${example.id}/`;
    const witness = new Witness(page, base(), prefix, example.forgiven);
    const first = await page.goto(base() + prefix);
    if (example.id === "static") {
      expect(first?.status(), "files need no start").toBe(200);
    } else {
      expect(first?.status(), "the first visitor waits").toBe(503);
      expect(first?.headers()["cache-control"]).toContain("no-store");
      await opened(page);
    }
    expect(new URL(page.url()).pathname.startsWith(prefix)).toBe(true);
    await example.use(page);
    await witness.carried(example.transport === "none" ? ("get" satisfies Transport) : example.transport);
    await pictures(page, example.id);
    witness.calm();
  });
}

test("quarto", async ({ page }) => {
  const installed = spawnSync("quarto", ["--version"]).status === 0;
  await page.goto(`${base()}/quarto/`);
  if (installed) {
    await opened(page);
    await expect(page.getByText("With 2 dice the standard deviation")).toBeVisible({ timeout: 240_000 });
  } else {
    console.log("\n  !!! QUARTO IS NOT INSTALLED HERE: only that its absence is explained has been tested\n");
    await expect(page.getByText(/quarto/i).first()).toBeVisible();
    await expect(page.locator("[data-launch]")).toHaveCount(0);
    await expect(page.getByText(/could not be started/)).toBeVisible();
  }
});

test("no example is left out", () => {
  const folders = readdirSync(path.join(REPOSITORY, "examples/apps"), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name);
  expect(folders.sort()).toEqual([...EXAMPLES.map(({ id }) => id), "quarto"].sort());
});
