#!/usr/bin/env python3
"""Public attack tools against the release build: slowhttptest in its three manners, sslyze against its TLS.

  attack.py [--seconds 90] [--out FILE]

slowhttptest holds hundreds of connections with heads, bodies or reads that hardly move, while a visitor of our own asks for
a page a few times a second: every one of these must be answered, and the attack's connections must be closed by the server in
time. sslyze compares the TLS settings with Mozilla's "intermediate" profile. Fails when any of it does not hold.

Slow bodies go to an app that reads them: a static page refuses them at their head. Of slow heads and bodies slowhttptest itself
must say that none is open any more. A slow reader does not learn of its end before it has read what the kernel holds for it, so
there the sockets that the server still has are counted.
"""

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from servers import HERE, SKEP, Stage, fetch, free_port, until, write

CONNECTIONS = 800
# Seconds that each manner gets at least: with the default limits a slow body and a slow read are over after 60.
LEAST = 90
# The visitor's own connections, and those of slowhttptest's look whether the server answers.
BESIDE = 10
# How slowhttptest ends when every connection was closed on it.
ALL_CLOSED = "No open connections left"
MANNERS = {
    "slow heads": ("page", ["-H", "-i", "10"]),
    "slow bodies": ("take", ["-B", "-i", "10", "-s", "8192"]),
    "slow reads": ("page", ["-X", "-w", "1", "-y", "8", "-n", "5", "-z", "8"]),
}


class Visitor(threading.Thread):
    """Somebody who only wants the page."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.times, self.failed, self.over = port, [], [], threading.Event()

    def run(self):
        while not self.over.wait(0.2):
            began = time.monotonic()
            try:
                status = fetch(self.port, "/page/")[0]
                if status != 200:
                    self.failed.append(str(status))
            except OSError as error:
                self.failed.append(str(error))
            self.times.append(time.monotonic() - began)

    def end(self):
        self.over.set()
        self.join()
        return {"requests": len(self.times), "failed": self.failed, "slowest_s": round(max(self.times), 3)}


def held(port):
    """Connections of the port that a process still has: those it has closed, of which the kernel has bytes left, belong to none."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[1].rpartition(":")[2], 16) == port and row[3] != "0A" and row[9] != "0" for row in rows)


def slow(port, manner, seconds, dir):
    """One attack; what slowhttptest says of it at its end, what the server held of it, and how the visitor fared meanwhile."""
    app, words = MANNERS[manner]
    visitor = Visitor(port)
    visitor.start()
    file, most, now, end = dir / f"{manner}.txt", 0, 0, time.monotonic() + seconds + 60
    with open(file, "wb") as said:
        attack = subprocess.Popen(
            ["slowhttptest", "-c", str(CONNECTIONS), "-r", "200", "-l", str(seconds), "-x", "24", "-p", "3",
             "-u", f"http://127.0.0.1:{port}/{app}/", *words], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            # What it holds is over with its end: the last look before that counts.
            while attack.poll() is None:
                if time.monotonic() > end:
                    raise SystemExit(f"{manner}: slowhttptest did not come to its end")
                now = held(port)
                most = max(most, now)
                time.sleep(0.2)
        finally:
            attack.kill()
            attack.wait()
    fared = visitor.end()
    said = re.sub(r"\x1b\[[0-9;]*m", "", file.read_text(errors="replace"))
    last = {key: int(value) for key, value in re.findall(r"^(connected|closed|error|pending):?\s+(\d+)", said, re.M)}
    service = re.findall(r"service available:\s+(\w+)", said)
    ended = re.findall(r"Exit status:\s*(.+)", said)
    return {**last, "service_available": service[-1:] == ["YES"] and "NO" not in service,
            "ended": [text.strip() for text in ended[-1:]], "held_most": most, "held_last": now, **fared}


def wrong(manner, fared):
    """What did not hold of one attack."""
    found = []
    if fared["failed"] or not fared["service_available"]:
        found.append("somebody was not served")
    if fared["held_most"] < CONNECTIONS * 0.9:
        found.append(f"at most {fared['held_most']} connections came about: nothing was tested")
    if fared["ended"] != [ALL_CLOSED] and (manner != "slow reads" or fared["held_last"] > BESIDE):
        found.append(f"the server kept {fared['held_last']} connections; slowhttptest says {fared['ended']}")
    return [f"{manner}: {what}" for what in found]


def certificate(dir):
    """A chain of two, as a site has it: an authority of our own and the server's certificate."""
    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=dir, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "60",
            "-subj", "/CN=Bench authority", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost",
            "-keyout", "key.pem", "-out", "request.pem")
    write(dir / "names", "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n"
                         "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "60", "-extfile", "names",
            "-out", "leaf.pem")
    write(dir / "chain.pem", (dir / "leaf.pem").read_text() + (dir / "ca.pem").read_text())


def sslyze(port, dir):
    done = subprocess.run([HERE / ".venv/bin/sslyze", "--mozilla_config=intermediate", "--early_data", "--json_out", dir / "sslyze.json",
                           "--certinfo_ca_file", dir / "ca.pem", f"localhost:{port}"], capture_output=True, text=True)
    scan = json.loads((dir / "sslyze.json").read_text())["server_scan_results"][0]["scan_result"]
    accepted = {
        name: [suite["cipher_suite"]["name"] for suite in scan[f"{name}_cipher_suites"]["result"]["accepted_cipher_suites"]]
        for name in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3")
    }
    verdict = done.stdout[done.stdout.find("COMPLIANCE AGAINST"):]
    complaints = [line.strip(" *") for line in verdict.splitlines() if line.strip().startswith("*")]
    return {
        "accepted": accepted, "heartbleed": scan["heartbleed"]["result"]["is_vulnerable_to_heartbleed"],
        "robot": scan["robot"]["result"]["robot_result"] if scan["robot"]["result"] else None,
        "compression": scan["tls_compression"]["result"]["supports_compression"],
        "client_renegotiation_dos": scan["session_renegotiation"]["result"]["is_vulnerable_to_client_renegotiation_dos"],
        "early_data": scan["tls_1_3_early_data"]["result"]["supports_early_data"],
        "openssl_ccs": scan["openssl_ccs_injection"]["result"]["is_vulnerable_to_ccs_injection"],
        "complaints": complaints,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=LEAST, help="for each manner; %(default)s at least")
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stage = Stage()
    try:
        result = run(stage, max(wanted.seconds, LEAST))
    finally:
        stage.end()
    text = json.dumps(result, indent=1)
    print(text)
    if wanted.out:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text(text + "\n")
    bad = [what for manner, fared in result["slowhttptest"].items() for what in wrong(manner, fared)]
    # The one thing sslyze cannot like here: nobody else knows the authority that this script made.
    complaints = [c for c in result["sslyze"]["complaints"] if not c.startswith("certificate_path_validation")]
    if bad or complaints:
        sys.exit(f"did not hold: {'; '.join(bad + complaints)}")


def run(stage, seconds):
    page = stage.dir / "apps/page"
    page.mkdir(parents=True)
    # Large enough that a client which does not read leaves bytes in the server's hands.
    write(page / "index.html", "<!doctype html><title>page</title>" + "bench " * 200_000)
    # Every one of the attack's requests is a visitor of its own.
    take = stage.dir / "apps/take"
    take.mkdir()
    shutil.copy(HERE.parent / "soak/app.py", take / "app.py")
    write(take / "skep.toml", 'framework = "command"\ncommand = ["python3", "app.py", "{port}"]\nseats = 100000\nmax_instances = 1\n'
                              'idle_timeout = "1h"\n')
    certificate(stage.dir)
    port, tls = free_port(), free_port()
    for name, listen, more in [
        ("plain", port, ""), ("tls", tls, f'tls.cert = "{stage.dir}/chain.pem"\ntls.key = "{stage.dir}/key.pem"\n'),
    ]:
        write(stage.dir / f"{name}.toml", f'[server]\nlisten = ["127.0.0.1:{listen}"]\n{more}[[sites]]\npath = "{stage.dir}/apps"\n')
        stage.spawn([SKEP, "serve", "--config", stage.dir / f"{name}.toml", "--data-dir", stage.dir / name, "--stop-apps-on-exit"], name)
    until("skep is ready", lambda: fetch(port, "/_skep/health/ready")[0] == 200)
    until("the app that reads bodies answers", lambda: fetch(port, "/take/")[0] == 200)
    attacks = {manner: slow(port, manner, seconds, stage.dir) for manner in MANNERS}
    return {"connections": CONNECTIONS, "seconds": seconds, "slowhttptest": attacks, "sslyze": sslyze(tls, stage.dir)}


if __name__ == "__main__":
    main()
