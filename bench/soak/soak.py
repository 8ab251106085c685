#!/usr/bin/env python3
"""A soak: real apps, visitors of every kind, and a `kill -9` of Skep each minute. Counts every error and explains it.

  soak.py [--minutes 15] [--out FILE]

`make soak` builds Skep and calls this. Apps are those of examples/apps and one of the soak's own, with an idle time of six
seconds, so that they come and go all the time. An error is *explained* when the visit it belongs to had begun before a kill
was over and done with, that is, before the next Skep was ready, and it came about after the kill. Every other error fails
the soak, as does a 5xx in the access log other than 503, and anything left behind: a process, an open file, a socket, a control
group, an instance's folder, memory that grows. Nothing tells whose an empty control group was, so no other Skep may come and go
on the machine meanwhile.
"""

import argparse
import asyncio
import collections
import datetime
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from visitors import APPS, VISITS, Wrong

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SKEP = Path(os.environ.get("SKEP", ROOT / "target/release/skep"))
VISITORS = 20
IDLE = 6
# A visit each; what else is counted comes about within one.
KINDS = ["pages", "WebSockets", "tunnels", "uploads", "event streams", "aborts"]


class Server:
    """Skep, started again whenever it was killed."""

    def __init__(self, dir, port, admin):
        self.dir, self.port, self.admin = dir, port, admin
        self.kills = []
        self.ready_after = []

    def start(self):
        log = open(self.dir / "skep.log", "ab")
        self.process = subprocess.Popen(
            [SKEP, "serve", "--config", self.dir / "skep.toml", "--data-dir", self.dir / "data"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.dir)

    async def ready(self):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise SystemExit(f"skep ended by itself: {(self.dir / 'skep.log').read_text()[-2000:]}")
            if await asyncio.to_thread(self.is_ready):
                return
            await asyncio.sleep(0.02)
        raise SystemExit("skep did not become ready within a minute")

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/_skep/health/ready", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    async def kill(self):
        began = time.monotonic()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()
        await self.ready()
        now = time.monotonic()
        self.kills.append((began, now))
        self.ready_after.append(now - began)

    def explains(self, began, failed):
        """Whether a kill lies between a visit's beginning and its failure, or the visit met a server not yet there."""
        return any(began <= ready and failed >= kill for kill, ready in self.kills)

    def files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def rss_kib(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def sockets(self):
        """Connections of the port that are neither listening nor merely waiting out their time."""
        found = collections.Counter()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == self.port and fields[3] not in ("0A", "06"):
                found[fields[3]] += 1
        return sum(found.values())


def processes(dir):
    """Everything that runs on behalf of this soak but Skep itself: shims and apps."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            cwd = os.readlink(entry / "cwd")
        except OSError:
            continue
        ours = str(dir) in words or cwd.startswith(str(dir))
        if ours and " serve " not in words and "soak.py" not in words:
            found[int(entry.name)] = words[:200]
    return found


def cgroups():
    """Control groups of instances, of every hierarchy. A walk that does not mind what vanishes meanwhile."""
    return {os.path.join(folder, name) for folder, names, _ in os.walk("/sys/fs/cgroup")
            if os.path.basename(folder) == "skep" for name in names}


def left_files(dir):
    """Files of the data folder. Environments grow with what Python compiles; the folders of ended instances have a rule of
    their own."""
    data = dir / "data"
    return [str(path.relative_to(data)) for path in data.rglob("*")
            if path.relative_to(data).parts[0] not in ("envs", "instances") and not path.is_dir()]


def folders_beyond(dir):
    """Instance folders that should not be there: more than the five kept per app for their logs, or not settled."""
    kept, wrong = collections.Counter(), []
    for path in (dir / "data/instances").glob("*"):
        kept[path.name.split(".")[0]] += 1
        if not (path / "settled").exists():
            wrong.append(f"{path.name} is not settled")
    return wrong + [f"{app}: {count}" for app, count in kept.items() if count > 5]


def state(server, dir):
    return {"files": server.files(), "rss_kib": server.rss_kib(), "sockets": server.sockets(), "cgroups": len(cgroups()),
            "processes": len(processes(dir)), "data_files": len(left_files(dir)), "folders_beyond": len(folders_beyond(dir))}


def prepare(dir, port, admin):
    apps = dir / "apps"
    for app in APPS:
        if app != "probe":
            shutil.copytree(ROOT / "examples/apps" / app, apps / app)
    (apps / "probe").mkdir()
    shutil.copy(HERE / "app.py", apps / "probe/app.py")
    (apps / "probe/skep.toml").write_text('framework = "command"\ncommand = ["python3", "app.py", "{port}"]\n')
    (dir / "skep.toml").write_text(f"""
[server]
listen = ["127.0.0.1:{port}"]
admin_listen = "127.0.0.1:{admin}"
access_log = "json"
access_log_file = "{dir}/access.log"
[[sites]]
path = "{apps}"
[defaults]
idle_timeout = "{IDLE}s"
start_timeout = "120s"
seats = 4
max_instances = 4
""")


async def one_visitor(server, seen, errors, end, number):
    dice = random.Random(number)
    while (began := time.monotonic()) < end:
        visit = dice.choice(VISITS)
        try:
            await asyncio.wait_for(visit(server.port, seen), 180)
        except (Wrong, OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            errors.append((began, time.monotonic(), visit.__name__, what))
            await asyncio.sleep(0.2)
        # Quiet spells, so that apps are given up and started again.
        if dice.random() < 0.15:
            await asyncio.sleep(dice.uniform(0, 4 * IDLE))


async def warm_up(server, dir):
    """Every app started once: environments are built, and what is left after all have gone is the measure."""
    async def one(app):
        request = urllib.request.Request(f"http://127.0.0.1:{server.port}/{app}/")
        return await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=600).read())
    await asyncio.gather(*(one(app) for app in APPS))
    await all_gone(dir)


async def all_gone(dir):
    end = time.monotonic() + 60 + IDLE
    while processes(dir) and time.monotonic() < end:
        await asyncio.sleep(0.5)
    await asyncio.sleep(3)


async def soak(dir, minutes):
    port, admin = free_ports()
    prepare(dir, port, admin)
    server, seen, errors = Server(dir, port, admin), collections.Counter(), []
    server.start()
    await server.ready()
    await warm_up(server, dir)
    await server.kill()
    await asyncio.sleep(5)
    before, groups = state(server, dir), cgroups()
    server.kills.clear()
    server.ready_after.clear()
    samples, end = [], time.monotonic() + minutes * 60
    visitors = [asyncio.create_task(one_visitor(server, seen, errors, end, n)) for n in range(VISITORS)]
    while time.monotonic() < end - 45:
        await asyncio.sleep(random.uniform(30, 50))
        samples.append({"minute": round((time.monotonic() - end) / 60 + minutes, 1), "rss_kib": server.rss_kib(),
                        "files": server.files(), "instances": len(processes(dir)), "cgroups": len(cgroups() - groups)})
        say(f"{samples[-1]}, {sum(seen[kind] for kind in KINDS)} visits, {len(errors)} errors, next: kill -9")
        await asyncio.sleep(random.uniform(0, 20))
        await server.kill()
    await asyncio.gather(*visitors)
    await all_gone(dir)
    # Idle connections to the app and from visitors have their own time to be given up.
    await asyncio.sleep(8)
    after = state(server, dir)
    return judge(server, seen, errors, samples, before, after, cgroups() - groups, dir, minutes)


def judge(server, seen, errors, samples, before, after, groups, dir, minutes):
    """`groups`: control groups that are there now and were not before."""
    explained, unexplained = collections.Counter(), []
    for began, failed, visit, what in errors:
        if server.explains(began, failed):
            explained[f"{visit}, cut by a kill: {re.sub(r'[0-9]+', 'N', what)[:80]}"] += 1
        else:
            unexplained.append(f"{visit} after {failed - began:.1f} s: {what}")
    for began, ended, status, line in broken(dir):
        if server.explains(began, ended):
            explained[f"answered {status}, cut by a kill"] += 1
        else:
            unexplained.append(f"answered {status}: {line}")
    leaks = [f"control groups: {len(groups)} more than before"] if groups else []
    for what in ("processes", "sockets", "data_files", "folders_beyond"):
        if after[what] > before[what]:
            leaks.append(f"{what}: {before[what]} before, {after[what]} after")
    if after["files"] > before["files"] + 8:
        leaks.append(f"open files of skep: {before['files']} before, {after['files']} after")
    # Each process lives a minute, so growth from one minute to the next would be growth of what is on disk.
    third = max(1, len(samples) // 3)
    early = sum(s["rss_kib"] for s in samples[:third]) / third if samples else 0
    late = sum(s["rss_kib"] for s in samples[-third:]) / third if samples else 0
    if late > early * 1.25 + 4096:
        leaks.append(f"memory: {early:.0f} KiB early, {late:.0f} KiB late")
    return {
        "minutes": minutes, "visits": {k: round(v) for k, v in sorted(seen.items())}, "kills": len(server.kills),
        "ready_after_kill_s": {"median": round(sorted(server.ready_after)[len(server.ready_after) // 2], 3),
                               "longest": round(max(server.ready_after), 3)} if server.kills else {},
        "answers": answers(dir), "errors_explained": dict(explained), "errors_unexplained": unexplained, "leaks": leaks,
        "left_running": processes(dir), "left_cgroups": sorted(groups),
        "left_files": left_files(dir) + folders_beyond(dir) if leaks else [],
        "before": before, "after": after, "rss_kib_early": round(early), "rss_kib_late": round(late),
        "journal_mib": round(sum(p.stat().st_size for p in (dir / "data").glob("*.db*")) / (1 << 20), 2),
        "samples": samples,
    }


def answers(dir):
    """How many requests each status got, as the access log has it."""
    found = collections.Counter()
    for line in open(dir / "access.log", errors="replace"):
        status = re.search(r'"status":(\d+)', line)
        if status:
            found[status[1]] += 1
    return dict(sorted(found.items()))


def broken(dir):
    """5xx in the access log, with their time by the clock of the kills. 503 is no failure: the app is not there yet."""
    shift = time.time() - time.monotonic()
    for line in open(dir / "access.log", errors="replace"):
        try:
            # A kill may have cut the line before, which then has no end.
            row = json.loads(line[max(0, line.rfind('{"time"')):])
        except ValueError:
            continue
        status = row.get("status", 0)
        if status >= 500 and status != 503:
            ended = datetime.datetime.fromisoformat(row["time"]).timestamp() - shift
            yield ended - row["ms"] / 1000, ended, status, line.strip()[:300]


def free_ports():
    import socket
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        return a.getsockname()[1], b.getsockname()[1]


def say(what):
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the folder behind")
    wanted = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    dir = Path(tempfile.mkdtemp(prefix="skep-soak-"))
    dir.chmod(0o755)
    try:
        result = asyncio.run(soak(dir, wanted.minutes))
    finally:
        # Whatever happened: nothing of ours goes on.
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if str(dir).encode() in (entry / "cmdline").read_bytes() or os.readlink(entry / "cwd").startswith(str(dir)):
                        os.kill(int(entry.name), signal.SIGKILL)
                except OSError:
                    pass
        if not wanted.keep:
            shutil.rmtree(dir, ignore_errors=True)
    text = json.dumps(result, indent=1)
    print(text)
    if wanted.out:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text(text + "\n")
    if result["errors_unexplained"] or result["leaks"]:
        sys.exit("the soak failed: see errors_unexplained and leaks")


if __name__ == "__main__":
    main()
