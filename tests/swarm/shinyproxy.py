"""An installation of ShinyProxy moves in: Skep serves from its application.yml, on one engine and on the Swarm.

The files are written as its makers' examples for Docker and for Docker Swarm are: the same settings, apps, users, commands and image. The
image is a stand-in with a program `R` that says what it was asked to run. Skep is a process on a node, as whoever moves in has it, not a
service; nothing of the stack is there yet.
"""

import http.client
import os
import re
import secrets
import shlex
import subprocess
import time
import urllib.parse

from lab import NO_ANSWER, until
from visitors import HOST, Answer, Door, Visitor
from world import check

PASSWORD = "correct horse battery"
IMAGE = "openanalytics/shinyproxy-demo"
PORT = 8080
APPS = {"01_hello": "shinyproxy::run_01_hello()", "06_tabsets": "shinyproxy::run_06_tabsets()"}
SPECS = "".join(f"""
  - id: {name}
    display-name: {name.title()}
    description: An application of the examples
    container-cmd: ["R", "-e", "{run}"]
    container-image: {IMAGE}""" for name, run in APPS.items())
# Beside the examples': what only some may open, as their makers describe it.
SHUT = f"""
  - id: Board
    container-image: {IMAGE}
    access-groups: [admins]
"""
YAML = """
proxy:
  port: 8080
  authentication: simple
  admin-groups: admins
  users:
  - name: jack
    password: password
    groups: admins
  - name: jeff
    password: password
{backend}  specs:{specs}
logging:
  file:
    name: shinyproxy.log
"""
DOCKER = YAML.format(backend="", specs=SPECS + SHUT)
SWARM = YAML.format(backend="  container-backend: docker-swarm\n", specs=SPECS + SHUT)
AGENT = "moved_agent"


class Moved:
    """Skep on a node, as a process, serving from an application.yml."""

    def __init__(self, world, node, text):
        self.lab, self.node, self.binary = world.lab, node, world.stack.binary
        # In the node's folder, so that it goes when the node does.
        self.home = self.lab.dir / str(node) / "moved"
        self.home.mkdir()
        self.file = self.home / "application.yml"
        self.file.write_text(text)
        self.door = Door([self.lab.address(node)], PORT)
        self.process = None

    def words(self, *words):
        """In the network and among the files of the node, where its engine's socket is."""
        pid = self.lab.launched[self.node].pid
        return ["nsenter", f"--target={pid}", "--net", "--mount", "--uts", *map(str, words)]

    def skep(self, *words, **how):
        done = subprocess.run(self.words(self.binary, *words, "--data-dir", self.home / "data"), capture_output=True, text=True,
                              timeout=120, **how)
        check(done.returncode == 0, f"skep {' '.join(map(str, words))}: {done.stderr[-600:]}")
        return done

    def report(self):
        return self.skep("import", "shinyproxy", self.file).stderr

    def add_users(self):
        """What the report says to type."""
        commands = re.findall(r"run `skep (user add [^`]*)`", self.report())
        check(len(commands) == 2, f"the report names {commands}")
        for command in commands:
            self.skep(*shlex.split(command), "--password-stdin", input=f"{PASSWORD}\n")

    def start(self):
        words = self.words(self.binary, "serve", "--shinyproxy-config", self.file, "--data-dir", self.home / "data",
                           "--insecure-http-login")
        with open(self.home / "skep.log", "ab") as log:
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            until("Skep answers", self.door.find, 60)
        except NO_ANSWER:
            print((self.home / "skep.log").read_text()[-3000:])
            raise

    def stop(self):
        if self.process is None:
            return
        try:
            self.skep("stop", "--all")
        finally:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def running(self):
        """Containers of instances on all nodes, by owner."""
        found = {}
        for node in self.lab.launched:
            for row in self.lab.containers(node, "skep.instance", running=True):
                found.setdefault(row["Labels"].get("skep.owner", ""), []).append((node, row["Id"][:12]))
        return found


class Person(Visitor):
    """A visitor who logs in."""

    def post(self, path, **fields):
        body = urllib.parse.urlencode(fields)
        connection = http.client.HTTPConnection(self.door.address, self.door.port, timeout=60)
        try:
            connection.request("POST", path, body, {
                **self.headers(path), "Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://{HOST}",
                "Sec-Fetch-Site": "same-origin", "Accept": "text/html"})
            answer = connection.getresponse()
            self.take(answer.headers, path)
            return Answer(answer.status, answer.read().decode(errors="replace"))
        finally:
            connection.close()

    def log_in(self, name):
        answer = self.post("/_skep/login", name=name, password=PASSWORD, to="/")
        check(answer.status == 303, f"{name} cannot log in: {answer.status}, {answer.page or answer.body[:300]}")
        return self

    def leads_to(self, path):
        """Where an address leads."""
        connection = http.client.HTTPConnection(self.door.address, self.door.port, timeout=60)
        try:
            connection.request("GET", path, headers=self.headers(path))
            answer = connection.getresponse()
            return answer.status, answer.getheader("Location")
        finally:
            connection.close()


def try_out(world, moved, kind):
    """What people find who come back to their apps; answers who is on which container."""
    people = {name: Person(moved.door).log_in(name) for name in ("jack", "jeff")}
    portal = people["jeff"].ask("/", page=True).body
    check("/01_hello/" in portal and "/board/" not in portal, "the portal lists other apps than one may open")
    found, slowest = {}, 0.0
    for name, person in people.items():
        for app, run in APPS.items():
            began = time.monotonic()
            found[name, app] = person.open(f"/{app}/").json["name"]
            slowest = max(slowest, time.monotonic() - began)
            told = person.ask(f"/{app}/told").json
            check(told["words"] == ["-e", run], f"{app} was started with {told['words']}")
            groups = "ADMINS" if name == "jack" else ""
            expected = {"SHINYPROXY_USERNAME": name, "SHINYPROXY_USERGROUPS": groups, "SHINYPROXY_PUBLIC_PATH": f"/{app}/"}
            check(told["environment"] == expected, f"{app} of {name} knows {told['environment']}")
            check(told["headers"].get("x-sp-userid") == name, f"{app} is told {told['headers']}")
            check(person.ask(f"/{app}/").json["name"] == found[name, app], "the next request is on another container")
            for former in (f"/app/{app}", f"/app_direct/{app}/"):
                where = person.leads_to(f"{former}?a=b")
                check(where == (307, f"/{app}/?a=b"), f"{former} leads to {where}")
    check(len(set(found.values())) == len(found), f"somebody shares a container: {found}")
    world.note(f"{kind}: slowest of {len(found)} first openings", slowest)
    check(people["jack"].open("/board/").status == 200, "whoever is in the group may not open it")
    refused = people["jeff"].ask("/board/", page=True)
    check(refused.status == 403, f"whoever is not in the group gets {refused.status}")
    stranger = Visitor(moved.door).ask("/01_hello/")
    check(stranger.status == 401, f"whoever is not logged in gets {stranger.status}")
    everybody = moved.running()
    check(sorted(map(len, everybody.values())) == [2, 3], f"containers by owner: {everybody}")
    people["jack"].post("/_skep/logout")

    def jack_is_gone():
        left = moved.running()
        return len(left) == 1 and "jeff" in next(iter(left)) and len(next(iter(left.values()))) == 2
    until("what was jack's ends with his login", jack_is_gone, 60, 0.2)
    check(people["jeff"].ask("/01_hello/").json["name"] == found["jeff", "01_hello"], "another's logout was noticed")
    return everybody


def on_docker(world, node):
    moved = Moved(world, node, DOCKER)
    try:
        moved.add_users()
        moved.start()
        try_out(world, moved, "one engine")
    finally:
        moved.stop()
    until("every container is gone", lambda: not moved.running(), 60, 0.2)


def on_swarm(world, node):
    lab = world.lab
    secret = secrets.token_hex(32)
    moved = Moved(world, node, SWARM)
    check("`container-backend`: changed: `[swarm]`" in moved.report(), "the report does not speak of agents")
    moved.add_users()
    file = moved.home / "join-secret"
    file.write_text(secret)
    file.chmod(0o600)
    # As docs/swarm.md has it.
    lab.docker(node, "secret", "create", "skep_join", "-", stdin=secret)
    try:
        lab.docker(node, "service", "create", "--detach", "--name", AGENT, "--mode", "global", "--label", "skep.agent=true",
                   "--network", "host", "--secret", "skep_join", "--env", "SKEP_TASK_ID={{.Task.ID}}",
                   "--mount", "type=bind,source=/var/run/docker.sock,target=/var/run/docker.sock", "--user", "0:0",
                   "--no-resolve-image", "skep:lab", "agent")
        os.environ["SKEP_JOIN_SECRET_FILE"] = str(file)
        moved.start()
        until("Skep has an agent on every manager", lambda: world.stack.agents() == set(world.stack.managers), 90)
        everybody = try_out(world, moved, "Swarm")
        nodes = {node for rows in everybody.values() for node, _ in rows}
        check(len(nodes) > 1, f"all instances are on {nodes}")
        world.note("instances of two users are on nodes", len(nodes), "")
    finally:
        os.environ.pop("SKEP_JOIN_SECRET_FILE", None)
        moved.stop()
        # The stack that comes next finds nothing of this.
        lab.docker(node, "service", "rm", AGENT, check=False)
        for each in world.stack.managers:
            lab.docker(node, "node", "update", "--label-rm", "skep.agent", lab.hostname(each), check=False)
            until("its agent is gone", lambda: not lab.containers(each, f"com.docker.swarm.service.name={AGENT}"), 60, 0.2)
        lab.docker(node, "secret", "rm", "skep_join")
    until("every container is gone", lambda: not moved.running(), 60, 0.2)


def shinyproxy(world):
    """ShinyProxy's examples for Docker and for a Swarm, served from their own files: a container for each user and app."""
    for node in world.stack.managers:
        world.lab.docker(node, "tag", "app:lab", IMAGE)
    on_docker(world, 1)
    on_swarm(world, 2)
