// The portal: the list of apps, with and without scripts, light and dark, wide and narrow.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server as HttpServer } from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";

import { expect, type Page, test } from "@playwright/test";

import { accessible } from "../axe.ts";
import { EXAMPLES } from "../examples.ts";
import { serve, type Server } from "../server.ts";
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

test.describe("with sections and logos", () => {
  let folder: string;
  let images: ImageServer;
  let server: Server;

  test.beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "skep-portal-"));
    images = await ImageServer.start();
    for (const name of ["tides", "weather", "genes", "letters"]) {
      mkdirSync(path.join(folder, "apps", name), { recursive: true });
      writeFileSync(path.join(folder, "apps", name, "index.html"), `<!doctype html><title>${name}</title>`);
    }
    writeFileSync(path.join(folder, "wide.svg"), picture(300, 80, "#2d6f8e"));
    writeFileSync(path.join(folder, "secret.svg"), "not an image at all");
    writeFileSync(path.join(folder, "skep.toml"), portalConfig(folder, images.url));
    server = await serve("--config", path.join(folder, "skep.toml"));
  });

  test.afterAll(async () => {
    await server.stop();
    await images.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const shown = (page: Page, heading: string) =>
    page.getByRole("list", { name: heading }).getByRole("link").filter({ visible: true });

  /** The portal has this heading some time. Until then it may have none: the file may be read while it is written. */
  async function becomes(page: Page, heading: string): Promise<void> {
    await expect
      .poll(async () => {
        await page.goto(server.url);
        return (await page.getByRole("heading", { level: 2 }).allTextContents())[0];
      })
      .toBe(heading);
  }

  test("each section has its heading, in the order of the config", async ({ page }) => {
    await page.goto(server.url);
    await expect(page).toHaveTitle("The lab's apps");
    await expect(page.getByRole("heading", { level: 2 })).toHaveText(["Sea & sky", "Life", "Other apps"]);
    await expect(shown(page, "Sea & sky")).toHaveCount(2);
    await expect(shown(page, "Other apps")).toHaveCount(1);
    // What the config says is in force as soon as it is written.
    const text = portalConfig(folder, images.url).replace("Sea & sky", "Water and air");
    writeFileSync(path.join(folder, "skep.toml"), text);
    await becomes(page, "Water and air");
    writeFileSync(path.join(folder, "skep.toml"), portalConfig(folder, images.url));
    await becomes(page, "Sea & sky");
  });

  test("the search hides what is empty, and the arrows walk from one section to the next", async ({
    page,
  }) => {
    await page.goto(server.url);
    await page.getByRole("searchbox").focus();
    await page.keyboard.press("ArrowDown");
    await expect(page.getByRole("link", { name: "tides" })).toBeFocused();
    await page.keyboard.press("ArrowDown");
    await expect(page.getByRole("link", { name: "genes" })).toBeFocused();
    await page.keyboard.press("ArrowUp");
    await expect(page.getByRole("link", { name: "tides" })).toBeFocused();
    await page.keyboard.press("/");
    await page.keyboard.type("life");
    await expect(page.getByRole("heading", { level: 2 }).filter({ visible: true })).toHaveText(["Life"]);
    await expect(page.getByRole("status")).toHaveText("1 of 4 apps");
    await page.keyboard.press("Escape");
    await expect(page.getByRole("heading", { level: 2 }).filter({ visible: true })).toHaveCount(3);
  });

  test("logos come from here and from where the config says, and from nowhere else", async ({ page }) => {
    images.asked.length = 0;
    await page.goto(server.url);
    const drawn = (name: string) =>
      page
        .getByRole("link", { name })
        .locator("img")
        .evaluate((image: HTMLImageElement) => image.complete && image.naturalWidth > 0);
    await expect.poll(() => drawn("tides")).toBe(true);
    await expect.poll(() => drawn("weather")).toBe(true);
    expect(images.asked).toEqual([{ path: "/sun.svg", referer: undefined }]);
    // What is no image is not sent; the initials stand for it.
    await expect(page.getByRole("link", { name: "genes" }).locator("img")).toHaveCount(0);
    await expect(page.getByRole("link", { name: "genes" }).locator(".tile")).toHaveText("G");
    const other = images.url.replace("127.0.0.1", "localhost");
    const fromElsewhere = await page.evaluate(
      (url) =>
        new Promise((resolve) => {
          const image = new Image();
          image.onload = () => {
            resolve("shown");
          };
          image.onerror = () => {
            resolve("refused");
          };
          image.src = url;
        }),
      `${other}/sun.svg`,
    );
    expect(fromElsewhere).toBe("refused");
    // Opened on its own, an SVG runs nothing.
    const own = await page.request.get(`${server.url}/_skep/icons/tides`);
    expect(own.headers()["content-type"]).toBe("image/svg+xml");
    expect(own.headers()["content-security-policy"]).toContain("sandbox");
  });

  for (const [name, width, height] of [
    ["desktop", 1280, 800],
    ["phone", 390, 844],
  ] as const) {
    for (const colorScheme of ["light", "dark"] as const) {
      test(`is fit for everybody: ${name}, ${colorScheme}`, async ({ page }) => {
        await page.setViewportSize({ width, height });
        await page.emulateMedia({ colorScheme });
        await page.goto(server.url);
        const beyond = await page.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        );
        expect(beyond).toBe(0);
        await accessible(page);
        await page.screenshot({ path: path.join(SCREENS, `sections-${name}-${colorScheme}.png`) });
      });
    }
  }
});

/** A drawing with a circle in it. */
function picture(width: number, height: number, colour: string): string {
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">
<rect width="${width}" height="${height}" rx="12" fill="${colour}"/>
<circle cx="${height / 2}" cy="${height / 2}" r="${height / 3}" fill="#fff"/></svg>`;
}

function portalConfig(folder: string, imagesUrl: string): string {
  return `
[[sites]]
path = "apps"

[portal]
title = "The lab's apps"
logo = "wide.svg"
message = "On Sunday morning everything stands still for an hour."
support = "help@lab.example"

[portal.sections.sea]
title = "Sea & sky"

[portal.sections.life]
title = "Life"

[apps.tides]
section = "sea"
icon = "${folder}/wide.svg"
description = "When the water comes and goes, by harbour."

[apps.weather]
section = "sea"
icon = "${imagesUrl}/sun.svg"

[apps.genes]
section = "life"
icon = "${folder}/secret.svg"
`;
}

/** Another server, with one image. */
class ImageServer {
  readonly asked: { path: string | undefined; referer: string | undefined }[] = [];

  private constructor(
    private readonly server: HttpServer,
    readonly url: string,
  ) {
    server.on("request", (request, response) => {
      this.asked.push({ path: request.url, referer: request.headers.referer });
      response.writeHead(200, { "content-type": "image/svg+xml" }).end(picture(64, 64, "#d9932b"));
    });
  }

  static async start(): Promise<ImageServer> {
    const server = createServer();
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("no port");
    return new ImageServer(server, `http://127.0.0.1:${address.port}`);
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }
}
