#!/usr/bin/env python3
"""Measures ballot against the 2016 design (peer/), on one machine, interleaved, and writes down what it saw.

  bench.py [--rounds N] [--seconds S] [--drain N] [--out DIR]    the comparison
  bench.py --viewers 10000                                        what watching the results costs
  bench.py --faults VOTES                                         the checker's judgement of the peer under kill -9

Needs PostgreSQL, Redis, wrk and the packages of peer/requirements.txt (it makes an environment for them); `make bench-ballot`
builds ballot and calls this. Everything listens on the loopback address, lives in a temporary folder, and ends with this
script. CPU is user + system time of the processes that serve (front and, for the peer, its Redis), from /proc.
"""

import argparse
import datetime
import json
import os
import platform
import random
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BALLOT = Path(os.environ.get("BALLOT", ROOT / "target/release/ballot"))
TICK = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Stage:
    """The processes of one run. They die with this script."""

    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="ballot-bench-"))
        self.dir.chmod(0o755)
        self.running = []

    def spawn(self, args, name, env=None, cwd=None):
        log = open(self.dir / f"{name}.log", "ab")
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *map(str, args)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}, cwd=cwd or self.dir,
        )
        self.running.append(process)
        return process

    def end(self):
        for process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
        for process in self.running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"waited in vain: {what}")


def answers(url):
    with urllib.request.urlopen(url, timeout=2) as answer:
        return answer.status == 200


def family(pid):
    """A process and its descendants."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
            except OSError:
                pass
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total / TICK


def memory_mib(pids):
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            pass
    return total / 1024


class Postgres:
    def __init__(self, stage):
        self.stage, self.port = stage, free_port()
        self.bin = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self.data = stage.dir / "pg"
        self.data.mkdir()
        self.user = []
        if os.geteuid() == 0:
            self.user = ["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
            shutil.chown(self.data, "postgres", "postgres")
        subprocess.run(
            ["setpriv", *self.user, self.bin / "initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "-D", self.data],
            check=True, stdout=subprocess.DEVNULL, cwd=self.data,
        )
        self.start()

    process = None

    def start(self):
        def answers():
            # Children of a killed server hold its memory for a moment; until then it refuses to start.
            if self.process is None or self.process.poll() is not None:
                self.process = self.stage.spawn(
                    [*self.user, self.bin / "postgres", "-D", self.data, "-p", self.port, "-k", "", "-c",
                     "listen_addresses=127.0.0.1"], "postgres", cwd=self.data)
                time.sleep(0.2)
            return self.ask("postgres", "select 1") == "1"

        until("PostgreSQL answers", answers)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask(self, database, text):
        done = subprocess.run(
            ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database, "-Atc", text],
            capture_output=True, text=True)
        return done.stdout.strip()

    def create(self, name):
        self.ask("postgres", f"create database {name}")
        return f"postgres://postgres@127.0.0.1:{self.port}/{name}"


def fronts_of(system):
    return ",".join(f"127.0.0.1:{port}" for port in system.ports)


class Ballot:
    """Fronts, and a worker when asked for."""

    name = "ballot"

    def __init__(self, stage, postgres, database, fronts=1):
        self.stage, self.store = stage, postgres.create(database)
        self.ports = [free_port() for _ in range(fronts)]
        self.port = self.ports[0]
        self.postgres, self.database = postgres, database
        self.key = stage.dir / "key"
        self.url = f"http://127.0.0.1:{self.port}"
        polls = stage.dir / "polls.toml"
        polls.write_text('[[polls]]\nid = "pets"\nquestion = "Cats or dogs?"\noptions = ["cats", "dogs"]\n')
        self.polls = polls
        self.front = []
        for i, port in enumerate(self.ports):
            name = f"front-{database}-{i}"
            self.front.append(stage.spawn(
                [BALLOT, "front", "--data-dir", stage.dir / name, "--key-file", self.key, "--listen", f"127.0.0.1:{port}",
                 "--polls", polls, "--prefix-rate", "0", "--voter-rate", "0", "--name", name], name))
            # The first of them makes the key.
            until("the key is there", self.key.exists)
        self.start_worker()
        until("the fronts are ready", lambda: all(answers(f"http://127.0.0.1:{port}/health") for port in self.ports))
        self.stop_worker()

    def start_worker(self):
        self.worker = self.stage.spawn(
            [BALLOT, "worker", "--key-file", self.key, "--store", self.store, "--fronts", fronts_of(self),
             "--polls", self.polls], f"worker-{self.database}")

    def stop_worker(self):
        self.worker.kill()
        self.worker.wait()

    def serving(self):
        return [pid for process in self.front for pid in family(process.pid)]

    def requests(self, path):
        """Requests for wrk: real cookies, as browsers hold them."""
        lines = []
        for _ in range(2_000):
            with urllib.request.urlopen(self.url + "/polls/pets") as page:
                lines.append(page.headers["set-cookie"].split(";")[0])
        path.write_text("\n".join(lines))
        return {"WRK_PATH": "/api/v1/polls/pets/ballots", "WRK_KIND": "application/json",
                "WRK_BODIES": '{"option":"cats"}|{"option":"dogs"}', "WRK_STATUS": "201"}

    def merged(self):
        return int(self.postgres.ask(self.database, "select coalesce(sum(position), 0) from logs") or 0)


class Peer:
    name = "peer"

    def __init__(self, stage, postgres, database, python, fronts=1):
        self.stage, self.store = stage, postgres.create(database)
        self.postgres, self.database, self.python = postgres, database, python
        self.redis_ports = [free_port() for _ in range(fronts)]
        self.redis = [self.start_redis(i) for i in range(fronts)]
        self.ports = [free_port() for _ in range(fronts)]
        self.port = self.ports[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.front = [self.start_front(i) for i in range(fronts)]
        until("the peer is ready", lambda: all(answers(f"http://127.0.0.1:{p}/") for p in self.ports))
        self.start_worker()
        until("its table is there", lambda: postgres.ask(database, "select count(*) from votes") != "")
        self.stop_worker()

    def start_redis(self, i):
        folder = self.stage.dir / f"redis-{self.database}-{i}"
        folder.mkdir(exist_ok=True)
        return self.stage.spawn(
            ["redis-server", "--port", self.redis_ports[i], "--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes",
             "--appendfsync", "always", "--save", ""], f"redis-{self.database}-{i}")

    def start_front(self, i):
        return self.stage.spawn(
            [self.python, "-m", "gunicorn", "web:app", "-b", f"127.0.0.1:{self.ports[i]}", "-w", "2", "-k", "gthread",
             "--threads", "8", "--keep-alive", "30", "--backlog", "2048", "--log-level", "warning"],
            f"peer-{self.database}-{i}", env={"PEER_REDIS": f"redis://127.0.0.1:{self.redis_ports[i]}"}, cwd=HERE / "peer")

    def start_worker(self, pause="0.005"):
        queues = ",".join(f"redis://127.0.0.1:{p}" for p in self.redis_ports)
        self.worker = self.stage.spawn(
            [self.python, "worker.py"], f"worker-{self.database}", cwd=HERE / "peer",
            env={"PEER_REDIS": queues, "PEER_PAUSE": pause,
                 "PEER_DATABASE": f"host=127.0.0.1 port={self.postgres.port} user=postgres dbname={self.database}"})

    def stop_worker(self):
        self.worker.kill()
        self.worker.wait()

    def serving(self):
        return [pid for process in (*self.front, *self.redis) for pid in family(process.pid)]

    def requests(self, path):
        path.write_text("\n".join(f"voter_id={random.getrandbits(64):016x}" for _ in range(2_000)))
        return {"WRK_PATH": "/", "WRK_KIND": "application/x-www-form-urlencoded", "WRK_BODIES": "vote=a|vote=b",
                "WRK_STATUS": "200"}

    def queued_safely(self):
        try:
            return self.queued() > 0
        except (OSError, ValueError):
            return False

    def queued(self):
        total = 0
        for port in self.redis_ports:
            with socket.create_connection(("127.0.0.1", port)) as s:
                s.sendall(b"LLEN votes\r\n")
                total += int(s.recv(64).decode().strip().lstrip(":"))
        return total


def wrk(system, cookies, extra, seconds, connections):
    pids = system.serving()
    before, started = cpu_seconds(pids), time.monotonic()
    done = subprocess.run(
        ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", HERE / "vote.lua", system.url],
        env={**os.environ, **extra, "WRK_COOKIES": str(cookies)}, capture_output=True, text=True, check=True)
    spent, lasted = cpu_seconds(pids) - before, time.monotonic() - started
    report = json.loads(done.stdout[done.stdout.index("{"):])
    accepted = report["accepted"]
    return {"accepted_per_second": accepted / lasted, "cpu_us_per_vote": spent * 1e6 / max(accepted, 1),
            "p50_ms": report["p50_ms"], "p99_ms": report["p99_ms"], "refused": report["refused"],
            "memory_mib": memory_mib(pids)}


def drain(system, votes):
    """How fast one worker empties what has piled up, its start included."""
    before = system.merged() if system.name == "ballot" else 0
    started = time.monotonic()
    system.start_worker()
    end = started + 900
    # Not more often: asking costs a process and a connection.
    while (system.merged() - before < votes) if system.name == "ballot" else system.queued():
        assert time.monotonic() < end, f"{system.name} does not drain"
        time.sleep(0.2)
    lasted = time.monotonic() - started
    system.stop_worker()
    return votes / lasted


def fill(system, votes):
    done = subprocess.run(
        [BALLOT, "load", "--fronts", fronts_of(system), "--voters", str(votes * 10 // 11), "--votes", str(votes),
         "--connections", "128", "--system", system.name, "--seconds", "600"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def fresh_connections(system, voters):
    pids = system.serving()
    before, started = cpu_seconds(pids), time.monotonic()
    done = subprocess.run(
        [BALLOT, "load", "--fronts", f"127.0.0.1:{system.port}", "--voters", str(voters), "--connections", "64",
         "--fresh-connections", "--system", system.name, "--seconds", "300"], capture_output=True, text=True, check=True)
    spent = cpu_seconds(pids) - before
    report = json.loads(done.stdout)
    return {"voters_per_second": report["acknowledged"] / (time.monotonic() - started),
            "cpu_us_per_voter": spent * 1e6 / max(report["acknowledged"], 1), "p99_ms": report["p99_ms"],
            "failures": report["failures"]}


def machine():
    model = next((l.split(":", 1)[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines()
                  if l.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {"cpu": model, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "kernel": platform.release(),
            "load_before": os.getloadavg()[0], "commit": commit.stdout.strip(),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")}


def python_with_peer():
    home = Path(os.environ.get("BALLOT_PEER_ENV", ROOT / ".run/ballot-peer"))
    python = home / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", HERE / "peer/requirements.txt"], check=True)
    return python


def median(rows, key):
    return statistics.median(r[key] for r in rows)


def compare(args):
    stage, about = Stage(), machine()
    try:
        postgres = Postgres(stage)
        systems = [Ballot(stage, postgres, "ours"), Peer(stage, postgres, "theirs", python_with_peer())]
        plans = {}
        for system in systems:
            cookies = stage.dir / f"cookies-{system.name}"
            plans[system.name] = (cookies, system.requests(cookies))
        rounds = {s.name: [] for s in systems}
        for number in range(args.rounds):
            for system in systems if number % 2 == 0 else reversed(systems):
                row = wrk(system, *plans[system.name], args.seconds, 256)
                rounds[system.name].append(row)
                print(number, system.name, {k: round(v, 1) for k, v in row.items()}, file=sys.stderr)
        ours, theirs = rounds["ballot"], rounds["peer"]
        fresh = {s.name: fresh_connections(s, args.fresh) for s in systems}
        drained, waiting = {}, {}
        systems = [Ballot(stage, postgres, "ours3", fronts=3), Peer(stage, postgres, "theirs3", python_with_peer(), fronts=3)]
        for system, votes in zip(systems, (args.drain, max(args.drain // 10, 1_000))):
            # Distinct voters, one in ten of whom votes twice.
            report = fill(system, votes)
            waiting[system.name] = report["acknowledged"]
            drained[system.name] = drain(system, report["acknowledged"])
    finally:
        stage.end()
    ratios = {
        "accepted": statistics.median(a["accepted_per_second"] / b["accepted_per_second"] for a, b in zip(ours, theirs)),
        "cpu": statistics.median(b["cpu_us_per_vote"] / a["cpu_us_per_vote"] for a, b in zip(ours, theirs)),
        "drain": drained["ballot"] / drained["peer"],
        "fresh": fresh["ballot"]["voters_per_second"] / fresh["peer"]["voters_per_second"],
    }
    return {"machine": about, "rounds": rounds, "seconds": args.seconds, "fresh_connections": fresh,
            "waiting": waiting, "drained_per_second": drained, "ratios": ratios}


def table(result):
    about, rounds = result["machine"], result["rounds"]
    lines = [
        f"Measured {about['date']} at {about['commit']} on {about['cores']} cores of {about['cpu']}, "
        f"{about['memory_gib']} GiB, Linux {about['kernel']}; load average before: {about['load_before']:.1f}.",
        f"Medians of {len(rounds['ballot'])} interleaved rounds of {result['seconds']} s; wrk (2 threads, 256 kept "
        "connections) shares the cores.", "",
        "| | ballot | 2016 design | ratio |", "|---|---:|---:|---:|",
    ]
    row = lambda key: [median(rounds[s], key) for s in ("ballot", "peer")]
    ratios = result["ratios"]
    a, b = row("accepted_per_second")
    lines.append(f"| accepted votes/s | {a:,.0f} | {b:,.0f} | {ratios['accepted']:.1f} × |")
    a, b = row("cpu_us_per_vote")
    lines.append(f"| CPU per vote, µs (front and its queue) | {a:.1f} | {b:.1f} | {ratios['cpu']:.1f} × less |")
    a, b = row("p50_ms")
    lines.append(f"| p50, ms | {a:.1f} | {b:.1f} | |")
    a, b = row("p99_ms")
    lines.append(f"| p99, ms | {a:.1f} | {b:.1f} | |")
    a, b = row("memory_mib")
    lines.append(f"| memory of the serving processes, MiB | {a:.0f} | {b:.0f} | |")
    a, b = (result["drained_per_second"][s] for s in ("ballot", "peer"))
    lines.append(f"| one worker takes what waits at 3 fronts into PostgreSQL, votes/s | {a:,.0f} | {b:,.0f} | {ratios['drain']:.1f} × |")
    a, b = (result["fresh_connections"][s]["voters_per_second"] for s in ("ballot", "peer"))
    lines.append(f"| a new connection per voter, page and vote, voters/s | {a:,.0f} | {b:,.0f} | {ratios['fresh']:.1f} × |")
    a, b = (result["fresh_connections"][s]["cpu_us_per_voter"] for s in ("ballot", "peer"))
    lines.append(f"| … CPU per voter, µs | {a:.0f} | {b:.0f} | {b / a:.1f} × less |")
    return "\n".join(lines) + "\n"


def viewers(count, seconds=20):
    """What it costs to show the results to so many while votes pour in."""
    stage, about = Stage(), machine()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65_536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    try:
        postgres = Postgres(stage)
        ballot = Ballot(stage, postgres, "shown")
        ballot.start_worker()
        port = free_port()
        results = stage.spawn([BALLOT, "results", "--key-file", ballot.key, "--data-dir", stage.dir / "results", "--store",
                               ballot.store, "--listen", f"127.0.0.1:{port}"], "results")
        until("results answer", lambda: answers(f"http://127.0.0.1:{port}/health"))
        voting = stage.spawn([BALLOT, "load", "--fronts", f"127.0.0.1:{ballot.port}", "--voters", "100000000",
                              "--connections", "8", "--pause-ms", "2", "--seconds", str(seconds + 120)], "load")
        import selectors
        selector, sockets, received = selectors.DefaultSelector(), [], 0
        for _ in range(count):
            s = socket.create_connection(("127.0.0.1", port))
            s.sendall(b"GET /api/v1/polls/pets/events HTTP/1.1\r\nHost: bench\r\n\r\n")
            s.setblocking(False)
            selector.register(s, selectors.EVENT_READ)
            sockets.append(s)
        end_warm = time.monotonic() + 3
        before = started = None
        events = 0
        while True:
            now = time.monotonic()
            if before is None and now > end_warm:
                before, started, events = cpu_seconds([results.pid]), now, 0
            if before is not None and now > started + seconds:
                break
            for key, _ in selector.select(0.2):
                events += key.fileobj.recv(65_536).count(b"data: ")
        spent, lasted = cpu_seconds([results.pid]) - before, time.monotonic() - started
        alive = voting.poll() is None
        return {"machine": about, "viewers": count, "cores": spent / lasted, "events_per_second": events / lasted,
                "voting": alive, "memory_mib": memory_mib([results.pid])}
    finally:
        stage.end()


def faults(votes):
    """The peer under kill -9 of its workers, database and queues, judged by ballot's checker."""
    stage = Stage()
    try:
        postgres = Postgres(stage)
        peer = Peer(stage, postgres, "peer", python_with_peer(), fronts=3)
        peer.start_worker()
        command = [BALLOT, "load", "--system", "peer", "--fronts", fronts_of(peer), "--voters", str(votes * 9 // 10), "--votes", str(votes), "--connections", "48", "--store", peer.store]
        load = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        over, turn, kills = threading.Event(), 0, {"worker": 0, "postgres": 0, "redis": 0}

        def revive_worker():
            while not over.is_set():
                if peer.worker.poll() is not None:
                    peer.start_worker()
                time.sleep(0.2)

        threading.Thread(target=revive_worker, daemon=True).start()
        while load.poll() is None:
            turn += 1
            time.sleep(0.3 + turn * 137 % 700 / 1000)
            if not peer.queued_safely():
                continue
            if turn % 5 == 0:
                postgres.kill()
                time.sleep(0.2)
                postgres.start()
                kills["postgres"] += 1
            elif turn % 5 == 3:
                i = turn % len(peer.redis)
                peer.redis[i].kill()
                peer.redis[i].wait()
                peer.redis[i] = peer.start_redis(i)
                kills["redis"] += 1
            else:
                peer.worker.kill()
                kills["worker"] += 1
            if turn > votes // 200:
                break
        out, _ = load.communicate()
        over.set()
        report = json.loads(out)
        return {"kills": kills, "acknowledged": report["acknowledged"], "checked": report["checked"],
                "failures": report["failures"]}
    finally:
        stage.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--fresh", type=int, default=5_000)
    parser.add_argument("--drain", type=int, default=200_000)
    parser.add_argument("--viewers", type=int)
    parser.add_argument("--faults", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if args.viewers:
        name, result, text = "viewers", viewers(args.viewers), None
    elif args.faults:
        name, result, text = "peer-faults", faults(args.faults), None
    else:
        name, result = "compare", compare(args)
        text = table(result)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        if text:
            (args.out / f"{name}.md").write_text(text)
    print(text or json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
