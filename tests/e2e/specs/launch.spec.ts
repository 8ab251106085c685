// The launch page, with apps made for the purpose: one that takes its time, one that falls over.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { expect, type Page, test } from "@playwright/test";

import { serve, type Server } from "../server.ts";

const SCREENS = path.join(import.meta.dirname, "../out/screens");

// Listens only when a file named `go` is beside it, so that a test decides how long the start takes.
const SLOW = `
import os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
print("counting the bees", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"<!doctype html><title>Slow</title><h1>It answers</h1><p id=asked>{self.path}</p>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
`;

interface Stage {
  server: Server;
  go(app: string): void;
}

const it = test.extend<object, { stage: Stage }>({
  stage: [
    async ({}, use) => {
      const folder = mkdtempSync(path.join(tmpdir(), "skep-e2e-apps-"));
      const publish = (id: string, title: string, script: string) => {
        mkdirSync(path.join(folder, id));
        writeFileSync(path.join(folder, id, "serve.py"), script);
        writeFileSync(
          path.join(folder, id, "skep.toml"),
          // The tests decide when a start is over, and may be slow themselves.
          `title = "${title}"\ncommand = ["python3", "serve.py", "{port}"]\nstart_timeout = "6m"\n`,
        );
      };
      for (const id of ["plain", "scriptless", "deep", "held", "seen"]) publish(id, `Slow ${id}`, SLOW);
      publish("broken", "Broken", 'import sys\nprint("no honey left", flush=True)\nsys.exit(3)\n');
      const server = await serve(folder);
      await use({
        server,
        go(app) {
          writeFileSync(path.join(folder, app, "go"), "");
        },
      });
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    },
    { scope: "worker" },
  ],
});

const launching = (page: Page) => page.locator("[data-launch]");

it("shows what happens and opens the app by itself", async ({ page, stage }) => {
  const answer = await page.goto(`${stage.server.url}/plain/`);
  expect(answer?.status()).toBe(503);
  expect(Number(answer?.headers()["retry-after"])).toBeGreaterThan(0);
  expect(answer?.headers()["cache-control"]).toContain("no-store");
  await expect(page.getByRole("heading", { name: "Slow plain" })).toBeVisible();
  await expect(page.getByRole("listitem").filter({ hasText: "It gives its first answer" })).toHaveAttribute(
    "aria-current",
    "step",
  );
  await page.screenshot({ path: path.join(SCREENS, "launch-desktop.png") });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.screenshot({ path: path.join(SCREENS, "launch-phone-dark.png") });
  stage.go("plain");
  await expect(page.getByRole("heading", { name: "It answers" })).toBeVisible();
  await expect(launching(page)).toHaveCount(0);
});

it("brings the visitor to the very address asked for", async ({ page, stage }) => {
  const deep = "/deep/reports/2026%20draft?tab=two&tab=three&q=a%26b";
  await page.goto(`${stage.server.url}${deep}#part`);
  await expect(launching(page)).toBeVisible();
  stage.go("deep");
  await expect(page.getByRole("heading", { name: "It answers" })).toBeVisible();
  expect(page.url()).toBe(`${stage.server.url}${deep}#part`);
  // A command keeps its URLs below its own root: the app sees what follows its prefix.
  await expect(page.locator("#asked")).toHaveText(/reports\/2026%20draft\?tab=two&tab=three&q=a%26b$/);
});

it("holds what is no page load until the app answers", async ({ stage }) => {
  const held = fetch(`${stage.server.url}/held/data.json`, { headers: { accept: "application/json" } });
  const first = await Promise.race([
    held.then(() => "answered"),
    new Promise((r) => setTimeout(r, 700, "held")),
  ]);
  expect(first).toBe("held");
  stage.go("held");
  const answer = await held;
  expect(answer.status).toBe(200);
  expect(await answer.text()).toContain("It answers");
});

it.describe("without JavaScript", () => {
  it.use({ javaScriptEnabled: false });

  it("reloads itself until the app is there", async ({ page, stage }) => {
    await page.goto(`${stage.server.url}/scriptless/?deep=link`);
    await expect(page.getByRole("heading", { name: "Slow scriptless" })).toBeVisible();
    stage.go("scriptless");
    await expect(page.getByRole("heading", { name: "It answers" })).toBeVisible();
    expect(page.url()).toBe(`${stage.server.url}/scriptless/?deep=link`);
  });
});

it("says why an app does not start, and lets the visitor try again", async ({ page, stage }) => {
  await page.goto(`${stage.server.url}/broken/`);
  await expect(page.getByText(/could not be started/i).first()).toBeVisible();
  await expect(launching(page)).toHaveCount(0);
  await page.screenshot({ path: path.join(SCREENS, "failure-desktop.png") });
  await expect(page.getByRole("button", { name: /try again/i })).toBeVisible();
});

it("is seen by the command line", async ({ page, stage }) => {
  const seen = () => {
    const listed = stage.server.command("ps", "--json");
    expect(listed.status, listed.stderr).toBe(0);
    const instances = JSON.parse(listed.stdout) as { id: string; app: string }[];
    return instances.filter(({ app }) => app === "seen");
  };
  stage.go("seen");
  await page.goto(`${stage.server.url}/seen/`);
  await expect(page.getByRole("heading", { name: "It answers" })).toBeVisible();

  const [instance, ...others] = seen();
  expect(others).toEqual([]);
  expect(instance).toMatchObject({ state: "ready", backend: "process", node: "local", taken: 1 });
  await expect.poll(() => stage.server.command("logs", "seen").stdout).toContain("counting the bees");

  const stopped = stage.server.command("stop", instance?.id ?? "none");
  expect(stopped.status, stopped.stderr).toBe(0);
  await expect.poll(seen).toEqual([]);
});
