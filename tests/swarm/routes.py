"""Ordinary services behind Skep: which of their tasks get requests while tasks come and go."""

import http.client
import json
import threading
import time

from lab import until
from world import check

HOST = "shop.test"
IMAGE = "app:lab"
COMMAND = ["/usr/bin/python3", "-S", "-E", "/shop.py"]
LABELS = {"skep.route": HOST, "skep.port": "8080", "skep.access.anyone": "true"}


def create(world, name, labels, replicas=3, env=(), more=()):
    words = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
    words += [word for one in env for word in ("--env", one)]
    world.lab.docker(world.leader(), "service", "create", "-d", "-q", "--no-resolve-image", "--name", name, "--replicas", str(replicas),
                     "--restart-delay", "200ms", "--stop-grace-period", "60s", *words, *more, IMAGE, *COMMAND)


def get(world, host, path="/", timeout=30, method="GET"):
    connection = http.client.HTTPConnection(world.stack.door.address, world.stack.door.port, timeout=timeout)
    try:
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def said(world, host=HOST, path="/"):
    """What the service answers: None for an answer of somebody else, as Skep's portal at a host that is not published yet."""
    status, body = get(world, host, path)
    try:
        found = json.loads(body) if status == 200 else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and "task" in found else None


def ask(world):
    """The same of a service that is published, and stays so."""
    return check(said(world), "the service does not answer")


def wait_open(world, host, path="/", seconds=90):
    return until(f"{host}{path} answers", lambda: said(world, host, path), seconds, 0.1)


def shop(world):
    """The service that scenarios share; the first that needs it creates it."""
    names = world.lab.docker(world.leader(), "service", "ls", "--format", "{{.Name}}").split()
    if "shop" not in names:
        create(world, "shop", LABELS)
    wait_open(world, HOST)
    until("all three tasks get requests", lambda: len({ask(world)["task"] for _ in range(12)}) == 3, 90)


class Load:
    """So many requests per second over kept connections, each at its time, whatever happened to the one before."""

    def __init__(self, world, host, rate, connections=100):
        self.address, self.port, self.host = world.stack.door.address, world.stack.door.port, host
        self.pause = connections / rate
        self.seen = []
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(index / rate,), daemon=True) for index in range(connections)]

    def __enter__(self):
        self.began = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.seconds = time.monotonic() - self.began
        for thread in self.threads:
            thread.join(40)

    def run(self, offset):
        connection = http.client.HTTPConnection(self.address, self.port, timeout=30)
        due = time.monotonic() + offset
        mine = []
        while not self.over.wait(max(0, due - time.monotonic())):
            due += self.pause
            began = time.monotonic()
            try:
                connection.request("GET", "/", headers={"Host": self.host})
                answer = connection.getresponse()
                body = answer.read()
                what = json.loads(body) if answer.status == 200 else body[:200]
                mine.append((answer.status, what, time.monotonic() - began))
            except (OSError, ValueError, http.client.HTTPException) as error:
                mine.append((0, f"{type(error).__name__}: {error}", time.monotonic() - began))
                connection.close()
        with self.lock:
            self.seen += mine

    def failed(self):
        return [(status, what) for status, what, _ in self.seen if status != 200]


def routes(world):
    """A service with three tasks is published by its labels: all get requests, a new one soon, one that is killed none."""
    lab, began = world.lab, time.monotonic()
    shop(world)
    world.note("docker service create until all three tasks get requests", time.monotonic() - began)
    began = time.monotonic()
    lab.docker(world.leader(), "service", "scale", "-d", "shop=5")
    until("all five tasks get requests", lambda: len({ask(world)["task"] for _ in range(25)}) == 5, 90)
    world.note("scaled from 3 to 5 until all get requests", time.monotonic() - began)
    with Load(world, HOST, 100, 10) as load:
        time.sleep(1)
        lab.docker(world.leader(), "service", "scale", "-d", "shop=3")
        time.sleep(4)
    check(not load.failed(), f"scaling down failed requests: {load.failed()[:3]}")
    world.note("requests while scaled from 5 to 3, failed: 0 of", len(load.seen), "")


def update(world):
    """A rolling update of three tasks under 500 requests a second: none fails, in either order."""
    shop(world)
    for order in ("start-first", "stop-first"):
        version = f"2-{order}"
        with Load(world, HOST, 500) as load:
            time.sleep(2)
            began = time.monotonic()
            world.lab.docker(world.leader(), "service", "update", "-d", "--no-resolve-image", "--env-add", f"VERSION={version}",
                             "--update-order", order, "--update-parallelism", "1", "--update-delay", "1s", "shop")

            def done():
                return {ask(world)["version"] for _ in range(9)} == {version}
            until("only the new version answers", done, 120, 0.3)
            world.note(f"{order}: update until only the new version answers", time.monotonic() - began)
            time.sleep(2)
        failed = load.failed()
        slowest = sorted(seconds for _, _, seconds in load.seen)
        world.note(f"{order}: requests per second", len(load.seen) / load.seconds, "")
        world.note(f"{order}: requests", len(load.seen), "")
        world.note(f"{order}: failed", len(failed), "")
        world.note(f"{order}: 99.9 % answered within", slowest[int(len(slowest) * 0.999)])
        check(not failed, f"{len(failed)} of {len(load.seen)} requests failed: {failed[:5]}")


def wake(world):
    """A service that is scaled to zero wakes for a request, which is held meanwhile."""
    create(world, "sleeper", {**LABELS, "skep.route": "/sleeper/", "skep.wake": "true"}, replicas=0)
    until("it is published", lambda: get(world, "apps.test", "/sleeper")[0] == 308, 90, 0.2)
    began = time.monotonic()
    status, body = get(world, "apps.test", "/sleeper/", 90)
    check(status == 200 and '"path": "/sleeper/"' in body, f"{status} {body[:300]}")
    world.note("first request to a service that is scaled to zero", time.monotonic() - began)
    # The last that needs either.
    world.lab.docker(world.leader(), "service", "rm", "sleeper")
    world.lab.docker(world.leader(), "service", "rm", "shop", check=False)
    until("it is published no more", lambda: get(world, "apps.test", "/sleeper/")[0] == 404, 90, 0.2)
