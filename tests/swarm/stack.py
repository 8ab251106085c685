"""Skep on the lab's Swarm: deploy/stack.yml as it is, adapted by the environment only."""

import base64
import json
import os
import secrets
import subprocess

import images
from lab import NO_ANSWER, Gone, LabError, until
from visitors import Door

STACK = images.ROOT / "deploy/stack.yml"
INSTANCE = "skep.instance"
SERVICE = "com.docker.swarm.service.name"

CONFIG = """
[server]
listen = ["0.0.0.0:8080"]
public_url = "http://apps.test"
trusted_proxies = ["ENTRANCE"]
cookie_key_file = "/run/secrets/skep_cookie_keys"
admin_listen = "127.0.0.1:9090"
max_starting = 16
[auth]
provider = "local"
[swarm]
join_secret_file = "/run/secrets/skep_join"
[defaults]
access.anyone = true
idle_timeout = "20m"
start_timeout = "3m"
limits.memory = "128MiB"
container.pull = "never"
[apps.own]
title = "One for each"
image = "app:lab"
per_user = true
[apps.all]
title = "One for all"
image = "app:lab"
seats = 50
[apps.pair]
title = "One for two"
image = "app:lab"
seats = 2
[apps.picky]
title = "One for each, where there are fast disks"
image = "app:lab"
per_user = true
container.placement.constraints = ["node.labels.disk == ssd"]
container.placement.preferences = ["node.labels.rack"]
"""


class Stack:
    def __init__(self, lab, managers, binary, store=None, apps=""):
        """`apps` is further configuration."""
        self.lab, self.managers, self.store = lab, list(managers), store
        self.door = Door([lab.address(node) for node in managers])
        self.binary = binary.absolute()
        self.config = lab.dir / "skep.toml"
        self.config.write_text(CONFIG.replace("ENTRANCE", lab.hub_address) + apps)
        self.skep_tar = images.skep(binary, lab.dir)
        self.app_tar = images.app(lab.dir)

    # --- deploying -----------------------------------------------------------------------------------------------------
    def load(self, node):
        images.load(self.lab, node, self.skep_tar, "skep:lab", images.skep_changes())
        images.load(self.lab, node, self.app_tar, "app:lab", images.APP_CHANGES)

    def deploy(self, manager):
        key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        self.lab.docker(manager, "secret", "create", "skep_join", "-", stdin=secrets.token_hex(32))
        self.lab.docker(manager, "secret", "create", "skep_cookie_keys", "-", stdin=f"v1 {secrets.token_hex(4)} {key}\n")
        environment = {"SKEP_IMAGE": "skep:lab", "SKEP_CONFIG_FILE": str(self.config), "RUST_LOG": "info,skep_agent=debug"}
        if self.store:
            environment["SKEP_STORE"] = self.store
        self.lab.docker(manager, "stack", "deploy", "--resolve-image", "never", "-c", str(STACK), "skep", env=environment)

    # --- the server ----------------------------------------------------------------------------------------------------
    def server(self):
        """The node Skep runs on, and its container there: None while there is none."""
        for node in self.lab.nodes:
            try:
                rows = self.lab.containers(node, f"{SERVICE}=skep_server", running=True)
            except NO_ANSWER:
                continue
            if rows:
                return node, rows[0]["Id"]
        return None

    def home(self):
        """The same, once there is one."""
        return until("Skep has a container", self.server, 60)

    def wait_ready(self, seconds=60):
        return until("Skep answers", self.door.find, seconds)

    def skep(self, *words, **how):
        """A command of Skep's, in the server's container."""
        node, container = self.home()
        # Only then does the client pass on what it reads.
        keep = ["-i"] if "stdin" in how else []
        return self.lab.docker(node, "exec", *keep, container, "skep", *words, **how)

    def skep_stream(self, *words):
        """The same as a process whose output can be read while it runs."""
        node, container = self.home()
        return subprocess.Popen(["docker", "-H", f"unix://{self.lab.socket(node)}", "exec", container, "skep", *words],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def ps(self):
        return json.loads(self.skep("ps", "--json"))

    def kill(self):
        """kill -9 of Skep's container, all processes of it."""
        node, container = self.home()
        os.kill(self.lab.ask(node, f"/containers/{container}/json")["State"]["Pid"], 9)

    # --- agents and instances ------------------------------------------------------------------------------------------
    def agents(self):
        """Nodes that Skep has an agent on: it labels them."""
        members = self.lab.members(self.managers).items()
        return {node for node, row in members if (row["Spec"].get("Labels") or {}).get("skep.agent") == "true"}

    def agent_container(self, node):
        rows = self.lab.containers(node, f"{SERVICE}=skep_agent", running=True)
        return rows[0]["Id"] if rows else None

    def instances(self, nodes=None):
        """Containers of instances that run: [{node, id, instance, name, started}], asked of every node's own engine."""
        found = []
        for node in nodes or self.lab.launched:
            try:
                rows = self.lab.containers(node, INSTANCE, running=True)
            except (ConnectionError, FileNotFoundError, TimeoutError):
                # Without power.
                continue
            for row in rows:
                try:
                    state = self.lab.ask(node, f"/containers/{row['Id']}/json")
                except Gone:
                    # It ended after the list was made.
                    continue
                found.append({"node": node, "id": row["Id"], "instance": row["Labels"][INSTANCE], "name": row["Id"][:12],
                              "owner": row["Labels"].get("skep.owner"), "started": state["State"]["StartedAt"],
                              "addresses": [network["IPAddress"] for network in state["NetworkSettings"]["Networks"].values()]})
        return found

    def services(self, manager):
        """Services of instances: instance id -> service."""
        rows = self.lab.ask(manager, "/services", filters={"label": [INSTANCE]})
        return {row["Spec"]["Labels"][INSTANCE]: row for row in rows}

    def disorder(self, manager):
        """What does not fit together: instances known to Skep, services of the Swarm and containers of all nodes should be the
        same, and nobody should have two of an app that is one for each."""
        known = {row["id"]: row for row in self.ps()}
        services = set(self.services(manager))
        running = self.instances()
        wrong = [f"service without an instance: {one}" for one in services - set(known)]
        wrong += [f"instance without a service: {one}" for one in set(known) - services]
        wrong += [f"container on node {row['node']} without an instance: {row['instance']}" for row in running
                  if row["instance"] not in known]
        ids = [row["instance"] for row in running]
        wrong += [f"instance with {ids.count(one)} containers: {one}" for one in known if ids.count(one) != 1]
        users = [(row["app"], row["user"]) for row in known.values() if row["user"]]
        wrong += [f"{users.count(user)} instances of {user}" for user in set(users) if users.count(user) != 1]
        return wrong

    def wait_order(self, manager, seconds=60):
        wrong = ["not looked yet"]

        def look():
            nonlocal wrong
            try:
                wrong = self.disorder(manager)
            except NO_ANSWER as error:
                wrong = [f"it cannot be looked up: {error}"]
            return not wrong
        try:
            until("services, containers and instances fit together", look, seconds, 0.5)
        except LabError as error:
            raise LabError(f"{error}: {wrong}") from None
