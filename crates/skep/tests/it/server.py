# A small app: answers every request with who it is, in JSON. Its behaviour is set by environment variables.
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "1"
first_answer = None
served = 0
lock = threading.Lock()


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def echo(self):
        """Whatever comes after the upgrade goes back as it came."""
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        self.close_connection = True
        while True:
            some = self.connection.recv(65536)
            if not some:
                return
            self.connection.sendall(some)

    def do_GET(self):
        if self.headers.get("Upgrade"):
            return self.echo()
        self.answer()

    def answer(self):
        global first_answer, served
        query = self.path.partition("?")[2]
        for part in query.split("&"):
            if part.startswith("sleep="):
                time.sleep(float(part[6:]))
            if part == "exit":
                os._exit(7)
        with lock:
            served += 1
            count = served
        body = json.dumps(
            {
                "pid": os.getpid(),
                "version": VERSION,
                "path": self.path,
                "cookie": self.headers.get("Cookie", ""),
                "prefix": self.headers.get("X-Forwarded-Prefix", ""),
                "user": self.headers.get("X-SP-UserId"),
                "groups": self.headers.get("X-SP-UserGroups"),
                "env": os.environ.get("GREETING", ""),
                "secret": os.environ.get("SECRET", ""),
                "served": count,
                "first_answer": first_answer,
            }
        ).encode()
        if first_answer is None:
            first_answer = time.time()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        length = int(self.headers.get("Content-Length", "0"))
        self.rfile.read(length)
        self.answer()

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


print("starting", VERSION, flush=True)
time.sleep(float(os.environ.get("SLOW", "0")))
if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in range(int(os.environ.get("FLOOD", "0"))):
    print("line", line, "x" * 200)
sys.stdout.flush()
for child in range(int(os.environ.get("CHILDREN", "0"))):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
        os._exit(0)
Server(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
