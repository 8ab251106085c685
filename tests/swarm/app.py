"""The app the Swarm's tests publish: it says who it is, tries to reach others from where it is, echoes WebSockets.

  GET /             one line: the container's name, and for how long it has run
  GET /who          JSON: name, addresses, visitors' headers that matter
  GET /reach?at=host:port[&at=…]   who answers there, tried from inside: JSON, place -> "open", "refused", "nobody", or the name
                    of the instance that answers GET /who
  GET /open?host=h&to=n   JSON: the TCP ports of a host, up to n, that can be connected to from inside
  GET /told         JSON: the words it was started with, and what ShinyProxy tells an app: environment and headers
  GET /files        which of the sockets and secrets that only Skep may have are here
  GET /burn?s=1     uses so many seconds of a processor
  GET /say?line=x   writes a line to standard output
  /ws               a WebSocket that sends back what it gets
"""

import base64
import concurrent.futures
import fcntl
import hashlib
import http.client
import http.server
import json
import os
import signal
import socket
import struct
import sys
import time
import urllib.parse

STARTED = time.monotonic()
NAME = socket.gethostname()
PLACES = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/secrets/skep_join",
          "/run/secrets/skep_cookie_keys", "/var/lib/skep"]


def addresses():
    """IPv4 addresses by interface, loopback left out."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, link in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(sock, 0x8915, struct.pack("256s", link.encode()))
            except OSError:
                continue
            if link != "lo":
                found[link] = socket.inet_ntoa(answer[20:24])
    return found


def gateway():
    with open("/proc/net/route") as routes:
        for line in routes.readlines()[1:]:
            fields = line.split()
            if fields[1] == "00000000":
                return socket.inet_ntoa(struct.pack("<L", int(fields[2], 16)))
    return None


def reach(place):
    host, _, port = place.rpartition(":")
    try:
        connection = http.client.HTTPConnection(host, int(port), timeout=1.5)
        connection.connect()
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "nobody"
    try:
        connection.request("GET", "/who")
        return json.loads(connection.getresponse().read())["name"]
    except (OSError, ValueError, LookupError, http.client.HTTPException):
        return "open"
    finally:
        connection.close()


def is_open(place):
    try:
        socket.create_connection(place, timeout=1.5).close()
        return True
    except OSError:
        return False


class Visit(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        asked = urllib.parse.parse_qs(url.query)
        if url.path == "/ws":
            return self.echo()
        if url.path == "/who":
            answer = {"name": NAME, "addresses": addresses(), "gateway": gateway(), "instance": os.environ.get("SKEP_INSTANCE")}
        elif url.path == "/reach":
            with concurrent.futures.ThreadPoolExecutor(32) as pool:
                answer = dict(zip(asked["at"], pool.map(reach, asked["at"])))
        elif url.path == "/open":
            places = [(asked["host"][0], port) for port in range(1, int(asked["to"][0]) + 1)]
            with concurrent.futures.ThreadPoolExecutor(64) as pool:
                answer = [port for (_, port), found in zip(places, pool.map(is_open, places)) if found]
        elif url.path == "/told":
            answer = {"words": sys.argv[1:], "environment": {key: value for key, value in os.environ.items() if "SHINYPROXY" in key},
                      "headers": {key.lower(): value for key, value in self.headers.items() if key.lower().startswith("x-sp-")}}
        elif url.path == "/files":
            answer = {"here": [place for place in PLACES if os.path.exists(place)],
                      "environment": sorted(key for key in os.environ if "SECRET" in key or "STORE" in key)}
        elif url.path == "/burn":
            end = time.thread_time() + float(asked["s"][0])
            while time.thread_time() < end:
                pass
            answer = {}
        elif url.path == "/say":
            print(asked["line"][0], flush=True)
            answer = {}
        else:
            answer = {"name": NAME, "seconds": round(time.monotonic() - STARTED, 3)}
        body = json.dumps(answer).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def echo(self):
        key = self.headers["Sec-WebSocket-Key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            size = head[1] & 127
            if size > 125:
                return
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[index % 4] for index, byte in enumerate(self.rfile.read(size)))
            self.wfile.write(bytes([head[0], size]) + data)
            self.wfile.flush()
            if head[0] & 15 == 8:
                return

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("listening", flush=True)
    Server(("0.0.0.0", int(os.environ.get("PORT", "8080"))), Visit).serve_forever()
