// An app served alone, at the root of the site: there is no prefix then, and no portal.

import { expect, test } from "@playwright/test";

import { EXAMPLES } from "../examples.ts";
import { serve } from "../server.ts";
import { Witness } from "../witness.ts";

/** One for each way a framework is told its prefix: by flag, by environment, by header. */
const TOLD = ["bokeh", "dash", "flask", "marimo", "nicegui"];

for (const example of EXAMPLES.filter(({ id }) => TOLD.includes(id))) {
  test(`${example.id} at the root`, async ({ page }) => {
    const server = await serve(`examples/apps/${example.id}`, "--config", "tests/e2e/skep.toml");
    try {
      const witness = new Witness(page, server.url, "/", example.forgiven);
      await page.goto(`${server.url}/`);
      await expect(page.locator("[data-launch]")).toHaveCount(0, { timeout: 600_000 });
      await example.use(page);
      await witness.carried(example.transport);
      witness.calm();
    } finally {
      await server.stop();
    }
  });
}
