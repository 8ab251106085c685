// A private PostgreSQL from the Debian package, on a Unix socket in a temporary folder, without TCP.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir, userInfo } from "node:os";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";

const VERSIONS = "/usr/lib/postgresql";

export interface Database {
  /** `postgres://…`, as `skep serve --store` takes it. */
  url: string;
  stop(): Promise<void>;
}

export async function postgres(): Promise<Database> {
  const bin = programs();
  const folder = mkdtempSync(path.join(tmpdir(), "skep-e2e-pg-"));
  const data = path.join(folder, "data");
  // It refuses to run as root.
  const drop =
    userInfo().uid === 0 ? ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] : [];
  chmodSync(folder, 0o700);
  if (drop.length > 0) run(["chown", "postgres", folder]);
  run([...drop, path.join(bin, "initdb"), "-A", "trust", "-U", "postgres", "--no-sync", "-D", data]);
  const [program = "", ...words] = [
    ...drop,
    path.join(bin, "postgres"),
    ...["-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
  ];
  const server = spawn(program, words, { stdio: "ignore" });
  const ended = new Promise((resolve) => server.on("exit", resolve));
  await ready(server, path.join(bin, "pg_isready"), folder);
  return {
    url: `postgres://postgres@${encodeURIComponent(folder)}/postgres`,
    async stop() {
      server.kill("SIGINT");
      await ended;
      rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    },
  };
}

/** Its socket is there before it takes anybody in. */
async function ready(server: ChildProcess, asking: string, folder: string): Promise<void> {
  const until = Date.now() + 120_000;
  while (spawnSync(asking, ["-q", "-h", folder], { stdio: "ignore" }).status !== 0) {
    if (server.exitCode !== null || Date.now() > until) throw new Error("PostgreSQL did not start");
    await pause(50);
  }
}

/** The newest installed version. */
function programs(): string {
  const versions = existsSync(VERSIONS) ? readdirSync(VERSIONS) : [];
  const newest = versions.sort((a, b) => Number(b) - Number(a))[0];
  if (newest === undefined) throw new Error("PostgreSQL is not installed: `make setup` does that");
  return path.join(VERSIONS, newest, "bin");
}

function run([program = "", ...words]: string[]): void {
  const { status, stderr, error } = spawnSync(program, words, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} failed: ${error?.message ?? stderr}`);
}
