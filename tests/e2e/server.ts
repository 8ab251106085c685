// Starts the real `skep` on a free port with a fresh data folder, and ends it with everything it started.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomInt } from "node:crypto";
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";

/** What servers said, for whoever looks into a failure. */
const LOGS = path.join(import.meta.dirname, "out/logs");

export const REPOSITORY = path.resolve(import.meta.dirname, "../..");

const SKEP =
  process.env["SKEP_BIN"] ??
  path.join(path.resolve(REPOSITORY, process.env["CARGO_TARGET_DIR"] ?? "target"), "debug/skep");

export interface Server {
  /** `http://127.0.0.1:<port>`, without a slash at its end. */
  url: string;
  /** What it has said on stderr so far, over all its runs. */
  log(): string;
  /** Runs `skep <words>` against this server's data folder. */
  command(...words: string[]): { status: number | null; stdout: string; stderr: string };
  /** `kill -9`, then a new server at the same address with the same data. */
  killAndRestart(): Promise<void>;
  /** Ends the server and every app, and keeps its log under `out/`. */
  stop(): Promise<void>;
}

export async function serve(...words: string[]): Promise<Server> {
  if (!existsSync(SKEP)) throw new Error(`${SKEP} is not there; build it with: cargo build --package skep`);
  const dataDir = mkdtempSync(path.join(tmpdir(), "skep-e2e-"));
  const url = `http://127.0.0.1:${await freePort()}`;
  const logFile = path.join(dataDir, "server.log");
  const start = () =>
    Process.start(
      ["serve", ...words, "--listen", new URL(url).host, "--data-dir", dataDir, "--stop-apps-on-exit"],
      logFile,
      `${url}/_skep/health/ready`,
    );
  let server = await start();
  return {
    url,
    log: () => readFileSync(logFile, "utf8"),
    command(...args) {
      const run = spawnSync(SKEP, [...args, "--data-dir", dataDir], { encoding: "utf8", timeout: 120_000 });
      return { status: run.status, stdout: run.stdout, stderr: run.stderr };
    },
    async killAndRestart() {
      await server.end("SIGKILL");
      server = await start();
    },
    async stop() {
      await server.end("SIGTERM");
      mkdirSync(LOGS, { recursive: true });
      copyFileSync(logFile, path.join(LOGS, `${path.basename(dataDir)}.log`));
      rmSync(dataDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    },
  };
}

/** One run of the program. */
class Process {
  private constructor(
    private readonly child: ChildProcess,
    /** How it ended, once it has. */
    private readonly ended: Promise<string>,
    private readonly logFile: string,
  ) {}

  /** Answers when `health` does. */
  static async start(words: string[], logFile: string, health: string): Promise<Process> {
    const log = openSync(logFile, "a");
    const child = spawn(SKEP, words, { cwd: REPOSITORY, stdio: ["ignore", log, log] });
    closeSync(log);
    const ended = new Promise<string>((resolve) => {
      child.on("error", (error) => {
        resolve(error.message);
      });
      child.on("exit", (code, signal) => {
        resolve(`ended with ${code ?? signal ?? "nothing"}`);
      });
    });
    const process = new Process(child, ended, logFile);
    const until = Date.now() + 120_000;
    for (;;) {
      const answer = await fetch(health, { signal: AbortSignal.timeout(10_000) }).catch(() => undefined);
      if (answer?.ok) return process;
      const end = await Promise.race([ended, pause(50).then(() => undefined)]);
      if (end !== undefined || Date.now() > until) {
        child.kill("SIGKILL");
        throw new Error(`skep serve ${end ?? "was not ready after two minutes"}:\n${process.log()}`);
      }
    }
  }

  async end(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    this.child.kill(signal);
    const end = await Promise.race([this.ended, pause(180_000).then(() => undefined)]);
    if (end !== undefined) return;
    this.child.kill("SIGKILL");
    throw new Error(`skep did not end within three minutes of ${signal}:\n${this.log()}`);
  }

  private log(): string {
    return readFileSync(this.logFile, "utf8");
  }
}

/** Below the ports that the kernel hands out to connections, and those that apps get: nobody takes it until the server has it, or
 * while it is killed and started again. Even and odd: two workers never try the same. */
async function freePort(): Promise<number> {
  const odd = Number(process.env["TEST_PARALLEL_INDEX"] ?? 0) % 2;
  for (let tries = 0; tries < 200; tries += 1) {
    const port = 2 * randomInt(5_500, 10_000) + odd;
    const free = await new Promise<boolean>((resolve) => {
      const probe = createServer();
      probe.on("error", () => {
        resolve(false);
      });
      probe.listen(port, "127.0.0.1", () => {
        probe.close(() => {
          resolve(true);
        });
      });
    });
    if (free) return port;
  }
  throw new Error("no free port");
}
