// Watches everything a page does on the network, so that a test can say: nothing failed, nothing left this machine, and
// the live transport carried something.

import { expect, type Page, type Response } from "@playwright/test";

/** How an app's page hears from its server. */
export type Transport = "websocket" | "sse" | "post" | "get" | "none";

export class Witness {
  private readonly failures: string[] = [];
  private readonly strangers: string[] = [];
  private readonly strays: string[] = [];
  private readonly seen: Record<Transport, number> = { websocket: 0, sse: 0, post: 0, get: 0, none: 0 };
  private readonly origin: string;

  constructor(
    page: Page,
    base: string,
    private readonly prefix: string,
    private readonly forgiven: RegExp[] = [],
  ) {
    this.origin = new URL(base).origin;
    page.on("request", (request) => {
      this.place(request.url());
    });
    page.on("requestfailed", (request) => {
      const why = request.failure()?.errorText ?? "";
      // What a navigation cuts off was not wanted any more.
      if (why !== "net::ERR_ABORTED") this.fail(`${request.method()} ${request.url()}: ${why}`);
    });
    page.on("response", (response) => {
      this.answered(response);
    });
    page.on("pageerror", (error) => {
      this.fail(`script error: ${error.message}`);
    });
    page.on("console", (message) => {
      // Failed requests are seen above, with their status.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
        this.fail(`console: ${message.text()}`);
      }
    });
    page.on("websocket", (socket) => {
      this.place(socket.url().replace(/^ws/, "http"));
      let opened = false;
      socket.on("framereceived", () => {
        if (!opened) this.seen.websocket += 1;
        opened = true;
      });
      socket.on("socketerror", (error) => {
        this.fail(`WebSocket ${socket.url()}: ${error}`);
      });
    });
  }

  /** Nothing failed, and every request stayed with this server and under the app's own path. */
  calm(): void {
    expect.soft(this.failures, "failed requests and script errors").toEqual([]);
    expect.soft(this.strangers, "requests to other servers").toEqual([]);
    expect.soft(this.strays, `requests outside ${this.prefix}`).toEqual([]);
    expect(this.failures.length + this.strangers.length + this.strays.length).toBe(0);
  }

  /** The transport was used under the app's path. */
  async carried(transport: Transport): Promise<void> {
    await expect
      .poll(() => this.seen[transport], { message: `${transport} under ${this.prefix}` })
      .toBeGreaterThan(0);
  }

  private place(url: string): void {
    if (/^(data|blob|about):/.test(url)) return;
    const { origin, pathname } = new URL(url);
    if (origin !== this.origin) this.strangers.push(url);
    else if (!pathname.startsWith(this.prefix) && !pathname.startsWith("/_skep/")) this.strays.push(pathname);
  }

  private answered(response: Response): void {
    const request = response.request();
    const { origin, pathname } = new URL(response.url());
    if (origin !== this.origin) return;
    const status = response.status();
    // The launch page answers a page load with 503 on purpose; whether the app then opens is what tests wait for.
    const launching = status === 503 && request.isNavigationRequest();
    if (status >= 400 && !launching) this.fail(`${request.method()} ${pathname}: ${status}`);
    if (!pathname.startsWith(this.prefix) || status >= 400) return;
    if (request.method() === "POST") this.seen.post += 1;
    if (request.method() === "GET" && request.isNavigationRequest()) this.seen.get += 1;
    if (response.headers()["content-type"]?.startsWith("text/event-stream")) this.seen.sse += 1;
  }

  private fail(what: string): void {
    if (!this.forgiven.some((pattern) => pattern.test(what))) this.failures.push(what);
  }
}
