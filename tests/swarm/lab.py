"""Docker Swarm nodes on one machine: each a dockerd in network, mount and UTS namespaces of its own, joined by a bridge that is
in a namespace, too.

Names and subnet follow from the process id, so that several labs may run side by side. Node N has the address `lab.address(N)`;
this machine reaches the nodes from `lab.own_address`. Nothing listens outside these namespaces. `down` leaves no process, link,
namespace, mount, control group or file behind; `left_behind` says whether that is so.

Needs root, dockerd, the docker client, iproute2 and util-linux. Absent: images (see images.py) and anything of Skep.
"""

import concurrent.futures
import http.client
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path


class LabError(Exception):
    pass


class Gone(LabError):
    """What was asked for is not there any more."""


# What asking an engine, or Skep, may end in while nodes come and go.
NO_ANSWER = (OSError, LabError, ValueError, http.client.HTTPException)
# What a manager says while the managers elect a leader, or when something else of the same object was changed at the same
# moment (a node's state, its label): nothing was done, and the next try may be.
PASSING = ("update out of sequence", "does not have a leader", "is not a swarm manager", "code = Unavailable",
           "code = DeadlineExceeded", "context deadline exceeded")
OF_THE_SWARM = {"node", "service", "secret", "swarm", "stack"}


def finished(*words, stdin=None, timeout=120, env=None):
    """Runs a program to its end."""
    try:
        return subprocess.run([str(word) for word in words], input=stdin, capture_output=True, text=True, timeout=timeout,
                              env=None if env is None else {**os.environ, **env})
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(map(str, words))}: not within {timeout} s") from None


def outcome(words, done, check):
    if check and done.returncode:
        raise LabError(f"{' '.join(map(str, words))}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


def run(*words, check=True, **how):
    """Runs a program to its end; what it wrote to standard output."""
    return outcome(words, finished(*words, **how), check)


def until(what, look, seconds=60, every=0.05):
    """Looks until it finds something; what it found."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise LabError(f"not within {seconds} s: {what}")
        time.sleep(every)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Lab:
    def __init__(self, nodes=4):
        self.name = f"sw{os.getpid()}"
        # 100.64.0.0/10 is meant for inner networks and rarely used in homes and offices.
        self.network = ipaddress.ip_network((int(ipaddress.ip_address("100.64.0.0")) + (os.getpid() % 16384) * 256, 24))
        self.own_address, self.hub_address = str(self.network[253]), str(self.network[254])
        self.nodes = range(1, nodes + 1)
        self.dir = Path(tempfile.mkdtemp(prefix="skep-swarm-"))
        self.dir.chmod(0o755)
        self.launched = {}
        self.endings = []

    def at_end(self, ending):
        """Called when the lab goes down, before anything else ends."""
        self.endings.append(ending)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    # --- names ---------------------------------------------------------------------------------------------------------
    def address(self, node):
        return str(self.network[node])

    def hostname(self, node):
        return f"node{node}"

    def number(self, hostname):
        return int(hostname.removeprefix("node"))

    def socket(self, node):
        return self.dir / str(node) / "docker.sock"

    def space(self, part):
        return f"{self.name}-{part}"

    # --- coming up -----------------------------------------------------------------------------------------------------
    def up(self, nodes):
        """The hub and these nodes, each with its own engine."""
        hub = self.space("hub")
        run("ip", "netns", "add", hub)
        self.inside("hub", f"ip link set lo up; ip link add br0 type bridge; ip addr add {self.hub_address}/24 dev br0; "
                           "ip link set br0 up")
        self._wire("u", None, f"ip addr add {self.own_address}/24 dev {self.name}u; ip link set {self.name}u up")
        self.add(nodes)

    def add(self, nodes):
        """Further nodes, not yet in the Swarm."""
        for node in nodes:
            run("ip", "netns", "add", self.space(node))
            self._wire(f"n{node}", node,
                       f"ip link set lo up; ip link set {self.name}n{node} name eth0; "
                       f"ip addr add {self.address(node)}/24 dev eth0; ip link set eth0 up; "
                       f"ip route add default via {self.hub_address}")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(self.start, nodes))

    def _wire(self, end, node, then):
        """A link from the hub's bridge to a node, or to this machine."""
        far = f"{self.name}{end}"
        near = f"{far}h"
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
        run("ip", "link", "set", near, "netns", self.space("hub"))
        self.inside("hub", f"ip link set {near} master br0 up")
        if node is None:
            run("sh", "-ec", then)
        else:
            run("ip", "link", "set", far, "netns", self.space(node))
            self.inside(node, then)

    def init(self, managers):
        """The Swarm, of these nodes."""
        first, *others = managers
        # A node that is gone is noticed in seconds, and one that only has much to do is not taken for gone: all nodes together have
        # the processors of one machine.
        self.docker(first, "swarm", "init", "--advertise-addr", self.address(first), "--listen-addr",
                    f"{self.address(first)}:2377", "--dispatcher-heartbeat", "2s")
        for node in others:
            self.join(node, "manager", first)

    def join(self, node, role, manager):
        token = self.docker(manager, "swarm", "join-token", "-q", role).strip()
        words = ("swarm", "join", "--advertise-addr", self.address(node), "--listen-addr", f"{self.address(node)}:2377",
                 "--token", token, f"{self.address(manager)}:2377")
        said = [""]

        def joined():
            state = self.ask(node, "/info")["Swarm"]["LocalNodeState"]
            if state == "inactive":
                # The managers may not yet be ready for one more.
                done = finished("docker", "-H", f"unix://{self.socket(node)}", *words)
                said[0] = done.stderr.strip()
                return done.returncode == 0
            # After 20 s the client gives up, and the engine goes on.
            return state == "active"
        try:
            until(f"node {node} has joined", joined, 90, 0.5)
        except LabError as error:
            raise LabError(f"{error}: {said[0][-600:]}") from None

    def start(self, node):
        """Starts a node's engine; after `power_off`, plugs the node in again first."""
        home = self.dir / str(node)
        # The managers agree on nothing before each has written it down. They share one disk, which others write to, too; in memory it
        # outlives an engine just as well.
        state = home / "data/swarm"
        if not state.exists():
            state.mkdir(parents=True)
            run("mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", state)
        # Stale process ids may be somebody else's by now, and an engine would wait for that somebody.
        for stale in (home / "dockerd.pid", home / "exec/containerd/containerd.pid"):
            stale.unlink(missing_ok=True)
        self.heal(node)
        # The second socket is where stacks expect it; /run is the node's own.
        script = (f"mount -t tmpfs tmpfs /run && hostname {self.hostname(node)} && "
                  "exec env DOCKER_SERVICE_PREFER_OFFLINE_IMAGE=1 "
                  f"dockerd --data-root {home}/data --exec-root {home}/exec --pidfile {home}/dockerd.pid "
                  f"-H unix://{self.socket(node)} -H unix:///var/run/docker.sock --cgroup-parent /{self.space(node)}")
        with open(home / "dockerd.log", "ab") as log:
            self.launched[node] = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.space(node)}", "unshare", "--mount", "--uts", "--propagation", "private",
                 "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            until(f"the engine of node {node} answers", lambda: self.answers(node), 120, 0.1)
        except LabError:
            raise LabError(f"node {node} did not start: {(home / 'dockerd.log').read_text()[-800:]}") from None

    # --- faults --------------------------------------------------------------------------------------------------------
    def power_off(self, node):
        """Everything of the node is gone at once, and nobody is told: the link goes first."""
        self.cut(node)
        self._kill(lambda: self._processes(node))

    def kill_dockerd(self, node):
        """The engine crashes; its containers run on."""
        daemons = [int(text) for file in ("dockerd.pid", "exec/containerd/containerd.pid")
                   if (text := self._text(self.dir / str(node) / file))]
        self._kill(lambda: [pid for pid in daemons if self._alive(pid)])

    def cut(self, node):
        self.inside(node, "ip link set eth0 down")

    def heal(self, node):
        self.inside(node, f"ip link set eth0 up; ip route replace default via {self.hub_address}")

    # --- looking -------------------------------------------------------------------------------------------------------
    def inside(self, part, script, **how):
        """Runs a shell script in the network of a node or of the hub."""
        return run("nsenter", f"--net=/run/netns/{self.space(part)}", "sh", "-ec", script, **how)

    def docker(self, node, *words, check=True, **how):
        """The client's command on a node; once more while the Swarm has no leader, or when another change came first."""
        command = ("docker", "-H", f"unix://{self.socket(node)}", *words)
        end, again = time.monotonic() + 45, False
        while True:
            done = finished(*command, **how)
            refused = done.returncode and words[0] in OF_THE_SWARM
            if refused and again and words[1] == "create" and re.search("already exists|name conflicts", done.stderr):
                # The try before was carried out, though it was not answered.
                return done.stdout
            if not (refused and any(text in done.stderr for text in PASSING)) or time.monotonic() > end:
                return outcome(command, done, check)
            again = True
            time.sleep(0.5)

    def ask(self, node, path, timeout=30, **query):
        """The engine's answer to a GET."""
        if query:
            path += "?" + urllib.parse.urlencode(
                {key: value if isinstance(value, str) else json.dumps(value) for key, value in query.items()})
        connection = UnixConnection(self.socket(node), timeout)
        try:
            connection.request("GET", f"/v1.41{path}")
            answer = connection.getresponse()
            body = json.loads(answer.read() or b"null")
        finally:
            connection.close()
        if answer.status != 200:
            raise (Gone if answer.status == 404 else LabError)(f"node {node}, {path}: {answer.status} {body}")
        return body

    def answers(self, node):
        try:
            return bool(self.ask(node, "/version", timeout=5))
        except NO_ANSWER:
            return False

    def containers(self, node, label, running=False):
        """What `docker ps` says of the containers with a label."""
        return self.ask(node, "/containers/json", all="false" if running else "true", filters={"label": [label]})

    def members(self, managers):
        """The Swarm's nodes by number, as the first manager that answers has them."""
        for manager in managers:
            try:
                # A manager without a leader keeps one waiting.
                rows = self.ask(manager, "/nodes", timeout=3)
            except NO_ANSWER:
                continue
            # A node that has just joined has no name yet.
            named = {row["Description"].get("Hostname"): row for row in rows}
            return {self.number(name): row for name, row in named.items() if name}
        return {}

    def leader(self, managers):
        members = self.members(managers).items()
        return next((node for node, row in members if row.get("ManagerStatus", {}).get("Leader")), None)

    def watch(self, manager, node):
        return NodeWatch(self, manager, node)

    # --- going down ----------------------------------------------------------------------------------------------------
    def down(self):
        """Ends and removes everything, whatever state it is in."""
        while self.endings:
            self.endings.pop()()
        self._kill(lambda: [pid for node in self.nodes for pid in self._processes(node)])
        for launched in self.launched.values():
            launched.wait()
        for part in [*self.nodes, "hub"]:
            run("ip", "netns", "del", self.space(part), check=False)
        run("ip", "link", "del", f"{self.name}u", check=False)
        for mount in reversed(self._mounts()):
            run("umount", mount, check=False)
        # What was killed may take a moment to go.
        end = time.monotonic() + 30
        while True:
            for group in self._groups():
                try:
                    group.rmdir()
                except OSError:
                    pass
            if not os.environ.get("KEEP"):
                shutil.rmtree(self.dir, ignore_errors=True)
            if not self.left_behind() or time.monotonic() > end:
                return
            time.sleep(0.2)

    def left_behind(self):
        """What `down` could not remove; empty when all is well."""
        spaces = [line for line in run("ip", "netns", "list").splitlines() if line.startswith(f"{self.name}-")]
        links = [line.split(":")[1].strip() for line in run("ip", "-o", "link").splitlines() if f" {self.name}" in line]
        processes = [pid for node in self.nodes for pid in self._processes(node)]
        files = [str(self.dir)] if self.dir.exists() and not os.environ.get("KEEP") else []
        return [*map(str, processes), *spaces, *links, *self._mounts(), *map(str, self._groups()), *files]

    def _processes(self, node):
        """Processes in the node's control groups, and those whose command line names the node's folder."""
        found = set()
        for group in self._groups(node):
            found |= {int(pid) for pid in self._text(group / "cgroup.procs").split()}
        folder = f"{self.dir}/{node}/".encode()
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    if folder in Path(f"/proc/{entry}/cmdline").read_bytes() and self._alive(int(entry)):
                        found.add(int(entry))
                except OSError:
                    continue
        return found

    def _groups(self, node=None):
        """The nodes' control groups, the innermost first."""
        names = {self.space(one) for one in ([node] if node else self.nodes)}
        root = Path("/sys/fs/cgroup")
        tops = [path for controller in [root, *root.iterdir()] if controller.is_dir()
                for name in names if (path := controller / name).is_dir()]
        return [Path(folder) for top in tops for folder, _, _ in os.walk(top, topdown=False)]

    def _mounts(self):
        lines = Path("/proc/mounts").read_text().splitlines()
        return [mount for line in lines if (mount := line.split()[1]).startswith(f"{self.dir}/")]

    def _kill(self, which):
        """SIGKILL, again and again, until there is nobody left."""
        # One that waits for a disk ends only when that has answered.
        end = time.monotonic() + 60
        while time.monotonic() < end:
            alive = which()
            if not alive:
                return
            for pid in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            for launched in self.launched.values():
                launched.poll()
            time.sleep(0.05)
        raise LabError(f"processes that SIGKILL does not end: {which()}")

    @staticmethod
    def _alive(pid):
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    @staticmethod
    def _text(path):
        try:
            return path.read_text().strip()
        except OSError:
            return ""


class NodeWatch:
    """When a manager first said that a node is down, and when it said that it is ready again; on the clock `time.monotonic`.

    Of other nodes: which were taken for down, too, and when. It asks twenty times a second rather than reading events: a manager that has just been elected tells no event of what it
    found when it began.
    """

    def __init__(self, lab, manager, node):
        self.down_at = self.ready_at = None
        self.others_down = {}
        self._lab, self._manager, self._node = lab, manager, node
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self):
        while not self._end.wait(0.05):
            members = self._lab.members([self._manager])
            row = members.get(self._node)
            state, now = row["Status"]["State"] if row else None, time.monotonic()
            for node, other in members.items():
                if node != self._node and other["Status"]["State"] == "down":
                    self.others_down.setdefault(node, now)
            if state == "down" and self.down_at is None:
                self.down_at = now
            if state == "ready" and self.down_at is not None and self.ready_at is None:
                self.ready_at = now

    def wait_down(self, seconds):
        return until(f"node {self._node} is down for node {self._manager}", lambda: self.down_at, seconds)

    def wait_ready(self, seconds):
        return until(f"node {self._node} is ready again for node {self._manager}", lambda: self.ready_at, seconds)

    def close(self):
        self._end.set()
        self._thread.join(5)
