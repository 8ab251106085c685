// Asks axe what of a page people with disabilities could not use.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { expect, type Page } from "@playwright/test";

const SOURCE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

interface Axe {
  run(): Promise<{ violations: { id: string; help: string; nodes: { html: string }[] }[] }>;
}

/** No violation at all, whichever its weight. */
export async function accessible(page: Page): Promise<void> {
  // Evaluated by the debugger, so that the page's own policy stays as it is.
  await page.evaluate(SOURCE);
  const found = await page.evaluate(async () => {
    const { violations } = await (window as unknown as { axe: Axe }).axe.run();
    return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map((n) => n.html).join(" ")}`);
  });
  expect(found, `what axe says of ${page.url()}`).toEqual([]);
}
