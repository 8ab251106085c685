// Two people log in to a Skep on a Swarm, and both open each app of the real image at the same time: the launch page, the app, an
// input that is answered, and the same once more after loading it anew. That each has a container is looked up by
// tests/swarm/real.py, which runs this.

import { writeFileSync } from "node:fs";
import path from "node:path";

import { type Browser, type BrowserContext, expect, type Locator, type Page, test } from "@playwright/test";

import { type Example, EXAMPLES } from "../examples.ts";
import { submit } from "../forms.ts";
import { Witness } from "../witness.ts";

interface Person {
  name: string;
  password: string;
}

interface Seen {
  app: string;
  person: string;
  /** Milliseconds from the click on the portal until the app's first result. */
  usable: number;
  /** The same from loading the page anew. */
  again: number;
}

const PEOPLE = JSON.parse(process.env["SKEP_PEOPLE"] ?? "[]") as Person[];
const SEEN = process.env["SKEP_SEEN"] ?? "out/swarm";
const COLD = { timeout: 180_000 };

/** What the app shows once it has computed something. */
const RESULTS: { id: string; title: string; result: (page: Page) => Locator }[] = [
  { id: "shiny-r", title: "Old Faithful", result: (page) => page.getByText("272 waits in 18 bins") },
  { id: "streamlit", title: "Nest egg", result: (page) => page.getByTestId("stMetricValue").first() },
  {
    id: "dash",
    title: "Flower finder",
    result: (page) => page.getByText("of 150 flowers lie beyond"),
  },
];

const contexts: BrowserContext[] = [];

test.afterEach(async () => {
  for (const context of contexts.splice(0)) await context.close();
});

async function logIn(browser: Browser, person: Person): Promise<Page> {
  const context = await browser.newContext();
  contexts.push(context);
  const page = await context.newPage();
  await page.goto("/_skep/login?to=/");
  await page.getByLabel("Name").fill(person.name);
  await page.getByLabel("Password", { exact: true }).fill(person.password);
  await submit(page, "Log in");
  await expect(page.getByRole("link", { name: person.name })).toBeVisible();
  return page;
}

function example(id: string): Example {
  const found = EXAMPLES.find((one) => one.id === id);
  if (found === undefined) throw new Error(`there is no example ${id}`);
  return found;
}

for (const { id, title, result } of RESULTS) {
  async function visit(page: Page, person: Person): Promise<Seen> {
    const { transport, forgiven, ...app } = example(id);
    const witness = new Witness(page, page.url(), `/${id}/`, forgiven);
    const picture = (what: string) =>
      page.screenshot({ path: path.join(SEEN, `${id}-${person.name}-${what}.png`) });
    const answered = page.waitForResponse((response) => response.request().isNavigationRequest());

    const clicked = performance.now();
    await page.getByRole("list", { name: "Apps" }).getByRole("link").filter({ hasText: title }).click();
    expect((await answered).status(), "the first visit waits").toBe(503);
    // The app may be there already where the browser was slow.
    await expect(page.locator("[data-launch]").or(result(page)).first()).toBeVisible(COLD);
    await picture("launch");
    await expect(result(page)).toBeVisible(COLD);
    const usable = Math.round(performance.now() - clicked);
    if (id === "shiny-r") await expect(page.getByText(`Hello, ${person.name}.`)).toBeVisible();
    await app.use(page);
    await picture("used");

    const anew = performance.now();
    expect((await page.reload())?.status(), "the app is there at once").toBe(200);
    await expect(result(page)).toBeVisible(COLD);
    const again = Math.round(performance.now() - anew);
    await app.use(page);
    if (transport !== "none") await witness.carried(transport);
    witness.calm();
    return { app: id, person: person.name, usable, again };
  }

  test(`${id}: two people, an app each`, async ({ browser }) => {
    expect(PEOPLE).toHaveLength(2);
    const pages: [Page, Person][] = [];
    for (const person of PEOPLE) pages.push([await logIn(browser, person), person]);
    const seen = await Promise.all(pages.map(([page, person]) => visit(page, person)));
    writeFileSync(path.join(SEEN, `${id}.json`), JSON.stringify(seen));
  });
}
