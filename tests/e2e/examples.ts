// What a visitor does with each example, and what must come of it.

import { expect, type Locator, type Page } from "@playwright/test";

import type { Transport } from "./witness.ts";

export interface Example {
  id: string;
  transport: Transport;
  /** Clicks or types, and sees the output change. */
  use(page: Page): Promise<void>;
  /** Failures that are a packaging defect of the framework itself and change nothing a visitor sees. */
  forgiven?: RegExp[];
}

/** Starting and loading a framework on a busy machine; the environment is built by then. */
const FIRST_PAINT = 240_000;

async function press(target: Locator, key: string, times: number): Promise<void> {
  await target.focus();
  for (let count = 0; count < times; count += 1) await target.press(key);
}

/** The text is there, `act` is done, and then it is another one, still of the same form. */
async function changes(text: Locator, act: () => Promise<void>): Promise<void> {
  await expect(text).toBeVisible({ timeout: FIRST_PAINT });
  const before = await text.innerText();
  await act();
  await expect(text).not.toHaveText(before);
  await expect(text).toBeVisible();
}

export const EXAMPLES: Example[] = [
  {
    id: "shiny-r",
    transport: "websocket",
    // Debian's package lacks this script, which only date sliders need.
    forgiven: [/strftime-min\.js: 404/],
    async use(page) {
      await expect(page.getByText("272 waits in 18 bins")).toBeVisible({ timeout: FIRST_PAINT });
      await page.getByLabel("short ones").check();
      await expect(page.getByText("97 waits in 18 bins")).toBeVisible();
      await expect(page.locator("#plot img")).toBeVisible();
    },
  },
  {
    id: "rmarkdown",
    transport: "websocket",
    // Debian's package lacks these, which only Internet Explorer needs.
    forgiven: [/html5shiv\.min\.js: 404/, /respond\.min\.js: 404/],
    async use(page) {
      await expect(page.getByText("Weight explains 75 %")).toBeVisible({ timeout: FIRST_PAINT });
      await page.getByLabel("Explain consumption by").selectOption("Power");
      await expect(page.getByText("Power explains 60 %")).toBeVisible();
    },
  },
  {
    id: "shiny-python",
    transport: "websocket",
    async use(page) {
      await changes(page.getByText(/\d+ walkers, \d+ steps/), async () => {
        await page.locator(".irs-line").first().click();
      });
      await expect(page.locator("#paths img")).toBeVisible();
    },
  },
  {
    id: "streamlit",
    transport: "websocket",
    async use(page) {
      await changes(page.getByTestId("stMetricValue").first(), async () => {
        await press(page.getByRole("slider").first(), "ArrowRight", 2);
      });
      await expect(page.getByTestId("stVegaLiteChart").locator("canvas, svg").first()).toBeVisible();
    },
  },
  {
    id: "dash",
    transport: "post",
    async use(page) {
      await expect(page.getByText("of 150 flowers lie beyond")).toBeVisible({ timeout: FIRST_PAINT });
      await page.getByText("poppy").first().click();
      await expect(page.getByText("of 50 flowers lie beyond")).toBeVisible();
      await expect(page.locator(".js-plotly-plot .main-svg").first()).toBeVisible();
    },
  },
  {
    id: "gradio",
    transport: "sse",
    async use(page) {
      await page.getByRole("button", { name: "Encipher" }).click({ timeout: FIRST_PAINT });
      await expect(page.getByLabel("Cipher", { exact: true })).toHaveValue(/^Phhw ph dw/);
    },
  },
  {
    id: "panel",
    transport: "websocket",
    async use(page) {
      await changes(page.getByText(/It passes the middle \d+ times/), async () => {
        await press(page.locator(".noUi-handle").first(), "ArrowRight", 8);
      });
      await expect(page.locator("canvas").first()).toBeVisible();
    },
  },
  {
    id: "bokeh",
    transport: "websocket",
    async use(page) {
      await changes(page.getByText(/They beat [\d.]+ times a second/), async () => {
        await press(page.locator(".noUi-handle").first(), "ArrowRight", 1);
      });
      await expect(page.locator("canvas").first()).toBeVisible();
    },
  },
  {
    id: "voila",
    transport: "websocket",
    async use(page) {
      await changes(page.getByText(/After half an hour: [\d.]+ °C/), async () => {
        await press(page.getByRole("slider").last(), "ArrowRight", 3);
      });
      await expect(page.getByAltText("Temperature by minute")).toBeVisible();
    },
  },
  {
    id: "marimo",
    transport: "websocket",
    async use(page) {
      await changes(page.getByText(/\d+ primes between 1 and \d+/), async () => {
        await press(page.getByRole("slider").first(), "ArrowRight", 2);
      });
    },
  },
  {
    id: "nicegui",
    transport: "websocket",
    async use(page) {
      const bee = page.getByRole("button", { name: "A bee flies in" });
      await expect(bee).toBeVisible({ timeout: FIRST_PAINT });
      // What is pressed before the page has met its server is lost.
      const met = () =>
        page.evaluate(() => (window as unknown as { did_handshake?: boolean }).did_handshake === true);
      await expect.poll(met).toBe(true);
      await bee.click();
      await expect(page.getByText("1 more at home")).toBeVisible();
    },
  },
  {
    id: "solara",
    transport: "websocket",
    async use(page) {
      await expect(page.getByText("9 foxes at the start")).toBeVisible({ timeout: FIRST_PAINT });
      await page.getByRole("button", { name: "Twice the foxes" }).click();
      await expect(page.getByText("18 foxes at the start")).toBeVisible();
    },
  },
  {
    id: "flask",
    transport: "post",
    async use(page) {
      await page.getByLabel("Your name").fill("Maja", { timeout: FIRST_PAINT });
      await page.getByLabel("A few words").fill("The honey is sweet.");
      await page.getByRole("button", { name: "Sign" }).click();
      await expect(page.getByText("The honey is sweet.")).toBeVisible();
    },
  },
  {
    id: "fastapi",
    transport: "websocket",
    async use(page) {
      const die = page.getByRole("button", { name: "Throw" });
      await die.click({ timeout: FIRST_PAINT });
      await die.click();
      await expect(page.locator("#throws li")).toHaveCount(2);
      // The count comes as a server-sent event, beside the WebSocket.
      await expect(page.locator("#count")).toHaveText("2");
    },
  },
  {
    id: "static",
    transport: "none",
    async use(page) {
      await press(page.getByLabel("Wheel"), "ArrowRight", 3);
      await expect(page.getByText("A wheel of 41 closes the curve after 41 turns")).toBeVisible();
    },
  },
  {
    id: "command",
    transport: "get",
    async use(page) {
      await page.getByLabel("Date").fill("2026-12-24", { timeout: FIRST_PAINT });
      await page.getByRole("button", { name: "Look up" }).click();
      await expect(page.getByText("On 2026-12-24: full moon")).toBeVisible();
    },
  },
];
