"""The soak's own app: says what it got. POST answers with the SHA-256 of the body, `?sleep=S` waits, WebSockets echo."""

import hashlib
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.headers.get("Upgrade"):
            return self.echo()
        wait = self.path.partition("sleep=")[2]
        if wait:
            time.sleep(float(wait))
        self.answer(b"here\n")

    def do_POST(self):
        left, digest = int(self.headers["Content-Length"]), hashlib.sha256()
        while left:
            some = self.rfile.read(min(left, 65536))
            if not some:
                self.close_connection = True
                return
            digest.update(some)
            left -= len(some)
        self.answer(digest.hexdigest().encode())

    def echo(self):
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        self.close_connection = True
        while some := self.connection.recv(65536):
            self.connection.sendall(some)

    def handle(self):
        # Visitors that vanish are what this is about.
        try:
            super().handle()
        except OSError:
            pass

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


Server(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
