// Whoever has an app open keeps it while Skep itself is killed and started again.

import { expect, test, type WebSocket } from "@playwright/test";

import { serve } from "../server.ts";

test("an open page goes on with the same process after `kill -9` of Skep", async ({ page }) => {
  const server = await serve("examples/apps/fastapi", "--config", "tests/e2e/skep.toml");
  try {
    const sockets: WebSocket[] = [];
    page.on("websocket", (socket) => sockets.push(socket));
    await page.goto(`${server.url}/`);
    const die = page.getByRole("button", { name: "Throw" });
    await die.click({ timeout: 600_000 });
    await die.click();
    await expect(page.locator("#throws li")).toHaveCount(2);
    const thrown = await page.locator("#throws").innerText();
    const running = () => {
      const { stdout } = server.command("ps", "--json");
      return (JSON.parse(stdout) as { id: string; pid: number }[]).map(({ id, pid }) => ({ id, pid }));
    };
    const before = running();
    expect(before).toHaveLength(1);
    const earlier = sockets.length;

    await server.killAndRestart();

    // The page's own script connects again, once it has noticed; what was thrown is in the memory of the process that went on.
    await expect.poll(() => sockets.length).toBeGreaterThan(earlier);
    await expect(die).toBeEnabled();
    expect(await page.locator("#throws").innerText()).toBe(thrown);
    await die.click();
    await expect(page.locator("#throws li")).toHaveCount(3);
    expect(running()).toEqual(before);
  } finally {
    await server.stop();
  }
});
