#!/usr/bin/env python3
"""Public attack tools against the release build: slowhttptest in its three manners, sslyze against its TLS.

  attack.py [--seconds 90] [--out FILE]

slowhttptest holds hundreds of connections with heads, bodies or reads that hardly move, while a visitor of our own asks the
app a few times a second: every one of these must be answered, and the attack's connections must be closed by the server in
time. sslyze compares the TLS settings with Mozilla's "intermediate" profile. Fails when any of it does not hold.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from servers import HERE, SKEP, Stage, fetch, free_port, until, write

CONNECTIONS = 800


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


def slow(port, manner, seconds):
    """One attack; what slowhttptest says of it at its end, and how the visitor fared meanwhile."""
    kinds = {
        "slow heads": ["-H", "-i", "10"], "slow bodies": ["-B", "-i", "10", "-s", "8192"],
        "slow reads": ["-X", "-w", "1", "-y", "8", "-n", "5", "-z", "8"],
    }
    visitor = Visitor(port)
    visitor.start()
    done = subprocess.run(
        ["slowhttptest", "-c", str(CONNECTIONS), "-r", "200", "-l", str(seconds), "-x", "24", "-p", "3",
         "-u", f"http://127.0.0.1:{port}/page/", *kinds[manner]], capture_output=True, text=True, timeout=seconds + 120)
    fared = visitor.end()
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    last = {key: int(value) for key, value in re.findall(r"^(connected|closed|error|pending):?\s+(\d+)", said, re.M)}
    service = re.findall(r"service available:\s+(\w+)", said)
    ended = re.findall(r"Exit status:\s*(.+)", said)
    return {**last, "service_available": service[-1:] == ["YES"] and "NO" not in service, "ended": ended[-1:], **fared}


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
    parser.add_argument("--seconds", type=int, default=90)
    parser.add_argument("--out", type=Path)
    wanted = parser.parse_args()
    stage = Stage()
    try:
        result = run(stage, wanted.seconds)
    finally:
        stage.end()
    text = json.dumps(result, indent=1)
    print(text)
    if wanted.out:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text(text + "\n")
    bad = [manner for manner, fared in result["slowhttptest"].items() if fared["failed"] or not fared["service_available"]]
    # The one thing sslyze cannot like here: nobody else knows the authority that this script made.
    complaints = [c for c in result["sslyze"]["complaints"] if not c.startswith("certificate_path_validation")]
    if bad or complaints:
        sys.exit(f"did not hold: {bad or 'TLS settings'}")


def run(stage, seconds):
    page = stage.dir / "apps/page"
    page.mkdir(parents=True)
    # Large enough that a client which does not read leaves bytes in the server's hands.
    write(page / "index.html", "<!doctype html><title>page</title>" + "bench " * 200_000)
    certificate(stage.dir)
    port, tls = free_port(), free_port()
    for name, listen, more in [
        ("plain", port, ""), ("tls", tls, f'tls.cert = "{stage.dir}/chain.pem"\ntls.key = "{stage.dir}/key.pem"\n'),
    ]:
        write(stage.dir / f"{name}.toml", f'[server]\nlisten = ["127.0.0.1:{listen}"]\n{more}[[sites]]\npath = "{stage.dir}/apps"\n')
        stage.spawn([SKEP, "serve", "--config", stage.dir / f"{name}.toml", "--data-dir", stage.dir / name], name)
    until("skep is ready", lambda: fetch(port, "/_skep/health/ready")[0] == 200)
    attacks = {manner: slow(port, manner, seconds) for manner in ("slow heads", "slow bodies", "slow reads")}
    return {"connections": CONNECTIONS, "seconds": seconds, "slowhttptest": attacks, "sslyze": sslyze(tls, stage.dir)}


if __name__ == "__main__":
    main()
