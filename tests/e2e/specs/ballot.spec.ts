// The voting system: vote, change it, watch the result move, check the receipt after the end; with and without scripts, on
// a desk and on a phone.

import { spawn, spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { expect, type Page, test } from "@playwright/test";

import { REPOSITORY } from "../server.ts";
import { Witness } from "../witness.ts";

const SCREENS = path.join(import.meta.dirname, "../out/screens");
const BALLOT = path.join(
  path.resolve(REPOSITORY, process.env["CARGO_TARGET_DIR"] ?? "target"),
  "debug/ballot",
);

let base = "";
let end: () => Promise<void> = () => Promise.resolve();
let token = "";

test.describe.configure({ mode: "serial" });

test.beforeAll(async () => {
  const dataDir = mkdtempSync(path.join(tmpdir(), "ballot-e2e-"));
  const logFile = path.join(dataDir, "server.log");
  const log = openSync(logFile, "a");
  const server = spawn(
    BALLOT,
    ["all", "--listen", "127.0.0.1:0", "--data-dir", dataDir, "--drain-seconds", "2"],
    {
      stdio: ["ignore", log, log],
    },
  );
  closeSync(log);
  const ended = new Promise((resolve) => server.on("exit", resolve));
  await expect
    .poll(() => /ballot is at (http:\S+?)\/\s/.exec(readFileSync(logFile, "utf8"))?.[1] ?? "", {
      timeout: 120_000,
    })
    .not.toBe("");
  base = /ballot is at (http:\S+?)\/\s/.exec(readFileSync(logFile, "utf8"))?.[1] ?? "";
  await expect.poll(async () => (await fetch(`${base}/health`)).status).toBe(200);
  const asked = spawnSync(BALLOT, ["token", "--data-dir", dataDir, "admin"], { encoding: "utf8" });
  token = asked.stdout.trim();
  end = async () => {
    server.kill("SIGTERM");
    await ended;
    rmSync(dataDir, { recursive: true, force: true });
  };
});

test.afterAll(() => end());

async function admin(method: string, words: string, body?: object): Promise<void> {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const answer = await fetch(`${base}/api/v1/admin/${words}`, {
    method,
    headers,
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  expect(answer.ok, await answer.text()).toBe(true);
}

async function poll(id: string, question: string): Promise<void> {
  const options = [
    { id: "cats", label: "Cats" },
    { id: "dogs", label: "Dogs" },
    { id: "neither", label: "Neither, thank you" },
  ];
  await admin("POST", "polls", { id, question, options });
  // Who takes votes and who shows results hear of it each in their own time.
  for (const place of [id, `${id}/results`]) {
    await expect.poll(async () => (await fetch(`${base}/polls/${place}`)).status).toBe(200);
  }
}

async function vote(page: Page, label: string): Promise<string> {
  await page.getByLabel(label).check();
  await page.getByRole("button", { name: "Vote" }).click();
  await expect(page.getByRole("status")).toContainText("Your vote is recorded");
  return (await page.locator(".receipt code").textContent()) ?? "";
}

/** How light a colour as computed styles write it is, from 0 to 1. */
function luminance(colour: string): number {
  const [red = 0, green = 0, blue = 0] = (colour.match(/[\d.]+/g) ?? []).map(Number);
  return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
}

async function fits(page: Page): Promise<void> {
  const beyond = await page.evaluate(
    () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
  );
  expect(beyond).toBe(0);
}

test("a vote is recorded, changed, counted live, and its receipt verifies after the end", async ({
  browser,
  page,
}) => {
  await poll("fresh", "Which animal makes the better colleague?");
  const witness = new Witness(page, base, "/");
  await page.goto(`${base}/polls/fresh`);
  const first = await vote(page, "Cats");
  await page.screenshot({ path: path.join(SCREENS, "ballot-desktop.png") });

  const watching = await browser.newPage();
  await watching.goto(`${base}/polls/fresh/results`);
  await expect(watching.locator("#n-cats")).toHaveText("1");
  await watching.evaluate(() => {
    document.body.dataset["stayed"] = "yes";
  });
  const second = await vote(page, "Dogs");
  expect(second).not.toBe(first);
  await expect(watching.locator("#n-dogs")).toHaveText("1");
  await expect(watching.locator("#n-cats")).toHaveText("0");
  await expect(watching.locator("#p-dogs")).toHaveText("100.0 %");
  await expect(watching.locator("#voters")).toHaveText("1");
  expect(await watching.evaluate(() => document.body.dataset["stayed"]), "without a page load").toBe("yes");
  witness.calm();

  await admin("POST", "polls/fresh/close");
  await expect(watching.locator("#state")).toHaveText("Final", { timeout: 120_000 });
  await expect(watching.getByRole("link", { name: "All counted ballots" })).toBeVisible();
  await watching.screenshot({ path: path.join(SCREENS, "ballot-results.png"), fullPage: true });
  await watching.emulateMedia({ colorScheme: "dark" });
  await watching.screenshot({ path: path.join(SCREENS, "ballot-results-dark.png"), fullPage: true });
  await watching.emulateMedia({ colorScheme: "light" });

  const check = async (receipt: string) => {
    await watching.goto(`${base}/check`);
    await watching.getByLabel("Your receipt").fill(receipt);
    await watching.getByRole("button", { name: "Check" }).click();
  };
  await check(second);
  await expect(watching.getByRole("status")).toContainText("Your vote is in the count");
  await expect(watching.getByRole("status")).toContainText("dogs");
  await check(first);
  await expect(watching.getByRole("status")).toContainText("replaced");
  const verified = spawnSync(BALLOT, ["check", second, "--server", base], { encoding: "utf8" });
  expect(verified.stdout).toContain("Verified here");

  await page.reload();
  await expect(page.getByText("This poll is closed")).toBeVisible();
});

test.describe("without JavaScript", () => {
  test.use({ javaScriptEnabled: false });

  test("voting and results are plain pages", async ({ page }) => {
    await poll("plain", "Tea or coffee, so to speak?");
    await page.goto(`${base}/polls/plain`);
    await page.getByLabel("Neither, thank you").check();
    await page.getByRole("button", { name: "Vote" }).click();
    await expect(page.getByRole("heading", { name: "Your vote is recorded" })).toBeVisible();
    await expect(page.locator(".receipt code")).toHaveText(/^bt1\.plain\./);
    await expect
      .poll(async () => {
        await page.goto(`${base}/polls/plain/results`);
        return page.locator("#n-neither").textContent();
      })
      .toBe("1");
  });
});

test("fits a phone, and reads well aloud", async ({ page }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await poll("phone", "Which animal makes the better colleague?");
  await page.goto(`${base}/polls/phone`);
  await expect(page.getByRole("group", { name: "Which animal makes the better colleague?" })).toBeVisible();
  await expect(page.getByRole("radio")).toHaveCount(3);
  await fits(page);
  // By keyboard alone.
  await page.keyboard.press("Tab");
  await page.getByRole("radio").first().focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("status")).toContainText("Your vote is recorded");
  await fits(page);
  await page.screenshot({ path: path.join(SCREENS, "ballot-phone.png"), fullPage: true });
  await page.emulateMedia({ colorScheme: "dark" });
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await expect.poll(async () => luminance(await paper()), { message: "paper is dark" }).toBeLessThan(0.2);
  await page.screenshot({ path: path.join(SCREENS, "ballot-phone-dark.png"), fullPage: true });
  await page.goto(`${base}/polls/phone/results`);
  await expect(page.getByRole("table")).toBeVisible();
  await fits(page);
  await page.screenshot({ path: path.join(SCREENS, "ballot-phone-results-dark.png"), fullPage: true });
});
