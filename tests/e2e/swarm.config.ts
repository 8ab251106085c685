// The same browser for the tests of tests/swarm/real.py, which says where Skep's entrance is.

import { defineConfig } from "@playwright/test";

import base from "./playwright.config.ts";

const launch = base.use?.launchOptions;

export default defineConfig({
  testDir: "swarm",
  outputDir: "out/swarm/traces",
  workers: 1,
  timeout: 420_000,
  expect: base.expect ?? {},
  retries: 0,
  forbidOnly: true,
  reporter: [["list"], ["./report.ts"]],
  use: {
    ...base.use,
    baseURL: "https://apps.test",
    launchOptions: {
      ...launch,
      args: [
        ...(launch?.args ?? []),
        // The proxy before the managers made its certificate itself.
        `--ignore-certificate-errors-spki-list=${process.env["SKEP_PIN"] ?? ""}`,
        `--host-resolver-rules=MAP apps.test ${process.env["SKEP_DOOR"] ?? "~NOTFOUND"}`,
      ],
    },
  },
});
