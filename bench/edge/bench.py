#!/usr/bin/env python3
"""Skep's edge against nginx, HAProxy, Traefik and, where they are installed, Faucet and Shiny Server: one run, rounds interleaved, medians, one result file.

  bench.py [--rounds N] [--seconds S] [--out DIR] [--only skep,nginx] [--http] [--ws]

`make bench` builds what is needed and calls this. The app, the load and the proxy under measurement share this machine's
cores, so requests per second say how proxies compare here, and CPU time per request (from the scheduler's own count of the
proxy's threads) says it apart from the others' share. Everything listens on the loopback address, lives in a temporary
folder, and ends with this script.
"""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from servers import HERE, PEERS, ROOT, WS, Skep, Stage, cpu_ns, fetch, memory_kib

CONNECTIONS = 64


def wrk(server, seconds, cookie):
    """Requests per second, milliseconds at the median and the 99th percentile, and errors, over kept connections."""
    before = cpu_ns(server.process.pid)
    done = subprocess.run(
        ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-H", f"Cookie: {cookie}",
         f"http://127.0.0.1:{server.port}/plain/"], capture_output=True, text=True, check=True).stdout
    cpu = cpu_ns(server.process.pid) - before
    requests = int(re.search(r"(\d+) requests in", done)[1])
    errors = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", done)))
    errors += sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", done)))

    def ms(share):
        value, unit = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", done).groups()
        return float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]

    return {
        "per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", done)[1]), "p50_ms": ms(50), "p99_ms": ms(99),
        "cpu_us": cpu / requests / 1000, "errors": errors,
    }


def ws_args(mode, server, path, cookie, *more):
    return [WS, mode, f"127.0.0.1:{server.port}", f"127.0.0.1:{server.port}", path, cookie, *map(str, more)]


def ws_echo(server, seconds, cookie):
    before = cpu_ns(server.process.pid)
    done = subprocess.run(ws_args("echo", server, server.ws_path, cookie, CONNECTIONS, seconds),
                          capture_output=True, text=True, check=True).stdout
    cpu = cpu_ns(server.process.pid) - before
    messages, p50, p99 = map(int, done.split())
    return {"per_s": messages / seconds, "p50_ms": p50 / 1000, "p99_ms": p99 / 1000, "cpu_us": cpu / messages / 1000,
            "errors": 0}


def holding(mode, server, path, connections, cookie):
    """KiB of the proxy per connection that stands still, and how many of them were lost."""
    before = memory_kib(server.process.pid)["Pss"]
    client = subprocess.Popen(ws_args(mode, server, path, cookie, connections), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline() == "ready\n", f"{server.name}: not all connections came about"
    # What was needed only to get there is given back by then.
    time.sleep(8)
    during = memory_kib(server.process.pid)["Pss"]
    alive = int(client.communicate("\n", timeout=120)[0])
    return {"kib": (during - before) / connections, "connections": connections, "lost": connections - alive}


def middle(runs):
    """Medians of what was measured round by round; errors are summed."""
    whole = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
    return {**whole, "errors": sum(run["errors"] for run in runs), "rounds": [round(run["per_s"]) for run in runs]}


def machine():
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpus": os.cpu_count(), "cpu": model[1] if model else platform.machine(), "kernel": platform.release(),
        "memory_mib": int(memory[1]) // 1024, "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "load_before": os.getloadavg()[0],
    }


def interleaved(servers, rounds, measure):
    """Each round in another order, so that whatever disturbs the machine disturbs all alike."""
    results = {server.name: [] for server in servers}
    for round in range(rounds):
        turn = round % len(servers)
        for server in servers[turn:] + servers[:turn]:
            results[server.name].append(measure(server))
    return {name: middle(runs) for name, runs in results.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--idle", type=int, default=5000, help="idle WebSockets and held requests")
    parser.add_argument("--only", default="", help="names of proxies, with commas between")
    parser.add_argument("--http", action="store_true", help="measure requests only; the result is printed")
    parser.add_argument("--ws", action="store_true", help="measure messages only (or too); the result is printed")
    parser.add_argument("--out", type=Path, help="folder for the result file, whose name is printed; without it, the result is")
    wanted = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stage = Stage()
    try:
        result = run(stage, wanted)
    finally:
        stage.end()
    text = json.dumps(result, indent=1) + "\n"
    # Half a result must not take a whole one's place.
    if wanted.out and not (wanted.http or wanted.ws):
        wanted.out.mkdir(parents=True, exist_ok=True)
        # To the second: no run takes another's place.
        file = wanted.out / f"edge-{result['date'][:19].replace(':', '-')}.json"
        file.write_text(text)
        print(file)
    else:
        print(text)


def run(stage, wanted):
    result = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "machine": machine()}
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    result["commit"] = commit.stdout.strip()
    skep = Skep(stage)
    skep.start()
    time.sleep(2)
    fresh = {"skep": memory_kib(skep.process.pid)}
    plain, echo = skep.app_ports()
    only = wanted.only.split(",") if wanted.only else ["skep", *(peer.name for peer in PEERS)]
    servers = [skep] + [peer(stage, plain, echo) for peer in PEERS]
    servers = [server for server in servers if server.name in only]
    for server in servers:
        if server is not skep:
            server.start()
            time.sleep(1)
            fresh[server.name] = memory_kib(server.process.pid)
    cookie = skep.cookie()
    result["versions"] = {server.name: server.version() for server in servers}
    result["idle_kib"] = fresh
    whole = not (wanted.http or wanted.ws)
    if whole or wanted.http:
        for server in servers:
            wrk(server, 2, cookie)
        say("requests")
        result["http"] = interleaved(servers, wanted.rounds, lambda server: wrk(server, wanted.seconds, cookie))
        say({name: (round(run["per_s"]), run["cpu_us"]) for name, run in result["http"].items()})
    if whole or wanted.ws:
        say("messages")
        measure = lambda server: ws_echo(server, wanted.seconds, skep.login)
        result["websocket"] = interleaved([s for s in servers if s.ws_path], wanted.rounds, measure)
        say({name: (round(run["per_s"]), run["cpu_us"]) for name, run in result["websocket"].items()})
    if not whole:
        return result
    say("idle WebSockets")
    # HAProxy keeps file descriptors back for what else it may need: its limit here is 9,500 connections.
    result["idle_websockets"] = {
        s.name: holding("idle", s, s.ws_path, wanted.idle, skep.login) for s in servers if s.idles}
    say("held requests")
    if skep in servers:
        result["held_requests"] = {"skep": holding("held", skep, "/never/", wanted.idle, skep.login)}
    result["metrics_lines"] = len(fetch(skep.admin, "/metrics")[2].splitlines()) if skep in servers else 0
    log = stage.dir / "skep-access.log"
    result["access_log_lines"] = sum(1 for _ in open(log, "rb"))
    result["load_after"] = os.getloadavg()[0]
    return result


def say(what):
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    assert HERE == Path(__file__).resolve().parent
    main()
