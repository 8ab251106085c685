// The login, from the link on the terminal to signing out everywhere, on both stores.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import { type Browser, type BrowserContext, expect, type Page, test, type WebSocket } from "@playwright/test";

import { accessible } from "../axe.ts";
import { submit } from "../forms.ts";
import { postgres } from "../postgres.ts";
import { REPOSITORY, serve, type Server } from "../server.ts";

const SCREENS = path.join(import.meta.dirname, "../out/screens");
const GOOD = "plum tree in June";
const OTHER = "pear tree in July";
const STORES = { SQLite: undefined, PostgreSQL: postgres };
/** Starting R, or building an environment, on a busy machine. */
const FIRST_PAINT = { timeout: 600_000 };

/** Two apps: one for everybody who is logged in, one for nobody so far. */
function config(): string {
  const app = (id: string) => path.join(REPOSITORY, "examples/apps", id);
  return `
[server]
access_log = "json"

[auth]
provider = "local"

[[sites]]
path = "${app("shiny-python")}"
mount = "/walks/"

[[sites]]
path = "${app("shiny-r")}"
mount = "/geyser/"

[apps.shiny-r]
access.groups = ["lab"]

[defaults]
start_timeout = "6m"
`;
}

/** The only link on the terminal. The server answers a moment before it says so. */
async function setUpLink(server: Server): Promise<string> {
  const link = () => /(http:\S+\/_skep\/invite\?token=\S+)/.exec(server.log())?.[1] ?? "";
  await expect.poll(link).not.toBe("");
  return link();
}

async function choose(page: Page, password: string, name?: string): Promise<void> {
  if (name !== undefined) await page.getByLabel("Name").fill(name);
  await page.getByLabel("New password").fill(password);
  await page.getByLabel("The same again").fill(password);
  await submit(page, "Save and log in");
}

async function logIn(page: Page, name: string, password: string, stay = false): Promise<void> {
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Password", { exact: true }).fill(password);
  if (stay) await page.getByLabel("Stay signed in").check();
  await submit(page, "Log in");
}

/** The API as a page of ours calls it: with the login cookie, and the password once more. */
async function api(page: Page, method: string, words: string, body: object): Promise<unknown> {
  const [status, text] = await page.evaluate(
    async ([how, what, json]) => {
      const headers = { "content-type": "application/json" };
      const answer = await fetch(`/_skep/api/v1/${what}`, { method: how, headers, body: json });
      return [answer.status, await answer.text()] as const;
    },
    [method, words, JSON.stringify({ ...body, confirm: GOOD })] as const,
  );
  expect(status, text).toBeLessThan(300);
  return text === "" ? undefined : JSON.parse(text);
}

/** Opens an app that talks through a WebSocket, and hands that over. */
async function openLive(page: Page, url: string): Promise<WebSocket> {
  // A warm app may have said everything before the page is loaded.
  const socket = page.waitForEvent("websocket", FIRST_PAINT).then(async (live) => {
    await live.waitForEvent("framereceived", FIRST_PAINT);
    return live;
  });
  await page.goto(url);
  const live = await socket;
  expect(live.isClosed()).toBe(false);
  return live;
}

interface Exchange {
  time: string;
  method: string;
  path: string;
  status: number;
}

/** What the access log has of exchanges that are over. Its last line may be half written. */
function exchanges(server: Server): Exchange[] {
  const lines = server.log().split("\n").slice(0, -1);
  return lines.filter((line) => line.startsWith('{"time":')).map((line) => JSON.parse(line) as Exchange);
}

/** Milliseconds from the answer to `act`, which sends one request of this method, until the socket was closed; often it is closed
 * before. By the server's own clock: on a busy machine the browser, and we, hear of either later. */
async function closes(
  server: Server,
  live: WebSocket,
  method: string,
  act: () => Promise<unknown>,
): Promise<number> {
  const earlier = exchanges(server).length;
  const closed = live.waitForEvent("close", { timeout: 60_000 });
  await act();
  await closed;
  const { pathname } = new URL(live.url());
  const at = (is: (one: Exchange) => boolean) =>
    Date.parse(exchanges(server).slice(earlier).findLast(is)?.time ?? "");
  const took = () =>
    at(({ status, path: place }) => status === 101 && place === pathname) -
    at((one) => one.method === method);
  await expect.poll(took, { message: "both are in the access log" }).not.toBeNaN();
  return Math.max(0, took());
}

const links = (page: Page) => page.getByRole("list", { name: "Apps" }).getByRole("link");
const denied = (page: Page) => page.getByText("this app is not open to you");

async function portal(page: Page, titles: string[]): Promise<void> {
  await page.goto(new URL("/", page.url()).href);
  await expect(links(page)).toHaveCount(titles.length);
  for (const title of titles) await expect(links(page).filter({ hasText: title })).toBeVisible();
}

/** Both colours and both widths, each checked by axe. */
async function looks(page: Page, name: string): Promise<void> {
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    for (const [device, width, height] of [
      ["desktop", 1280, 800],
      ["phone", 360, 740],
    ] as const) {
      await page.setViewportSize({ width, height });
      const beyond = await page.evaluate(
        () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
      );
      expect(beyond, `${name} on a ${device}`).toBe(0);
      await page.screenshot({ path: path.join(SCREENS, `${name}-${device}-${colorScheme}.png`) });
      await accessible(page);
    }
  }
  await page.emulateMedia({ colorScheme: null });
  await page.setViewportSize({ width: 1280, height: 800 });
}

for (const [name, database] of Object.entries(STORES)) {
  test.describe(`on ${name}`, () => {
    test.describe.configure({ mode: "serial" });
    const folder = mkdtempSync(path.join(tmpdir(), "skep-e2e-login-"));
    const contexts: BrowserContext[] = [];
    let server: Server;
    let stopDatabase = () => Promise.resolve();
    let ada: Page;
    let bob: Page;

    async function browserOf(browser: Browser): Promise<Page> {
      const context = await browser.newContext({ baseURL: server.url });
      contexts.push(context);
      return context.newPage();
    }

    test.beforeAll(async () => {
      const file = path.join(folder, "skep.toml");
      writeFileSync(file, config());
      const store = await database?.();
      if (store !== undefined) stopDatabase = () => store.stop();
      server = await serve("--config", file, ...(store === undefined ? [] : ["--store", store.url]));
    });

    test.afterAll(async () => {
      for (const context of contexts) await context.close();
      await server.stop();
      await stopDatabase();
      rmSync(folder, { recursive: true, force: true });
    });

    test("the link on the terminal makes the first administrator, once", async ({ browser }) => {
      ada = await browserOf(browser);
      await ada.goto(server.url);
      await expect(ada).toHaveURL(`${server.url}/_skep/login`);
      const link = await setUpLink(server);
      await ada.goto(link);
      await expect(ada.getByRole("heading")).toHaveText("Set up the first administrator");
      await accessible(ada);
      await choose(ada, "short", "Ada");
      await expect(ada.getByRole("alert")).toHaveText("A password has at least 10 characters.");
      await choose(ada, GOOD);
      await expect(ada).toHaveURL(`${server.url}/`);
      await expect(ada.getByRole("link", { name: "ada" })).toBeVisible();
      await portal(ada, ["Random walks", "Old Faithful"]);

      const late = await browserOf(browser);
      const answer = await late.goto(link);
      expect(answer?.status()).toBe(410);
      await expect(late.getByRole("heading")).toHaveText("This link does not work");
      await server.killAndRestart();
      // The link would be in the same piece of text.
      await expect.poll(() => server.log().match(/^Skep \d/gm)).toHaveLength(2);
      expect(
        server.log().match(/invite\?token=/g),
        "no new link for a server with an administrator",
      ).toHaveLength(1);
      await portal(ada, ["Random walks", "Old Faithful"]);
    });

    test("a user who was invited opens what everybody may, is refused the rest, and is let in by a grant", async ({
      browser,
    }) => {
      const added = await api(ada, "POST", "users", { name: "Bob" });
      const { invitation } = added as { invitation: { path: string; url: string } };
      expect(invitation.url).toBe(server.url + invitation.path);
      bob = await browserOf(browser);
      await bob.goto(invitation.path);
      await expect(bob.getByText("Welcome, bob.")).toBeVisible();
      await choose(bob, OTHER);
      await portal(bob, ["Random walks"]);
      await bob.getByRole("link", { name: "bob" }).click();
      await bob.getByRole("button", { name: "Log out here" }).click();
      await expect(bob.getByRole("status")).toHaveText("You are logged out.");

      // To the very address asked for, through the login.
      const wanted = "/geyser/?bins=7&to=%2F%2Felsewhere.example%2F";
      await bob.goto(wanted);
      await expect(bob).toHaveURL(/\/_skep\/login\?to=/);
      await logIn(bob, "bob", GOOD);
      await expect(bob.getByRole("alert")).toHaveText("That name and that password do not go together.");
      await logIn(bob, " BOB", OTHER);
      await expect(bob).toHaveURL(server.url + wanted);
      await expect(denied(bob)).toBeVisible();
      expect((await bob.reload())?.status()).toBe(403);
      await accessible(bob);

      await api(ada, "POST", "grants", { grantee: "user:bob", gives: "apps.use", scope: "app:shiny-r" });
      await bob.reload();
      await expect(bob.getByText("272 waits in 18 bins")).toBeVisible(FIRST_PAINT);
      await expect(bob.getByText("Hello, bob.")).toBeVisible();
      await portal(bob, ["Random walks", "Old Faithful"]);
    });

    test("taking the grant back closes the open WebSocket within a second", async () => {
      const live = await openLive(bob, "/geyser/");
      const grant = { grantee: "user:bob", gives: "apps.use", scope: "app:shiny-r" };
      const took = await closes(server, live, "DELETE", () => api(ada, "DELETE", "grants", grant));
      test.info().annotations.push({ type: "closed after", description: `${took} ms` });
      expect(took).toBeLessThan(1000);
      expect((await bob.goto("/geyser/"))?.status()).toBe(403);
      await expect(denied(bob)).toBeVisible();
      await portal(bob, ["Random walks"]);
    });

    test("signing out everywhere ends the login on every device at once", async ({ browser }) => {
      const phone = await browserOf(browser);
      await phone.goto("/walks/");
      await logIn(phone, "bob", OTHER, true);
      const live = await openLive(phone, "/walks/");
      await expect(phone.getByText("Hello, bob.")).toBeVisible(FIRST_PAINT);
      const [kept] = (await phone.context().cookies()).filter(({ name }) => name === "__Host-skep");
      expect(kept, "the cookie outlives the browser").toMatchObject({
        secure: true,
        httpOnly: true,
        sameSite: "Lax",
        path: "/",
      });
      expect(kept?.expires).toBeGreaterThan(Date.now() / 1000 + 29 * 86_400);

      await bob.goto("/_skep/account");
      const took = await closes(server, live, "POST", () => submit(bob, "Sign out everywhere"));
      expect(took).toBeLessThan(1000);
      await expect(bob.getByRole("status")).toHaveText("You are signed out everywhere.");
      for (const page of [bob, phone]) {
        await page.goto("/walks/");
        await expect(page).toHaveURL(/\/_skep\/login\?to=/);
      }
      // A page that still runs gets an answer it can understand.
      expect((await phone.request.get("/walks/session")).status()).toBe(401);
      await expect(ada.getByRole("link", { name: "ada" }), "others stay").toBeVisible();
    });

    // What they look like has nothing to do with the store.
    if (database !== undefined) return;

    test("the pages look right on any device and have nothing against anybody", async ({ browser }) => {
      const page = await browserOf(browser);
      await page.goto("/_skep/login?to=/walks/");
      await looks(page, "login");
      await ada.goto("/_skep/account");
      await looks(ada, "account");
      const { invitation } = (await api(ada, "PUT", "users/bob/password", {})) as {
        invitation: { path: string };
      };
      await page.goto(invitation.path);
      await looks(page, "invite");
      await choose(page, OTHER);
      await page.goto("/geyser/");
      await looks(page, "denied");
      await page.goto("/_skep/logout");
      await accessible(page);
      await page.goto("/");
      await accessible(page);
    });
  });
}

test.describe("without JavaScript", () => {
  test.use({ javaScriptEnabled: false });

  test("people set up, log in and out", async ({ page }) => {
    const folder = mkdtempSync(path.join(tmpdir(), "skep-e2e-login-"));
    const file = path.join(folder, "skep.toml");
    writeFileSync(file, config());
    const server = await serve("--config", file);
    try {
      await page.goto(await setUpLink(server));
      await choose(page, GOOD, "ada");
      await expect(links(page)).toHaveCount(2);
      await page.getByRole("link", { name: "ada" }).click();
      await page.getByRole("button", { name: "Log out here" }).click();
      await logIn(page, "ada", GOOD);
      await expect(links(page)).toHaveCount(2);
    } finally {
      await server.stop();
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
