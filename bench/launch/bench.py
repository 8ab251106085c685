#!/usr/bin/env python3
"""From a visitor's click to the first byte of an app in a container: what Skep adds to what the engine takes.

  sudo bench/launch/bench.py [--skep target/release/skep] [--rounds N] [--out DIR] [docker] [swarm]

`make bench-launch` builds what is needed and calls this. Each round starts a container that boots for 300 ms (a shell that sleeps, then
busybox's httpd) in turn: by Skep, with nothing running before (cold); by Skep with a seat kept warm; and beside Skep, by the engine's
API alone: create, start, ask its address every 2 ms until it answers. `swarm` does the same with one service per start on three
managers, agents on all of them. Engines are this script's own, in network namespaces; nothing is pulled, nothing is left.
"""

import argparse
import ctypes
import datetime
import http.client
import json
import os
import platform
import secrets
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/swarm"))

import images  # noqa: E402
from lab import Lab, UnixConnection, until  # noqa: E402

BOOT_MS = 300
IMAGE = "boots:lab"
BOOT = f"sleep {BOOT_MS / 1000}; exec httpd -f -p 8080 -h /www"
PORT = 8080


def make_image(lab, nodes):
    image = images.Image(lab.dir / "boots")
    shell = image.add(images.busybox(), "bin/busybox")
    for applet in ("sh", "sleep", "httpd"):
        (image.folder / "bin" / applet).symlink_to("busybox")
    shell.chmod(0o755)
    (image.folder / "www").mkdir()
    (image.folder / "www/index.html").write_text("hello\n")
    tar = image.pack(lab.dir / "boots.tar")
    for node in nodes:
        images.load(lab, node, tar, IMAGE, [f'CMD ["/bin/sh", "-c", "{BOOT}"]', "ENV PATH=/bin", "EXPOSE 8080"])


def call(lab, node, method, path, body=None, good=(200, 201, 204, 304)):
    connection = UnixConnection(lab.socket(node), 30)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, f"/v1.41{path}", body=text, headers={"Content-Type": "application/json"} if text else {})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status not in good:
            raise RuntimeError(f"{method} {path}: {answer.status} {said[:300]}")
        return json.loads(said) if said else None
    finally:
        connection.close()


def enter(space):
    """Puts this thread into a network namespace."""
    if ctypes.CDLL(None, use_errno=True).setns(space, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


class Inside:
    """Connections from within a node's network, which its containers' addresses are reached from."""

    def __init__(self, lab, node):
        self.space = os.open(f"/run/netns/{lab.space(node)}", os.O_RDONLY)
        self.own = os.open("/proc/self/ns/net", os.O_RDONLY)

    def answers(self, address, timeout=0.5):
        enter(self.space)
        try:
            connection = http.client.HTTPConnection(address, PORT, timeout=timeout)
            try:
                connection.request("GET", "/")
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False
            finally:
                connection.close()
        finally:
            enter(self.own)

    def await_answer(self, address, seconds=30):
        end = time.monotonic() + seconds
        while not self.answers(address):
            if time.monotonic() > end:
                raise RuntimeError(f"{address} does not answer")
            time.sleep(0.002)


def ms(began):
    return (time.monotonic() - began) * 1000


def engine_alone(lab, inside, network):
    """Milliseconds from the first call until the container answers, with the same limits Skep gives."""
    began = time.monotonic()
    spec = {"Image": IMAGE, "HostConfig": {"NetworkMode": network, "Init": True, "CapDrop": ["ALL"]}}
    made = call(lab, 1, "POST", "/containers/create", spec)["Id"]
    call(lab, 1, "POST", f"/containers/{made}/start")
    address = call(lab, 1, "GET", f"/containers/{made}/json")["NetworkSettings"]["Networks"][network]["IPAddress"]
    inside.await_answer(address)
    taken = ms(began)
    call(lab, 1, "DELETE", f"/containers/{made}?force=1")
    return taken


def swarm_alone(lab, insides, network, number):
    """The same by a service, its task looked for every 10 ms."""
    began = time.monotonic()
    spec = {"Name": f"alone{number}", "TaskTemplate": {
        "ContainerSpec": {"Image": IMAGE, "Init": True, "CapabilityDrop": ["ALL"]}, "RestartPolicy": {"Condition": "none"},
        "Networks": [{"Target": network}]}, "Mode": {"Replicated": {"Replicas": 1}}, "EndpointSpec": {"Mode": "dnsrr"}}
    made = call(lab, 1, "POST", "/services/create", spec)["ID"]
    filters = json.dumps({"service": [made]}).replace('"', "%22").replace(" ", "")

    def running():
        rows = call(lab, 1, "GET", f"/tasks?filters={filters}")
        row = next((row for row in rows if row["Status"]["State"] == "running"), None)
        return row and (row["NodeID"], row["Status"]["ContainerStatus"]["ContainerID"])
    node, container = until("the task runs", running, 30, 0.01)
    node = insides[node][0], insides[node][1]
    networks = call(lab, node[0], "GET", f"/containers/{container}/json")["NetworkSettings"]["Networks"]
    node[1].await_answer(next(iter(networks.values()))["IPAddress"])
    taken = ms(began)
    call(lab, 1, "DELETE", f"/services/{made}")
    until("the container is gone", lambda: gone(lab, node[0], container), 30)
    return taken


def gone(lab, node, container):
    return call(lab, node, "GET", f"/containers/{container}/json", good=(200, 404)).get("message") is not None


class Skep:
    """A server in the network of node 1, and agents in those of all nodes."""

    def __init__(self, lab, binary, kind, agents=()):
        self.lab, self.kind, self.binary = lab, kind, binary
        self.home = lab.dir / f"skep-{kind}"
        self.home.mkdir()
        secret = self.home / "join"
        secret.write_text(secrets.token_hex(32) + "\n")
        secret.chmod(0o600)
        common = f'image = "{IMAGE}"\nbackend = "{kind}"\nhealth.path = "/"\naccess.anyone = true\ncontainer.pull = "never"\n'
        # Every round has an app of its own: nothing of it runs before.
        apps = "".join(f"[apps.cold{n}]\n{common}" for n in range(100))
        apps += f"[apps.warm]\nmin_seats = 1\nseats = 1\nmax_instances = 50\n{common}"
        engine = f'[docker]\nhost = "unix://{lab.socket(1)}"\n' if kind == "docker" else (
            f'[swarm]\nmanagers = ["unix://{lab.socket(1)}"]\njoin_secret_file = "{secret}"\nhost_agents = true\n')
        config = self.home / "skep.toml"
        config.write_text(f'[server]\nlisten = ["0.0.0.0:8000"]\nallowed_hosts = ["bench.test"]\n{engine}{apps}')
        self.processes = [self.start(1, "serve", "--config", config, "--data-dir", self.home / "data", "--insecure-no-auth")]
        for node in agents:
            self.processes.append(self.start(
                node, "agent", "--join-secret-file", secret, "--docker", f"unix://{lab.socket(node)}", "--server",
                f"{lab.address(1)}:7443", "--spool-dir", self.home / f"spool{node}"))
        lab.at_end(self.end)
        self.connection = None
        until("Skep answers", lambda: self.get("/_skep/health/ready")[0] == 200, 30)

    def start(self, node, *words):
        with open(self.home / "log", "ab") as log:
            return subprocess.Popen(["nsenter", f"--net=/run/netns/{self.lab.space(node)}", self.binary, *map(str, words)],
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def get(self, path, timeout=60, headers=None):
        """Status and first bytes over a kept connection, as a browser has one."""
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.lab.address(1), 8000, timeout=timeout)
            self.connection.request("GET", path, headers={"Host": "bench.test", **(headers or {})})
            answer = self.connection.getresponse()
            return answer.status, answer.read(65536)
        except (OSError, http.client.HTTPException):
            self.connection = None
            return 0, b""

    def click(self, path, headers=None):
        began = time.monotonic()
        status, body = self.get(path, headers=headers)
        taken = ms(began)
        if status != 200 or b"hello" not in body:
            raise RuntimeError(f"{path}: {status} {body[:300]}\n{(self.home / 'log').read_text()[-1500:]}")
        return taken

    def command(self, *words):
        return subprocess.run([self.binary, *words, "--data-dir", self.home / "data"], capture_output=True, text=True, timeout=60)

    def end(self):
        self.command("stop", "--all")
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def warm_seat(skep, before):
    """Waits until a further seat is warm, then clicks as a new visitor with a browser: a launch page would be a failure."""
    def spare():
        rows = json.loads(skep.command("ps", "--json").stdout or "[]")
        return sum(row["app"] == "warm" and row["state"] == "ready" and row["taken"] == 0 for row in rows)
    until("a seat is warm", spare, 60, 0.1)
    time.sleep(0.3)
    return skep.click("/warm/", {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"})


def summary(values):
    return {"median_ms": round(statistics.median(values), 1), "min_ms": round(min(values), 1), "max_ms": round(max(values), 1),
            "all_ms": [round(value, 1) for value in values]}


def measure_docker(lab, binary, rounds):
    skep = Skep(lab, binary, "docker")
    inside = Inside(lab, 1)
    found = {"engine alone": [], "Skep, cold": [], "Skep, warm seat": []}
    # The first start makes the network and warms the engine's caches: it is nobody's.
    skep.click("/cold99/")
    for number in range(rounds):
        found["engine alone"].append(engine_alone(lab, inside, "skep"))
        found["Skep, cold"].append(skep.click(f"/cold{number}/"))
        skep.command("stop", f"cold{number}")
        found["Skep, warm seat"].append(warm_seat(skep, number))
    skep.end()
    return found


def measure_swarm(lab, binary, rounds):
    nodes = [1, 2, 3]
    skep = Skep(lab, binary, "swarm", nodes)
    ids = {row["ID"]: lab.number(row["Description"]["Hostname"]) for row in lab.ask(1, "/nodes")}
    insides = {node: (number, Inside(lab, number)) for node, number in ids.items()}
    until("agents on all nodes", lambda: all(
        (row["Spec"].get("Labels") or {}).get("skep.agent") == "true" for row in lab.ask(1, "/nodes")), 60)
    found = {"service alone": [], "Skep, cold": [], "Skep, warm seat": []}
    skep.click("/cold99/")
    for number in range(rounds):
        found["service alone"].append(swarm_alone(lab, insides, "skep_apps", number))
        found["Skep, cold"].append(skep.click(f"/cold{number}/"))
        skep.command("stop", f"cold{number}")
        found["Skep, warm seat"].append(warm_seat(skep, number))
    skep.end()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--skep", type=Path, default=target / "release/skep")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    parser.add_argument("kinds", nargs="*", metavar="docker|swarm")
    wanted = parser.parse_args()
    wanted.kinds = wanted.kinds or ["docker", "swarm"]
    if set(wanted.kinds) - {"docker", "swarm"}:
        parser.error("measure docker, swarm or both")
    if os.geteuid() != 0:
        sys.exit("run it as root: it makes network namespaces and starts engines")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    binary = wanted.skep.resolve()
    result = {"boot_ms": BOOT_MS, "rounds": wanted.rounds, "date": datetime.date.today().isoformat(),
              "build": "release" if "release" in binary.parts else "debug",
              "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load_before": os.getloadavg()[0]}}
    with Lab(nodes=3) as lab:
        lab.up([1, 2, 3] if "swarm" in wanted.kinds else [1])
        result["docker_version"] = lab.ask(1, "/version")["Version"]
        make_image(lab, [1, 2, 3] if "swarm" in wanted.kinds else [1])
        for kind in wanted.kinds:
            if kind == "swarm":
                lab.init([1, 2, 3])
            found = {"docker": measure_docker, "swarm": measure_swarm}[kind](lab, binary, wanted.rounds)
            rows = {name: summary(values) for name, values in found.items()}
            alone = next(iter(rows.values()))["median_ms"]
            result[kind] = {"rows": rows, "overhead_cold_ms": round(rows["Skep, cold"]["median_ms"] - alone, 1)}
            for name, row in rows.items():
                print(f"{kind:7} {name:16} median {row['median_ms']:7} ms   {row['min_ms']} .. {row['max_ms']}")
            print(f"{kind:7} cold, more than alone: {result[kind]['overhead_cold_ms']} ms", flush=True)
    if wanted.out:
        wanted.out.mkdir(parents=True, exist_ok=True)
        (wanted.out / "launch.json").write_text(json.dumps(result, indent=1) + "\n")
    left = lab.left_behind()
    sys.exit(f"left behind: {left}" if left else 0)


if __name__ == "__main__":
    main()
