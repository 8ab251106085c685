// The portal: the list of apps, with and without scripts, light and dark, wide and narrow.

import path from "node:path";

import { expect, type Page, test } from "@playwright/test";

import { EXAMPLES } from "../examples.ts";
import { Witness } from "../witness.ts";

const SCREENS = path.join(import.meta.dirname, "../out/screens");
const base = () => process.env["SKEP_URL"] ?? "";
const apps = (page: Page) => page.getByRole("list", { name: "Apps" }).getByRole("link");

test("lists every app and leads to it", async ({ page }) => {
  const witness = new Witness(page, base(), "/");
  await page.goto(base());
  await expect(apps(page)).toHaveCount(EXAMPLES.length + 1);
  await page.screenshot({ path: path.join(SCREENS, "portal-desktop.png") });
  await page.getByRole("link", { name: "Spirograph" }).click();
  await expect(page).toHaveURL(`${base()}/static/`);
  await expect(page.getByRole("heading", { name: "Spirograph" })).toBeVisible();
  witness.calm();
});

test("the search narrows the list while one types", async ({ page }) => {
  await page.goto(base());
  await page.keyboard.press("/");
  await page.keyboard.type("geyser");
  await expect(apps(page).filter({ visible: true })).toHaveCount(1);
  await expect(page.getByRole("status")).toHaveText(/^1 of \d+ apps$/);
  await page.keyboard.press("Escape");
  await expect(apps(page).filter({ visible: true })).toHaveCount(EXAMPLES.length + 1);
});

test.describe("without JavaScript", () => {
  test.use({ javaScriptEnabled: false });

  test("the search is a form", async ({ page }) => {
    await page.goto(base());
    await expect(apps(page)).toHaveCount(EXAMPLES.length + 1);
    await page.getByRole("searchbox").fill("streamlit");
    await page.getByRole("button", { name: "Search" }).click();
    await expect(apps(page).filter({ visible: true })).toHaveCount(1);
  });
});

test("follows the visitor's choice of dark or light", async ({ page }) => {
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await page.emulateMedia({ colorScheme: "light" });
  await page.goto(base());
  const light = await paper();
  await page.emulateMedia({ colorScheme: "dark" });
  await expect.poll(paper).not.toBe(light);
  await page.screenshot({ path: path.join(SCREENS, "portal-dark.png") });
});

test("fits a phone", async ({ page }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await page.goto(base());
  const beyond = await page.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  );
  expect(beyond).toBe(0);
  await page.screenshot({ path: path.join(SCREENS, "portal-phone.png") });
});

test("an address that is nobody's says so and leads back", async ({ page }) => {
  const answer = await page.goto(`${base()}/no-such-app/`);
  expect(answer?.status()).toBe(404);
  await expect(page.getByRole("heading")).toBeVisible();
  await expect(page.getByRole("link").first()).toHaveAttribute("href", "/");
});
