#!/usr/bin/env python3
"""Skep on a real Docker Swarm of its own, on this machine: three managers, two workers that join, faults, visitors all the
while, and two people with a browser.

  sudo tests/swarm/run.py [--skep target/debug/skep] [--results DIR] [--list] [SCENARIO…]

No image is pulled: they are made from this machine's files, with what deploy/Dockerfile says of the image of Skep; the real one
of debian.py from packages, which come from where this machine's own come from. deploy/stack.yml is deployed as it is. Needs root, docker.io, iproute2, busybox-static, PostgreSQL and a built Skep. Without
names, all scenarios run, each against its deadline; whatever needs Skep has `deploy` before it.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import signal
import sys
import time
import traceback
from pathlib import Path

import debian
import faults
import real
import routes
import shell
import scenarios
import shinyproxy
from database import Database
from lab import Lab
from stack import Stack
from world import World

ROOT = Path(__file__).resolve().parent.parent.parent
# In this order, with the seconds each may take: several times what it does take, on slow machines, too.
SCENARIOS = {
    "ground": (scenarios.ground, 300),
    "shinyproxy": (shinyproxy.shinyproxy, 400),
    "deploy": (scenarios.deploy, 400),
    "guests": (scenarios.guests, 400),
    "isolation": (scenarios.isolation, 600),
    "look": (scenarios.look, 300),
    "shell": (shell.shell, 300),
    "seats": (scenarios.seats, 300),
    "refused": (scenarios.refused, 200),
    "routes": (routes.routes, 400),
    "update": (routes.update, 500),
    "wake": (routes.wake, 400),
    # Before the faults, whose figures nothing in the background is to disturb.
    "real": (real.real, 3000),
    "kill-skep": (scenarios.kill_skep, 400),
    "kill-agent": (faults.kill_agent, 500),
    "power-off": (faults.power_off, 700),
    "cut": (faults.cut, 700),
    "kill-dockerd": (faults.kill_dockerd, 700),
    "leader": (faults.leader, 900),
    "join": (scenarios.join, 600),
}
# Nothing else is done beside these.
MEASURED = {"update"}
# These come before Skep is deployed.
WITHOUT_SKEP = {"ground", "shinyproxy"}


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def stop(number, _):
    # Cleaning up is not to be stopped.
    for again in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(again, signal.SIG_IGN)
    sys.exit(128 + number)


class Late(BaseException):
    """No `Exception`: whoever goes on looking when an engine does not answer would go on after this, too."""


def late(*_):
    raise Late("the deadline of the scenario is over")


def one(world, name):
    what, seconds = SCENARIOS[name]
    world.scenario = name
    say(f"{name}: {what.__doc__.strip().splitlines()[0]}")
    began = time.monotonic()
    signal.alarm(seconds)
    try:
        with world.image.held() if name in MEASURED and world.image else contextlib.nullcontext():
            what(world)
        return True
    except (Exception, Late):
        traceback.print_exc()
        return False
    finally:
        signal.alarm(0)
        say(f"{name}: {time.monotonic() - began:.1f} s")


def tell(world):
    """What is worth knowing after a failure."""
    try:
        for node in world.alive()[:1]:
            for words in (("node", "ls"), ("service", "ls"), ("service", "ps", "--no-trunc", "skep_server", "skep_agent")):
                print(world.lab.docker(node, *words, check=False))
    except Exception as error:
        print(f"the Swarm cannot be asked: {error}")
    try:
        print(scenarios.server_log(world)[-4000:])
    except Exception as error:
        print(f"the server's log cannot be read: {error}")


def play(lab, wanted):
    managers = [1, 2, 3]
    image = debian.Making(lab) if "real" in wanted.scenarios else None
    say("three engines, a Swarm, a PostgreSQL; images from this machine's files, nothing is pulled")
    lab.up(managers)
    lab.init(managers)
    database = Database(lab)
    stack = Stack(lab, managers, wanted.skep, database.url, real.CONFIG)
    for node in managers:
        stack.load(node)
    world = World(lab, stack, database, image)
    failed = []
    try:
        for name in wanted.scenarios:
            if not one(world, name):
                failed.append(name)
                tell(world)
                if name == "deploy":
                    break
    finally:
        world.close()
    return world, failed


def report(world, failed, wanted, seconds):
    width = max((len(figure.what) for figure in world.figures), default=0)
    print()
    for figure in world.figures:
        print(f"{figure.scenario:13} {figure.what:{width}} {figure.value} {figure.unit}".rstrip())
    print(f"\n{len(wanted.scenarios)} scenarios in {seconds:.0f} s; failed: {', '.join(failed) or 'none'}")
    if wanted.results:
        wanted.results.mkdir(parents=True, exist_ok=True)
        found = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": round(seconds), "failed": failed,
                 "machine": {"cores": os.cpu_count(), "kernel": platform.release()},
                 "docker": world.docker, "figures": [dataclasses.asdict(figure) for figure in world.figures]}
        (wanted.results / "swarm-faults.json").write_text(json.dumps(found, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--skep", type=Path, default=target / "debug/skep")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    wanted = parser.parse_args()
    if wanted.list:
        for name, (what, seconds) in SCENARIOS.items():
            print(f"{name:13} {what.__doc__.strip().splitlines()[0]}")
        return
    unknown = [name for name in wanted.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"there is no scenario {', '.join(unknown)}; there are: {', '.join(SCENARIOS)}")
    asked = set(wanted.scenarios or SCENARIOS)
    if asked - WITHOUT_SKEP:
        asked.add("deploy")
    wanted.scenarios = [name for name in SCENARIOS if name in asked]
    if os.geteuid() != 0:
        sys.exit("run it as root: it makes network namespaces and starts engines")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    signal.signal(signal.SIGALRM, late)
    began = time.monotonic()
    with Lab(nodes=5) as lab:
        world, failed = play(lab, wanted)
    left = lab.left_behind()
    report(world, failed, wanted, time.monotonic() - began)
    if left:
        sys.exit(f"left behind: {left}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
