// Starts the real `skep` on a free port with a fresh data folder, and ends it with everything it started.

import { spawn, spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";

export const REPOSITORY = path.resolve(import.meta.dirname, "../..");

const SKEP =
  process.env["SKEP_BIN"] ??
  path.join(path.resolve(REPOSITORY, process.env["CARGO_TARGET_DIR"] ?? "target"), "debug/skep");

export interface Server {
  /** `http://127.0.0.1:<port>`, without a slash at its end. */
  url: string;
  pid: number;
  dataDir: string;
  /** What the server wrote on stderr so far. */
  log(): string;
  /** Runs `skep <words>` against this server's data folder. */
  command(...words: string[]): { status: number | null; stdout: string; stderr: string };
  stop(): Promise<void>;
}

export async function serve(...words: string[]): Promise<Server> {
  if (!existsSync(SKEP)) throw new Error(`${SKEP} is not there; build it with: cargo build --package skep`);
  const dataDir = mkdtempSync(path.join(tmpdir(), "skep-e2e-"));
  const url = `http://127.0.0.1:${await freePort()}`;
  const logFile = path.join(dataDir, "server.log");
  const log = openSync(logFile, "a");
  const child = spawn(
    SKEP,
    ["serve", ...words, "--listen", new URL(url).host, "--data-dir", dataDir, "--stop-apps-on-exit"],
    { cwd: REPOSITORY, stdio: ["ignore", log, log] },
  );
  closeSync(log);
  const ended = new Promise<string>((resolve) => {
    child.on("error", (error) => {
      resolve(error.message);
    });
    child.on("exit", (code, signal) => {
      resolve(`ended with ${code ?? signal ?? "nothing"}`);
    });
  });
  const readLog = () => readFileSync(logFile, "utf8");

  const until = Date.now() + 30_000;
  for (;;) {
    const answer = await fetch(`${url}/_skep/health/ready`).catch(() => undefined);
    if (answer?.ok) break;
    const end = await Promise.race([ended, pause(50).then(() => undefined)]);
    if (end !== undefined || Date.now() > until) {
      child.kill("SIGKILL");
      throw new Error(`skep serve ${end ?? "was not ready after 30 s"}:\n${readLog()}`);
    }
  }

  return {
    url,
    pid: child.pid ?? 0,
    dataDir,
    log: readLog,
    command(...args) {
      const run = spawnSync(SKEP, [...args, "--data-dir", dataDir], { encoding: "utf8", timeout: 60_000 });
      return { status: run.status, stdout: run.stdout, stderr: run.stderr };
    },
    async stop() {
      child.kill("SIGTERM");
      const end = await Promise.race([ended, pause(60_000).then(() => undefined)]);
      if (end === undefined) {
        child.kill("SIGKILL");
        throw new Error(`skep did not end within a minute of SIGTERM:\n${readLog()}`);
      }
      rmSync(dataDir, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.on("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => {
        if (address !== null && typeof address === "object") resolve(address.port);
        else reject(new Error("no free port"));
      });
    });
  });
}
