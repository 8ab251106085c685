// Pictures of a page as people see it.

import path from "node:path";

import type { Page } from "@playwright/test";

export const SCREENS = path.join(import.meta.dirname, "out/screens");

/** Wide and narrow, light and dark; `check` is made of each. */
export async function shoot(page: Page, name: string, check?: (page: Page) => Promise<void>): Promise<void> {
  for (const scheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme: scheme });
    for (const [size, width] of [
      ["wide", 1280],
      ["phone", 390],
    ] as const) {
      await page.setViewportSize({ width, height: 800 });
      await check?.(page);
      await page.screenshot({ path: path.join(SCREENS, `${name}-${size}-${scheme}.png`), fullPage: true });
    }
  }
}
