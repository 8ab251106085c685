"""A PostgreSQL beside the Swarm, as an installation would have one: in the hub's network, from this machine's packages."""

import signal
import subprocess
from pathlib import Path

from lab import LabError, run, until

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "LC_ALL=C"]


class Database:
    def __init__(self, lab):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not found:
            raise LabError("PostgreSQL is missing: apt-get install postgresql")
        self.bin, self.dir = found[-1], lab.dir / "postgres"
        self.dir.mkdir()
        self.dir.chmod(0o777)
        address, data = lab.hub_address, self.dir / "data"
        run(*NOBODY, self.bin / "initdb", "-A", "trust", "-U", "skep", "-E", "UTF8", "--no-sync", "-D", data)
        with open(data / "pg_hba.conf", "a") as rules:
            rules.write(f"host all all {lab.network} trust\n")
        with open(self.dir / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{lab.space('hub')}", *NOBODY, str(self.bin / "postgres"), "-D", str(data), "-k",
                 str(self.dir), "-c", f"listen_addresses={address}", "-c", "fsync=off"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        lab.at_end(self.stop)
        until("PostgreSQL answers", lambda: self.ask("select 1") == "1", 90, 0.1)
        self.url = f"postgres://skep@{address}/skep?sslmode=disable"
        run(self.bin / "psql", "-h", self.dir, "-U", "skep", "-d", "postgres", "-Atc", "create database skep")

    def ask(self, sql, database="postgres"):
        return run(self.bin / "psql", "-h", self.dir, "-U", "skep", "-d", database, "-Atc", sql, check=False).strip()

    def stop(self):
        self.process.send_signal(signal.SIGQUIT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
