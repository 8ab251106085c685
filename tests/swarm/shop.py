"""An ordinary service for the Swarm's tests: answers JSON after a few milliseconds, and ends as a good program does: at SIGTERM it takes no
new connections, finishes what it is at, and closes connections that wait.

  GET /             {"task": …, "version": …}
  GET /slow?s=2     the same after so many seconds
  GET /_healthy     200 once it has run for WARM seconds
"""

import asyncio
import json
import os
import random
import signal
import socket
import time
import urllib.parse

TASK = socket.gethostname()
VERSION = os.environ.get("VERSION", "1")
WARM = float(os.environ.get("WARM", "0"))
STARTED = time.monotonic()


class Shop:
    def __init__(self):
        self.ending = asyncio.Event()
        self.busy = 0
        self.waiting = set()

    async def visit(self, reader, writer):
        try:
            while not self.ending.is_set():
                self.waiting.add(writer)
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                finally:
                    self.waiting.discard(writer)
                self.busy += 1
                try:
                    await self.answer(head, reader, writer)
                finally:
                    self.busy -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, head, reader, writer):
        line, *fields = head.decode("latin-1").split("\r\n")
        length = next((int(field.split(":")[1]) for field in fields if field.lower().startswith("content-length:")), 0)
        if length:
            await reader.readexactly(length)
        url = urllib.parse.urlsplit(line.split(" ")[1])
        status = "200 OK"
        if url.path.endswith("/_healthy"):
            status = "200 OK" if time.monotonic() - STARTED >= WARM else "503 Not Yet"
        elif url.path.endswith("/slow"):
            await asyncio.sleep(float(urllib.parse.parse_qs(url.query)["s"][0]))
        else:
            await asyncio.sleep(random.uniform(0.001, 0.02))
        body = json.dumps({"task": TASK, "version": VERSION, "path": url.path}).encode()
        close = "Connection: close\r\n" if self.ending.is_set() else ""
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{close}\r\n".encode() + body)
        await writer.drain()

    async def run(self):
        server = await asyncio.start_server(self.visit, "0.0.0.0", 8080, backlog=256)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.ending.set)
        print("open", flush=True)
        await self.ending.wait()
        server.close()
        for writer in list(self.waiting):
            writer.close()
        while self.busy:
            await asyncio.sleep(0.01)


asyncio.run(Shop().run())
