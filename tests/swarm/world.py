"""What scenarios share: the lab, the stack on it, visitors who come once and stay, and the figures."""

import concurrent.futures
import dataclasses
import time

from lab import LabError, until
from visitors import CALM, PATIENCE, Companion, Visitor

APP = "/own/"


@dataclasses.dataclass
class Figure:
    scenario: str
    what: str
    value: float
    unit: str


class World:
    def __init__(self, lab, stack, database, image=None):
        # The real image, which may still be in the making.
        self.lab, self.stack, self.database, self.image = lab, stack, database, image
        self.docker = lab.ask(1, "/version")["Version"]
        self.figures = []
        self.scenario = ""
        self.companions = []

    def note(self, what, value, unit="s"):
        value = round(value, 2) if isinstance(value, float) else value
        self.figures.append(Figure(self.scenario, what, value, unit))
        print(f"    {what}: {value} {unit}".rstrip(), flush=True)

    # --- nodes ---------------------------------------------------------------------------------------------------------
    def alive(self):
        return [node for node in self.stack.managers if self.lab.answers(node)]

    def leader(self):
        return until("the Swarm has a leader", lambda: self.lab.leader(self.alive()), 30)

    def settled(self, seconds=120):
        """All nodes ready, all agents there, Skep answering: a fault is not laid on top of another."""
        def look():
            members = self.lab.members(self.alive())
            ready = {node for node, row in members.items() if row["Status"]["State"] == "ready"}
            reachable = all(row["ManagerStatus"]["Reachability"] == "reachable" for row in members.values()
                            if "ManagerStatus" in row)
            return reachable and ready == set(self.lab.launched) and self.stack.agents() == ready and self.stack.door.find()
        until("all nodes are ready and have an agent", look, seconds, 0.3)

    # --- visitors ------------------------------------------------------------------------------------------------------
    def people(self, number=10):
        """Visitors, each with an instance of their own, all the time."""
        self.stack.door.watch()
        while len(self.companions) < number:
            visitor = Visitor(self.stack.door)
            self.companions.append(Companion(visitor, APP, visitor.open(APP).json["name"]).start())
        return self.companions

    def by_node(self):
        """Companions by the node their instance is on."""
        # They may come only now.
        people = self.people()
        running = {row["name"]: row for row in self.stack.instances()}
        found = {}
        for companion in people:
            row = running.get(companion.name)
            check(row is not None, f"the instance {companion.name} runs nowhere")
            found.setdefault(row["node"], []).append(companion)
        return found

    def renew(self, hurried=()):
        """Takes note of the instances that visitors are on now, all being well. Something is about to go wrong with what these
        visit: they do not wait long for an answer."""
        for companion in self.companions:
            companion.patience = PATIENCE if companion in hurried else CALM
        asked = time.monotonic()
        for companion in self.companions:
            def well(companion=companion):
                # What was asked before may be an answer of the instance before, or still wait with another patience.
                last = companion.seen[-1] if companion.seen else None
                return last and last.good and last.began >= asked and last.name
            companion.name = until("everybody's app answers", well, 60)

    def elsewhere(self, avoid, least=3):
        """Some visitors' instances by node, on nodes that are none of these: moved there if need be, as nothing ever goes back
        to a node by itself."""
        def away():
            return {node: companions for node, companions in self.by_node().items() if node not in avoid}
        found = away()
        lack = least - max(map(len, found.values()), default=0)
        if lack <= 0:
            return found
        manager = self.leader()
        try:
            for node in avoid:
                self.lab.docker(manager, "node", "update", "--availability", "pause", self.lab.hostname(node))
            moving = [row["instance"] for row in self.stack.instances(avoid)][:2 * lack]
            # Each has visitors, who are given some seconds.
            with concurrent.futures.ThreadPoolExecutor() as pool:
                list(pool.map(lambda instance: self.stack.skep("stop", instance), moving))
            until("they have moved", lambda: len(self.stack.instances()) == len(self.companions)
                  and not set(moving) & {row["instance"] for row in self.stack.instances()}, 120, 0.5)
            self.renew()
        finally:
            for node in avoid:
                self.lab.docker(manager, "node", "update", "--availability", "active", self.lab.hostname(node))
        return away()

    def unharmed(self, companions, since, allow_cuts=False):
        """These never noticed anything."""
        for companion in companions:
            wrong = companion.failures(since)
            check(not wrong, f"a visitor who should not notice got {[(seen.status, seen.what) for seen in wrong[:3]]}")
            check(companion.names(since) <= {companion.name}, "a visitor who should not notice was on another instance")
            cuts = companion.cuts_since(since)
            check(allow_cuts or not cuts, f"a visitor who should not notice lost the WebSocket: {cuts[:2]}")
        self.note("slowest answer of those who should not notice",
                  max((companion.slowest(since) for companion in companions), default=0.0))

    def recovered(self, companions, since, seconds):
        """When the last of these had an app again for good."""
        asked = time.monotonic()

        def look():
            # What was asked before may still wait for an answer that never comes.
            last = [companion.seen[-1] for companion in companions if companion.seen]
            if not all(seen.good and seen.began >= asked for seen in last):
                return None
            again = [companion.again(since) for companion in companions]
            # One of them may have met with a failure just now.
            return None if None in again else max(again, default=since)
        return until("everybody has an app again", look, seconds)

    def close(self):
        for companion in self.companions:
            companion.end()
        for companion in self.companions:
            companion.stop()


def check(condition, otherwise):
    if not condition:
        raise LabError(otherwise)
    return condition
