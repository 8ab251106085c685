"""What goes wrong with nodes, and what visitors notice of it.

The clock starts with the fault. When the Swarm says that a node is down, in the same run, is what recovery is measured from:
within `GRACE` of it everybody has an app again.
"""

import concurrent.futures
import os
import threading
import time

from lab import NO_ANSWER, until
from scenarios import PEOPLE
from visitors import PATIENCE
from world import check

GRACE = 5.0
# Instances at least on the node that is lost.
LEAST = 3


def power_off(world):
    """Power-off of a node with instances: its visitors read what happens and get an app elsewhere, the others never notice."""
    _lose(world, world.lab.power_off, world.lab.start)


def cut(world):
    """A node's network is cut, and heals: no copy of an instance is left on it."""
    _lose(world, world.lab.cut, world.lab.heal)


def kill_dockerd(world):
    """kill -9 of a node's engine, whose containers run on, and its start."""
    _lose(world, world.lab.kill_dockerd, world.lab.start, runs_on=True)


def _lose(world, fault, mend, runs_on=False):
    # Where the Swarm takes Skep's own node for down at the same time, Skep goes elsewhere and everybody notices: that is `leader`'s.
    for _ in range(3):
        if _lose_once(world, fault, mend, runs_on):
            return
        world.note("once more: the Swarm took Skep's node for down, too", 1, "")
    check(False, "the Swarm took Skep's node for down each time, though nothing was wrong with it")


def _lose_once(world, fault, mend, runs_on):
    lab, stack = world.lab, world.stack
    world.people(PEOPLE)
    world.settled()
    world.renew()
    home, leader = stack.home()[0], world.leader()
    # Neither Skep's nor the leader's. Of those with enough to lose the one with the least: the time until everybody has an app again
    # is Skep's, and not what two processors need to start many at once.
    away = world.elsewhere({home, leader}, least=LEAST)
    enough = [node for node in away if len(away[node]) >= LEAST]
    node = min(enough, key=lambda node: len(away[node])) if enough else max(away, key=lambda node: len(away[node]))
    here = world.by_node()
    affected = here[node]
    world.renew(hurried=affected)
    watch = lab.watch(leader, node)
    began = time.monotonic()
    try:
        try:
            with Reloading(affected[0]) as reader:
                fault(node)
                down = watch.wait_down(60)
                again = world.recovered(affected, began, 60)
            if home not in watch.others_down:
                told(world, affected, reader, began, given_up(watch, down), again, runs_on)
        finally:
            # Whatever was found: what comes next begins with three nodes.
            mended = time.monotonic()
            mend(node)
        until("the Swarm says that the node is ready",
              lambda: lab.members([leader]).get(node, {}).get("Status", {}).get("State") == "ready", 90)
        world.note("mended until the Swarm says ready", time.monotonic() - mended)
        world.settled()
        stack.wait_order(leader)
        # No second surprise when the node is back.
        time.sleep(2)
        world.recovered(affected, mended, 60)
    finally:
        watch.close()
    note_given_up(world, watch)
    if home in watch.others_down:
        return False
    world.unharmed([companion for other in here.keys() - watch.others_down.keys() - {node} for companion in here[other]], began)
    world.renew()
    return True


def given_up(watch, down):
    """When the Swarm last said that a node is down. On a busy machine it may say so of one that it has not heard of for some
    seconds, though nothing is wrong with it: it ends what runs there, and Skep can only begin anew."""
    return max([down, *watch.others_down.values()])


def note_given_up(world, watch):
    if watch.others_down:
        world.note("nodes that the Swarm took for down though they were not", len(watch.others_down), "")


class Reloading:
    """Somebody who loads the page anew twice a second, answered or not. The others wait some seconds for each answer, all at the
    same time, and may have the app again without having read anything."""

    def __init__(self, companion):
        self.companion, self.pages = companion, set()
        self.end, self.pool = threading.Event(), concurrent.futures.ThreadPoolExecutor(16)
        self.thread = threading.Thread(target=self._reload, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        self.thread.join()
        self.pool.shutdown(cancel_futures=True)

    def _reload(self):
        while not self.end.wait(0.5):
            self.pool.submit(self._load)

    def _load(self):
        try:
            answer = self.companion.visitor.ask(self.companion.path, page=True, timeout=PATIENCE)
        except NO_ANSWER:
            return
        if answer.status != 200:
            self.pages.add(answer.page or answer.body[:120])


def told(world, affected, reader, began, down, again, runs_on=False):
    world.note("visitors of the node", len(affected), "")
    world.note("fault until the Swarm says down", down - began)
    world.note("fault until every visitor of the node has an app again", again - began)
    world.note("of that after the Swarm said down", max(0.0, again - down))
    check(again - down <= GRACE, f"an app again only {again - down:.1f} s after the Swarm's node-down")
    pages = [companion.pages(began) for companion in affected]
    texts = sorted(reader.pages.union(*pages))
    if not runs_on:
        # Whose request was under way when the node went may see nothing but its end, and then the app.
        check(any(" is down" in text for text in texts), f"no visitor of the node got a page that says what happens: {texts}")
    world.note("visitors who read what happens, rather than wait and reload", sum(map(bool, pages)), "")
    world.note("what they read", " | ".join(texts)[:300], "")


def kill_agent(world):
    """kill -9 of a node's agent: the Swarm starts it again, and its visitors go on where they were."""
    lab, stack = world.lab, world.stack
    world.people(PEOPLE)
    world.settled()
    world.renew()
    home = stack.home()[0]
    node = next(iter(world.elsewhere({home})))
    here = world.by_node()
    others = [companion for other, companions in here.items() if other != node for companion in companions]
    world.renew(hurried=here[node])
    container = stack.agent_container(node)
    began = time.monotonic()
    os.kill(lab.ask(node, f"/containers/{container}/json")["State"]["Pid"], 9)
    # That is the Swarm's own to do.
    until("another agent is there", lambda: stack.agent_container(node) not in (None, container), 60)
    there = time.monotonic()
    world.note("kill -9 of the agent until the Swarm has started another", there - began)
    time.sleep(3)
    again = world.recovered(here[node], began, 60)
    world.note("kill -9 of the agent until its visitors' apps answer for good", again - began)
    world.note("requests of theirs that were not answered by the app", sum(len(one.failures(began)) for one in here[node]), "")
    for companion in here[node]:
        check(companion.names(began) == {companion.name}, "a visitor went to another instance")
    check(again - there <= GRACE, f"apps answer again only {again - there:.1f} s after there was another agent")
    world.unharmed(others, began)
    world.settled()
    stack.wait_order(world.leader())


def leader(world):
    """Power-off of the leader, where Skep is, too: another manager gets Skep, with all it knew, and everybody an app."""
    lab, stack = world.lab, world.stack
    world.people(PEOPLE)
    world.settled()
    node = world.leader()
    if stack.home()[0] != node:
        move(world, node)
    world.renew(hurried=world.companions)
    here = world.by_node()
    affected = here.get(node, [])
    others = [companion for other, companions in here.items() if other != node for companion in companions]
    survivor = next(manager for manager in stack.managers if manager != node)
    watch = lab.watch(survivor, node)
    events = journal(world)
    began = time.monotonic()
    try:
        lab.power_off(node)
        down = watch.wait_down(120)
        world.note("fault until the Swarm says down", down - began)
        ready = until("Skep answers on another node", lambda: stack.door.find() and time.monotonic(), 120)
        world.note("fault until Skep answers on another node", ready - began)
        check(stack.home()[0] != node, "Skep is where it was")
        rest = world.recovered(others, began, 90)
        world.note("fault until the visitors of other nodes have their app again", rest - began)
        again = world.recovered(affected, began, 90)
        world.note("fault until the visitors of the node have an app again", again - began)
        # A new leader waits 8 s for nodes to report to it. One that is later is down for the Swarm, which ends what ran there.
        note_given_up(world, watch)
        since = max(ready, given_up(watch, down))
        # No bound: the Swarm itself has to start Skep elsewhere first.
        world.note("of that after the Swarm said down", max(0.0, max(rest, again) - given_up(watch, down)))
        check(max(rest, again) - since <= GRACE, f"an app again only {max(rest, again) - since:.1f} s after Skep answered")
        for companion in (one for other in here.keys() - watch.others_down.keys() - {node} for one in here[other]):
            check(companion.names(began) <= {companion.name}, "a visitor of another node lost the instance")
        check(journal(world) >= events > 0, "the journal was lost")
        world.note("events of the journal before and after", f"{events}, {journal(world)}", "")
    finally:
        lab.start(node)
        watch.close()
    world.settled(150)
    stack.wait_order(world.leader())
    world.renew()


def move(world, node):
    """Skep goes to this manager: the others take no new task for a moment."""
    lab, stack = world.lab, world.stack
    for other in stack.managers:
        if other != node:
            lab.docker(node, "node", "update", "--availability", "pause", lab.hostname(other))
    lab.docker(node, "service", "update", "-d", "--force", "skep_server")
    until("Skep has moved", lambda: (stack.server() or (None,))[0] == node and stack.door.find(), 120, 0.2)
    for other in stack.managers:
        lab.docker(node, "node", "update", "--availability", "active", lab.hostname(other))
    world.settled()


def journal(world):
    """Events in the journal, which is in PostgreSQL."""
    return int(world.database.ask("select count(*) from journal", "skep"))
