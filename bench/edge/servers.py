"""The proxies under measurement and the app behind them: how each is configured, started, watched and stopped.

Every proxy forwards to the same two ports of the same app, adds `X-Forwarded-For`, keeps connections to the app, uses two
threads (or processes), and writes an access log to a file. What differs is said beside it.
"""

import getpass
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SKEP = Path(os.environ.get("SKEP", ROOT / "target/release/skep"))
WS = HERE / ".venv/ws"
FAUCET = HERE / ".venv/bin/faucet"
TRAEFIK = HERE / ".venv/bin/traefik"
BODY = "0123456789abcdef" * 8


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"waited in vain: {what}")


def fetch(port, path, headers=None):
    """Status, headers and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def family(pid):
    """A process and those it started, but not the apps that Skep launches: they lead sessions of their own."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                parents[int(entry.name)] = (int(fields[1]), int(fields[3]))
            except OSError:
                pass
    if pid not in parents:
        return []
    session = parents[pid][1]
    found = [pid]
    for child in found:
        found += [p for p, (parent, of) in parents.items() if parent == child and of == session and p not in found]
    return found


def cpu_ns(pid):
    """Nanoseconds on a CPU of a proxy's threads, as the scheduler counts them."""
    total = 0
    for one in family(pid):
        for task in Path(f"/proc/{one}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except OSError:
                pass
    return total


def memory_kib(pid):
    """`Pss` and `Rss` of a proxy's processes: user-space memory, what they share counted once in the first."""
    sums = {"Pss": 0, "Rss": 0}
    for one in family(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name] += int(value.split()[0])
    return sums


class Stage:
    """The processes of one run and their folder. They die with this script."""

    def __init__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="skep-bench-"))
        self.dir.chmod(0o755)
        self.running = []

    def spawn(self, args, name, **more):
        log = open(self.dir / f"{name}.log", "ab")
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *map(str, args)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=self.dir, **more,
        )
        self.running.append(process)
        return process

    def end(self):
        for process in reversed(self.running):
            self.stop(process)
        shutil.rmtree(self.dir, ignore_errors=True)

    def stop(self, process):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def write(path, text):
    path.write_text(text)
    return path


def nginx_app(dir, port):
    """The app of the HTTP measurements: one nginx process that answers 128 bytes."""
    return write(dir / "app.conf", f"""
worker_processes 1; daemon off; pid {dir}/app.pid; error_log {dir}/app-error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000000; client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2;
    fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
    server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ default_type text/plain; return 200 "{BODY}"; }} }}
}}
""")


class Skep:
    """The release build as anybody runs it: routes, seats, metrics always; access log as JSON."""

    name = "skep"
    ws_path = "/echo/"
    idles = True

    def __init__(self, stage):
        self.stage, self.port, self.admin = stage, free_port(), free_port()
        apps = stage.dir / "apps"
        # The port Skep chose for each app is left in a file, for the other proxies.
        for app, command in {
            "plain": f"exec python3 {HERE}/servers.py app {{port}} {stage.dir}",
            "echo": f"echo {{port}} >{stage.dir}/echo.port; exec {WS} serve {{port}}",
            "never": "exec sleep 600",
        }.items():
            (apps / app).mkdir(parents=True)
            more = {"never": 'start_timeout = "600s"\nhold = "wait"\nmax_waiting = 20000\nmax_instances = 1\n'}
            write(apps / app / "skep.toml", f"""
framework = "command"
prefix = "keep"
command = ["sh", "-c", {json.dumps(command)}]
seats = 100000
access.groups = ["staff"]
idle_timeout = "1h"
health.path = "/{app}/"
{more.get(app, "")}""")
        # A login is required for every app; the visitor of the measurement has one.
        write(stage.dir / "skep.toml", f"""
[auth]
provider = "local"
[server]
listen = ["127.0.0.1:{self.port}"]
admin_listen = "127.0.0.1:{self.admin}"
access_log = "json"
access_log_file = "{stage.dir}/skep-access.log"
workers = 2
limits.max_connections = 20000
[[sites]]
path = "{apps}"
""")

    def start(self):
        data = ["--data-dir", self.stage.dir / "data"]
        subprocess.run([SKEP, "user", "add", "ada", "--password-stdin", "--groups", "staff", "--config",
                        self.stage.dir / "skep.toml", *data], input="correct horse battery\n", text=True, check=True,
                       stdout=subprocess.DEVNULL)
        self.process = self.stage.spawn(
            [SKEP, "serve", "--config", self.stage.dir / "skep.toml", *data, "--stop-apps-on-exit"], "skep")
        until("skep is ready", lambda: fetch(self.port, "/_skep/health/ready")[0] == 200)

    def log_in(self):
        """The login cookie, from the login page as a browser has it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", "/_skep/login", "name=ada&password=correct+horse+battery&to=/", {
            "Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{self.port}",
            "Sec-Fetch-Site": "same-origin"})
        answer = connection.getresponse()
        found = answer.getheader("set-cookie", "")
        assert found.startswith("__Host-skep="), (answer.status, found, answer.read())
        return found.split(";")[0]

    def app_ports(self):
        self.login = self.log_in()
        for app in ("plain", "echo"):
            until(f"the app {app}", lambda: fetch(self.port, f"/{app}/", {"Cookie": self.login})[0] == 200)
        return [int((self.stage.dir / f"{app}.port").read_text()) for app in ("plain", "echo")]

    def cookie(self):
        """What the browser of a visitor who is logged in and has a seat sends: the login's and the seat's cookie."""
        head = {"Cookie": self.login, "Accept": "text/html"}
        found = fetch(self.port, "/plain/", head)[1].get("set-cookie", "")
        assert found.startswith("skep-seat="), found
        return f"{self.login}; {found.split(';')[0]}"

    def version(self):
        return subprocess.run([SKEP, "--version"], capture_output=True, text=True).stdout.strip()


class Peer:
    ws_path = "/echo/"
    # Whether a WebSocket may stand still for as long as it likes.
    idles = True

    @staticmethod
    def installed():
        return True

    def __init__(self, stage, plain, echo):
        self.stage, self.port, self.plain, self.echo = stage, free_port(), plain, echo

    def start(self):
        self.process = self.stage.spawn(self.command(), self.name)
        until(f"{self.name} answers", lambda: fetch(self.port, "/plain/")[0] == 200)


class Nginx(Peer):
    """Two workers; its access log is buffered, as Skep's is."""

    name = "nginx"

    def command(self):
        d = self.stage.dir
        conf = write(d / "nginx.conf", f"""
worker_processes 2; daemon off; pid {d}/nginx.pid; error_log {d}/nginx-error.log; worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
    access_log {d}/nginx-access.log combined buffer=64k flush=1s; keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path {d}/n1; proxy_temp_path {d}/n2; fastcgi_temp_path {d}/n3; uwsgi_temp_path {d}/n4; scgi_temp_path {d}/n5;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream plain {{ server 127.0.0.1:{self.plain}; keepalive 256; keepalive_requests 1000000000; }}
    upstream echo {{ server 127.0.0.1:{self.echo}; keepalive 256; }}
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_read_timeout 3600s;
        location /plain/ {{ proxy_pass http://plain; }}
        location /echo/ {{ proxy_pass http://echo; }}
    }}
}}
""")
        return ["nginx", "-c", conf]

    def version(self):
        return subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip()


class Haproxy(Peer):
    """Two threads; its access log goes to a file through standard output."""

    name = "haproxy"

    def command(self):
        conf = write(self.stage.dir / "haproxy.cfg", f"""
global
    maxconn 9500
    nbthread 2
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    option forwardfor
    option http-keep-alive
    http-reuse always
    timeout connect 5s
    timeout client 3600s
    timeout server 3600s
    timeout tunnel 3600s
frontend all
    bind 127.0.0.1:{self.port} backlog 4096
    use_backend echo if {{ path_beg /echo/ }}
    default_backend plain
backend plain
    server a 127.0.0.1:{self.plain}
backend echo
    server a 127.0.0.1:{self.echo}
""")
        return ["haproxy", "-f", conf]

    def version(self):
        return subprocess.run(["haproxy", "-v"], capture_output=True, text=True).stdout.splitlines()[0]


class Traefik(Peer):
    """Its access log is buffered; no metrics, which it does without unless asked."""

    name = "traefik"

    def command(self):
        d = self.stage.dir
        write(d / "dynamic.yml", f"""
http:
  routers:
    plain: {{ rule: "PathPrefix(`/plain/`)", service: plain }}
    echo: {{ rule: "PathPrefix(`/echo/`)", service: echo }}
  services:
    plain: {{ loadBalancer: {{ servers: [ {{ url: "http://127.0.0.1:{self.plain}" }} ] }} }}
    echo: {{ loadBalancer: {{ servers: [ {{ url: "http://127.0.0.1:{self.echo}" }} ] }} }}
""")
        conf = write(d / "traefik.yml", f"""
entryPoints: {{ web: {{ address: "127.0.0.1:{self.port}" }} }}
providers: {{ file: {{ filename: {d}/dynamic.yml }} }}
accessLog: {{ filePath: {d}/traefik-access.log, bufferingSize: 100 }}
log: {{ level: ERROR }}
global: {{ checkNewVersion: false, sendAnonymousUsage: false }}
serversTransport: {{ maxIdleConnsPerHost: 256 }}
""")
        self.env = {**os.environ, "GOMAXPROCS": "2"}
        return [TRAEFIK, f"--configFile={conf}"]

    def version(self):
        found = subprocess.run([TRAEFIK, "version"], capture_output=True, text=True).stdout.splitlines()
        return "Traefik " + next((line.split()[-1] for line in found if line.startswith("Version")), "?")


class Faucet(Peer):
    """Two threads; optional, for it takes minutes to build. It starts R processes itself and forwards to nothing else, so what
    it takes for `Rscript` starts the same app on the port that Faucet chose. It takes WebSockets apart into messages, pings
    each second, and gives one up after 30 seconds without a message: those that stand still cannot be compared."""

    name = "faucet"
    ws_path = "/echo/?sessionId={session}&attempt=0"
    idles = False

    @staticmethod
    def installed():
        return FAUCET.exists()

    def command(self):
        d = self.stage.dir
        (d / "faucet").mkdir()
        # Not of Faucet's session, so that its CPU time is not counted as Faucet's; ends with the process Faucet watches.
        rscript = write(d / "faucet/Rscript", f"""#!/bin/sh
port=$(printf %s "$2" | sed -n 's/.*[.]port" = \\([0-9]*\\).*/\\1/p')
case "$2" in
*shiny.port*) exec setsid --wait setpriv --pdeathsig KILL {WS} serve "$port" ;;
*) exec setsid --wait setpriv --pdeathsig KILL python3 {HERE}/servers.py app "$port" {d}/faucet ;;
esac
""")
        rscript.chmod(0o755)
        routes = write(d / "faucet/router.toml", "".join(f"""
[[route]]
route = "{route}"
server_type = "{kind}"
strategy = "{strategy}"
workers = 1
workdir = "{d}/faucet"
""" for route, kind, strategy in [("/plain/", "plumber", "round-robin"), ("/echo/", "shiny", "ip-hash")]))
        return ["env", "TOKIO_WORKER_THREADS=2", FAUCET, "--host", f"127.0.0.1:{self.port}", "--rscript", rscript,
                "--log-file", d / "faucet-access.log", "router", "--conf", routes]

    def version(self):
        return subprocess.run([FAUCET, "--version"], capture_output=True, text=True).stdout.strip()


class ShinyServer(Peer):
    """One process, it has no more; measured where it is installed (Debian 12 has it as `shiny-server`). It starts R
    processes itself and forwards to nothing else, so what it takes for `R` starts the same app on the port that it chose.
    It talks SockJS, not plain WebSockets: those cannot be compared."""

    name = "shiny-server"
    ws_path = None
    idles = False

    @staticmethod
    def installed():
        return shutil.which("shiny-server") is not None

    def command(self):
        d = self.stage.dir / "shiny"
        # The app runs as somebody else when Shiny Server is root: it insists.
        user = "nobody" if os.getuid() == 0 else getpass.getuser()
        for folder in [d, d / "app", d / "log", d / "bookmarks"]:
            folder.mkdir()
            folder.chmod(0o777)
        write(d / "app/app.R", "# What is started in R's place is no R.\n")
        self.r = write(d / "R", f"""#!/bin/sh
port=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["port"])')
printf 'shiny_launch_info: {{"pid": %d, "versions": {{}}}}\\n==END==\\n' $$
# A login's path lacks what only root needs.
PATH="$PATH:/usr/sbin" exec python3 {HERE}/servers.py app "$port" {d}
""")
        self.r.chmod(0o755)
        conf = write(d / "shiny-server.conf", f"""
run_as {user};
access_log {self.stage.dir}/shiny-access.log combined;
server {{
    listen {self.port} 127.0.0.1;
    location /plain {{ app_dir {d}/app; log_dir {d}/log; bookmark_state_dir {d}/bookmarks;
        simple_scheduler 10000; }}
}}
""")
        return ["env", f"R={self.r}", "shiny-server", conf]

    def version(self):
        shown = subprocess.run(["shiny-server", "--version"], capture_output=True, text=True).stdout.split("\n")
        return shown[0].strip()


PEERS = [peer for peer in [Nginx, Haproxy, Traefik, Faucet, ShinyServer] if peer.installed()]

if __name__ == "__main__":
    # As an app of Skep: `servers.py app PORT DIR` becomes the nginx that answers.
    import sys

    _, _, port, folder = sys.argv
    write(Path(folder) / "plain.port", port)
    os.execvp("nginx", ["nginx", "-c", str(nginx_app(Path(folder), int(port)))])
