import { defineConfig } from "@playwright/test";

// The flags keep Chromium from talking to anybody but the server under test.
const args = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export default defineConfig({
  testDir: "specs",
  outputDir: "out/traces",
  globalSetup: "./setup.ts",
  // The first visit to an example builds its environment; two at a time suit a machine with two cores. All times are for a machine
  // that has other things to do: they end what is wrong, and nothing that is right waits for them.
  timeout: 900_000,
  expect: { timeout: 60_000 },
  workers: 2,
  fullyParallel: true,
  // A test that only passes at the second try tells of a defect.
  retries: 0,
  forbidOnly: true,
  reporter: [["list"], ["./report.ts"]],
  use: {
    launchOptions: { executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium", args },
    viewport: { width: 1280, height: 800 },
    locale: "en-GB",
    timezoneId: "UTC",
    trace: "retain-on-failure",
    actionTimeout: 60_000,
  },
});
