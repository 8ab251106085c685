"""Apps as people write them, from an image as people make them: R Shiny, Streamlit and Dash on a Debian, opened in a browser.

The image comes from debian.py, what the browser does from tests/e2e/swarm/real.spec.ts.
"""

import concurrent.futures
import json
import os
import shutil
import subprocess
import threading
import time

import debian
import images
import visitors
from entrance import Entrance
from lab import NO_ANSWER, LabError, until
from world import check

IMAGE = "real:lab"
HOLDERS = 2
PEOPLE = {"ada": "plum tree in June", "bob": "pear tree in July"}
E2E = images.ROOT / "tests/e2e"
SEEN = E2E / "out/swarm"

# As in docs/containers.md. Streamlit is told an address to print: otherwise it asks the internet for its own at each start, and waits
# 20 s where there is none. The port is said here: the manager that Skep asks may be one without the image.
CONFIG = """
[apps.shiny-r]
title = "Old Faithful"
framework = "shiny-r"
command = ["R", "--no-save", "--no-restore", "--no-echo", "-e", "shiny::runApp('shiny-r', host = '0.0.0.0', port = {port}L)"]

[apps.streamlit]
title = "Nest egg"
framework = "streamlit"
prefix = "keep"
command = "python3 -m streamlit run streamlit/app.py --server.headless=true --browser.gatherUsageStats=false \
--server.fileWatcherType=none --server.address=0.0.0.0 --server.port={port} --server.baseUrlPath={base_path} --browser.serverAddress=apps.test"

[apps.dash]
title = "Flower finder"
framework = "dash"
command = "python3 -m gunicorn --chdir dash --bind 0.0.0.0:{port} --threads 4 app:server"
env = { DASH_REQUESTS_PATHNAME_PREFIX = "{base_path}/", DASH_ROUTES_PATHNAME_PREFIX = "/" }
"""
EACH = f"""image = "{IMAGE}"
per_user = true
start_timeout = "3m"
limits.memory = "1GiB"
access.anyone = false
access.users = {json.dumps(list(PEOPLE))}
container.port = 8080
container.placement.constraints = ["node.labels.real == true"]
"""
CONFIG = CONFIG.replace("]\ntitle", f"]\n{EACH}title")


class Watch:
    """Every instance of these apps that Skep ever has while somebody looks, and those that are there now."""

    def __init__(self, stack):
        self.stack, self.ever, self.end = stack, {}, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def now(self):
        return [row for row in self.stack.ps() if row["app"] in debian.APPS]

    def _look(self):
        while not self.end.wait(0.5):
            try:
                self.ever.update({row["id"]: row for row in self.now()})
            except NO_ANSWER:
                continue

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        self.thread.join(60)


def real(world):
    """A Debian with R Shiny, Streamlit and Dash: two people log in, and use each of the three in Chromium, in containers of their own."""
    stack = world.stack
    holders = spread(world)
    for name, password in PEOPLE.items():
        stack.skep("user", "add", name, "--password-stdin", stdin=f"{password}\n")
    with Watch(stack) as watch:
        try:
            browse(world)
            own_containers(world, holders, watch.now(), dict(watch.ever))
        finally:
            # What comes next counts on the instances of its own visitors alone.
            with concurrent.futures.ThreadPoolExecutor() as pool:
                list(pool.map(lambda app: stack.skep("stop", app), sorted({row["app"] for row in watch.now()})))
            until("the real apps have ended", lambda: not watch.now(), 180, 0.3)


def spread(world):
    """The image on two nodes, which get a label that says so."""
    lab, began = world.lab, time.monotonic()
    for step in world.image.wait(1200):
        what, _, seconds = step.rpartition(": ")
        world.note(f"made at the lowest priority, meanwhile: {what}", float(seconds.split()[0]))
    world.note("waited for the image to be made", time.monotonic() - began)
    tar = world.image.tar
    world.note("the image", round(tar.stat().st_size / 1e6), "MB")
    began = time.monotonic()
    holders = world.stack.managers[-HOLDERS:]

    def load(node):
        images.load(lab, node, tar, IMAGE, debian.CHANGES, timeout=600)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(load, holders))
    world.note(f"docker import, on {HOLDERS} nodes at a time", time.monotonic() - began)
    manager = world.leader()
    for node in holders:
        lab.docker(manager, "node", "update", "--label-add", "real=true", lab.hostname(node))
    return set(holders)


def browse(world):
    """The browser's part. What it saw stays in `SEEN`, for whoever owns this checkout."""
    entrance = Entrance(world.lab, world.stack.managers, visitors.HOST)
    shutil.rmtree(SEEN, ignore_errors=True)
    SEEN.mkdir(parents=True)
    people = [{"name": name, "password": password} for name, password in PEOPLE.items()]
    began = time.monotonic()
    try:
        done = subprocess.run([E2E / "node_modules/.bin/playwright", "test", "--config", "swarm.config.ts"], cwd=E2E, timeout=1300,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, env={
                                  **os.environ, "SKEP_DOOR": entrance.place, "SKEP_PIN": entrance.pin,
                                  "SKEP_PEOPLE": json.dumps(people), "SKEP_SEEN": str(SEEN)})
    finally:
        owner = E2E.stat()
        for path in (SEEN.parent, SEEN, *SEEN.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
    if done.returncode:
        raise LabError(f"in the browser: {(done.stdout + done.stderr)[-6000:]}")
    world.note("two people in Chromium, in all", time.monotonic() - began)
    for path in sorted(SEEN.glob("*.json")):
        for seen in json.loads(path.read_text()):
            world.note(f"{seen['app']}, {seen['person']}: click until it can be used, cold, both at a time", seen["usable"] / 1000)
            world.note(f"{seen['app']}, {seen['person']}: loaded anew", seen["again"] / 1000)
    world.note("what they saw", str(SEEN.relative_to(images.ROOT)), "")


def own_containers(world, holders, rows, ever):
    """One each per person and app, from first to last, on the nodes that hold the image."""
    pairs = sorted((row["app"], row["user"]) for row in rows)
    check(pairs == sorted((app, f"u:{name}") for app in debian.APPS for name in PEOPLE)
          or pairs == sorted((app, name) for app in debian.APPS for name in PEOPLE), f"instances: {pairs}")
    check(set(ever) == {row["id"] for row in rows}, f"instances were replaced: {sorted(set(ever) - {row['id'] for row in rows})}")
    known = {row["id"]: row for row in rows}
    running = [row for row in world.stack.instances() if row["instance"] in known]
    check(len({row["id"] for row in running}) == len(known) == len(running), f"{len(running)} containers of {len(known)} instances")
    where = {node: sum(row["node"] == node for row in running) for node in holders}
    check(sum(where.values()) == len(running) and all(where.values()), f"instances of the real image by node: {where}")
    world.note("containers by node", ", ".join(f"{node}: {count}" for node, count in sorted(where.items())), "")
    memory = max(row["memory"] or 0 for row in rows)
    world.note("memory of the largest", round(memory / 1e6), "MB")
