// One server with all examples for the whole run.

import { mkdirSync, rmSync } from "node:fs";
import path from "node:path";

import { serve } from "./server.ts";

const OUT = path.join(import.meta.dirname, "out");

export default async function setup(): Promise<() => Promise<void>> {
  rmSync(OUT, { recursive: true, force: true });
  mkdirSync(path.join(OUT, "screens"), { recursive: true });
  const server = await serve("examples/apps", "--config", "tests/e2e/skep.toml");
  process.env["SKEP_URL"] = server.url;
  return async () => {
    await server.stop();
  };
}
