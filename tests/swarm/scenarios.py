"""What is tried on the Swarm, in the order it is tried. A scenario is a function of the `World`; its first line of text says
what it shows. What goes wrong with nodes is in faults.py.
"""

import concurrent.futures
import contextlib
import os
import select
import time
from pathlib import Path

from lab import LabError, finished, until
from visitors import Visitor
from world import APP, check

PEOPLE = 10
# What a node offers to whoever reaches it: Skep's front door, the door agents prove themselves at, and Docker's own two.
MEANT_TO_BE_OPEN = {80, 7443, 2377, 7946}
PORTS = 10_000


def ground(world):
    """What the Swarm itself does: a manager that loses power is down in seconds, and back when it is on again."""
    lab = world.lab
    leader = world.leader()
    node = next(node for node in world.stack.managers if node != leader)
    watch = lab.watch(leader, node)
    try:
        began = time.monotonic()
        lab.power_off(node)
        world.note("power-off until the Swarm says down", watch.wait_down(60) - began)
        check(not lab.answers(node), "the engine of a node without power answers")
        began = time.monotonic()
        lab.start(node)
        world.note("power until the Swarm says ready", watch.wait_ready(90) - began)
    finally:
        watch.close()
    until("all managers can be reached", lambda: [row.get("ManagerStatus", {}).get("Reachability") for row in lab.members([leader]).values()]
          == ["reachable"] * len(world.stack.managers), 60)


def deploy(world):
    """`docker stack deploy` on three managers: Skep answers, an agent on every node."""
    began = time.monotonic()
    world.stack.deploy(1)
    try:
        world.stack.wait_ready(120)
        world.note("stack deploy until Skep answers", time.monotonic() - began)
        until("Skep has an agent on every manager", lambda: world.stack.agents() == set(world.stack.managers), 120)
        world.note("stack deploy until every node has an agent", time.monotonic() - began)
    except LabError:
        print(world.lab.docker(1, "service", "ps", "--no-trunc", "skep_server", "skep_agent", check=False))
        raise
    until("the health check is content", lambda: "(healthy)" in world.lab.docker(
        world.stack.home()[0], "ps", "--filter", "name=skep_server", "--format", "{{.Status}}"), 90, 0.5)


def guests(world):
    """Ten visitors without a login open the same app: an instance each, spread over the nodes, and they stay on it."""
    began = time.monotonic()
    people = world.people(PEOPLE)
    world.note(f"{PEOPLE} visitors, one after the other, until all have an app", time.monotonic() - began)
    names = {companion.name for companion in people}
    check(len(names) == PEOPLE, f"{PEOPLE} visitors share {len(names)} instances")
    where = {node: len(companions) for node, companions in world.by_node().items()}
    check(set(where) == set(world.stack.managers), f"instances are on the nodes {where} only")
    world.note("instances by node", ", ".join(f"{node}: {count}" for node, count in sorted(where.items())), "")
    since = time.monotonic()
    time.sleep(2)
    world.unharmed(people, since)
    late = [Visitor(world.stack.door) for _ in range(2)]
    late[0].jar = dict(people[0].visitor.jar)
    check(late[0].ask(APP).json["name"] == people[0].name, "the same cookies lead to another instance")
    world.stack.wait_order(world.leader())


def isolation(world):
    """Tried from inside: no neighbour's port, no admin port, no Docker socket, and nothing of an agent's to connect to."""
    lab, stack = world.lab, world.stack
    # They may come only now.
    world.people(PEOPLE)
    instances = stack.instances()
    node, container = stack.home()
    inspected = lab.ask(node, f"/containers/{container}/json")["NetworkSettings"]["Networks"]
    skep = [network["IPAddress"] for network in inspected.values()]
    nodes = [lab.address(node) for node in stack.managers]
    neighbours = [f"{address}:8080" for row in instances for address in row["addresses"] if address]
    check(len(neighbours) >= PEOPLE, "instances have no addresses")
    asked = 0
    for node, companions in world.by_node().items():
        visitor, own = companions[0].visitor, companions[0].name
        who = visitor.ask(f"{APP}who").json
        mine = [f"{address}:8080" for address in who["addresses"].values()]
        hosts = {*nodes, *skep, who["gateway"], "172.17.0.1", "172.18.0.1"}
        closed = [f"{host}:{port}" for host in hosts for port in (2375, 2376, 7001, 8080, 9090, 9323)]
        front = f"{lab.address(stack.home()[0])}:80"
        places = sorted({*neighbours, *mine, *closed, front})
        found = visitor.ask(f"{APP}reach?" + "&".join(f"at={place}" for place in places), timeout=120).json
        asked += len(found)
        # What is tried does find what may be found, on a busy machine perhaps not among so many at a time.
        until("an instance finds itself and the front door", lambda: visitor.ask(f"{APP}reach?at={mine[0]}&at={front}").json
              == {mine[0]: own, front: "open"}, 30, 0.2)
        others = {place: name for place, name in found.items() if name not in ("refused", "nobody", own) and place != front}
        check(not others, f"from an instance on node {node}: {others}")
        for host in {who["gateway"], *nodes}:
            open_ports = set(visitor.ask(f"{APP}open?host={host}&to={PORTS}", timeout=240).json)
            asked += PORTS
            check(open_ports <= MEANT_TO_BE_OPEN, f"from node {node} an instance reaches {host} at {open_ports}")
        files = visitor.ask(f"{APP}files").json
        check(files == {"here": [], "environment": []}, f"an instance sees {files}")
    world.note("places tried from inside that must not answer", asked, "")
    for node in stack.managers:
        listening = sockets_listening(lab, node, stack.agent_container(node))
        check(not listening, f"the agent of node {node} listens: {listening}")


def sockets_listening(lab, node, container):
    """TCP and UDP sockets that processes of a container listen on."""
    pids = [int(row[1]) for row in lab.ask(node, f"/containers/{container}/top")["Processes"]]
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(fd)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for kind, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/{pids[0]}/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and fields[9] in inodes:
                found.append(f"{kind} {fields[1]}")
    return found


def kill_skep(world):
    """kill -9 of Skep: the Swarm starts it again, and the same visitors are on the same instances, none restarted."""
    people = world.people(PEOPLE)
    world.renew(hurried=people)
    before = {row["instance"]: (row["id"], row["started"]) for row in world.stack.instances()}
    home = world.stack.home()
    began = time.monotonic()
    world.stack.kill()
    # Whoever looks late may find the next one already.
    until("Skep is gone", lambda: not world.stack.door.is_open(world.stack.door.address)
          or world.stack.server() not in (None, home), 30, 0.01)
    until("Skep answers again", world.stack.door.find, 90)
    world.note("kill -9 until Skep answers again", time.monotonic() - began)
    end = world.recovered(people, began, 60)
    world.note("kill -9 until every visitor has the app again", end - began)
    time.sleep(2)
    for companion in people:
        check(companion.names(began) == {companion.name}, f"a visitor went to another instance: {companion.names(began)}")
    after = {row["instance"]: (row["id"], row["started"]) for row in world.stack.instances()}
    check(before == after, f"containers were changed: {set(before.items()) ^ set(after.items())}")
    world.note("containers restarted", 0, "")
    world.settled()
    world.stack.wait_order(world.leader())


def look(world):
    """An instance on another node than Skep's: its log is followed, its processor time and memory are seen."""
    stack = world.stack
    companion = next(iter(world.elsewhere({stack.home()[0]}).values()))[0]
    row = next(row for row in stack.instances() if row["name"] == companion.name)

    def used():
        found = next(known for known in stack.ps() if known["id"] == row["instance"])
        check(found["node"] not in ("", "local"), f"skep ps does not say where it is: {found}")
        return found

    def known():
        """An agent measures now and then: an instance that has only just started may not have been."""
        found = used()
        return (found["memory"] or 0) > 1 << 20 and found["cpu"] is not None and found
    before = until("skep ps knows memory and processor time", known, 45, 0.3)["cpu"]
    companion.visitor.ask(f"{APP}burn?s=0.5")
    until("skep ps sees the processor time", lambda: (used()["cpu"] or 0) >= before + 0.4, 45, 0.3)
    follow = stack.skep_stream("logs", row["instance"], "-f")
    try:
        lines = Lines(follow)
        lines.until("listening")
        for number in range(3):
            began = time.monotonic()
            companion.visitor.ask(f"{APP}say?line=line-{number}")
            lines.until(f"line-{number}")
        world.note("a line written on another node until `skep logs -f` prints it, request included", time.monotonic() - began)
    finally:
        follow.kill()
        follow.wait()


class Lines:
    """What a process writes. Read without a buffer below, in which lines could be that nobody is told of."""

    def __init__(self, process):
        self.stream, self.said = process.stdout.fileno(), b""

    def until(self, text, seconds=45):
        """Reads until there is a whole line with the text, and goes on behind it the next time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            line, found, rest = self.said.partition(b"\n")
            if found:
                self.said = rest
                if text.encode() in line:
                    return
            elif select.select([self.stream], [], [], 0.2)[0]:
                read = os.read(self.stream, 65536)
                if not read:
                    break
                self.said += read
        raise LabError(f"`skep logs` does not say {text!r}")


def seats(world):
    """Seats of one instance: visitors share it with their WebSockets open, and who finds none free gets another instance."""
    stack, apps = world.stack, ("all", "pair")

    def rows():
        return [row for row in stack.ps() if row["app"] in apps]
    try:
        with contextlib.ExitStack() as open_now:
            found = {app: [] for app in apps}
            for app in apps:
                for _ in range(3):
                    visitor = Visitor(stack.door)
                    found[app].append(visitor.open(f"/{app}/").json["name"])
                    # A seat is kept while something of the page is open.
                    echo = open_now.enter_context(visitor.websocket(f"/{app}/ws"))
                    check(echo.say("here") == "here", f"the WebSocket of {app} says something else")
                    check(visitor.ask(f"/{app}/").json["name"] == found[app][-1], f"a visitor of {app} came to another instance")
            check(len(set(found["all"])) == 1, f"three visitors, 50 seats, and the instances {found['all']}")
            first, second, third = found["pair"]
            check(first == second != third, f"three visitors, two seats each, and the instances {found['pair']}")
            wanted = [("all", 3), ("pair", 1), ("pair", 2)]
            until("as many seats are taken as there are visitors",
                  lambda: sorted((row["app"], row["taken"]) for row in rows()) == wanted, 30, 0.3)
            stack.wait_order(world.leader())
        world.note("instances of three visitors: with 50 seats, with two", "1, 2", "")
    finally:
        # What comes next counts on the instances of its own visitors alone.
        ids = {row["id"] for row in rows()}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda instance: stack.skep("stop", instance), ids))
        until("the shared apps have ended",
              lambda: not rows() and not ids & {row["instance"] for row in stack.instances()}, 180, 0.5)


def refused(world):
    """An agent with another secret is refused, by name, and gets no call."""
    lab, stack = world.lab, world.stack
    node = next(node for node in stack.managers if node != stack.home()[0])
    secret = lab.dir / "wrong-secret"
    secret.write_text("0" * 64)
    lab.docker(node, "run", "-d", "--name", "stranger", "--network", "host", "--user", "0:0", "-v",
               "/var/run/docker.sock:/var/run/docker.sock", "-v", f"{secret}:/secret:ro", "-e", "RUST_LOG=info", "skep:lab", "agent",
               "--spool-dir", "/tmp/spool", "--join-secret-file", "/secret", "--server", f"{lab.address(stack.home()[0])}:7443")
    try:
        said = until("the stranger is told so", lambda: refusal(lab.docker(node, "logs", "stranger", check=False)
                                                              + server_log(world)), 60, 0.3)
        world.note("an agent with another secret", said.strip()[-160:], "")
    finally:
        lab.docker(node, "rm", "-f", "stranger")


def refusal(log):
    return next((line for line in log.splitlines() if "secret" in line.lower() or "proof" in line.lower()), None)


def server_log(world):
    node, container = world.stack.home()
    done = finished("docker", "-H", f"unix://{world.lab.socket(node)}", "logs", "--tail", "400", container)
    return done.stdout + done.stderr


def join(world):
    """`docker swarm join` of two workers, and nothing else: agents on both, new instances go there, and where an app wants them."""
    lab, stack = world.lab, world.stack
    nodes = [node for node in lab.nodes if node not in stack.managers]
    lab.add(nodes)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(stack.load, nodes))
    manager = world.leader()
    began = time.monotonic()
    for node in nodes:
        lab.join(node, "worker", manager)
    until("Skep has an agent on both", lambda: set(nodes) <= stack.agents(), 120)
    world.note("docker swarm join of two until Skep has an agent on both", time.monotonic() - began)

    def came(path):
        """The node where somebody new gets an instance."""
        name = Visitor(stack.door).open(path).json["name"]
        return next((row["node"] for row in stack.instances() if row["name"] == name), None)
    until("a new visitor's instance is on a worker", lambda: came(APP) in nodes, 60)
    world.note("docker swarm join until a visitor's app answers there", time.monotonic() - began)
    where = [came(APP) for _ in range(4)]
    check(set(where) == set(nodes), f"instances go to workers when there are any, and to all of them; these are on {where}")
    # An app that wants one of the two, although the other has less to do; and spreads over racks.
    for node, label in zip(nodes, ("disk=ssd", "rack=b")):
        lab.docker(manager, "node", "update", "--label-add", label, lab.hostname(node))
    where = [came("/picky/") for _ in range(4)]
    check(set(where) == {nodes[0]}, f"the app wants to be on node {nodes[0]}, and is on {where}")
    wanted = [row["Spec"]["TaskTemplate"]["Placement"] for row in stack.services(manager).values()
              if row["Spec"]["Labels"]["skep.app"] == "picky"]
    check(len(wanted) == 4, f"{len(wanted)} services of the app")
    for placement in wanted:
        check(placement["Preferences"] == [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}], f"the Swarm was told {placement}")
    world.note("instances on workers only, where a constraint wants them", len(wanted), "")
