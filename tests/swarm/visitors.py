"""Visitors of the published apps: one cookie jar each, like browsers, and companions that visit all the time and remember what
they saw.
"""

import base64
import contextlib
import dataclasses
import http.client
import json
import os
import re
import socket
import threading
import time

from lab import LabError

HOST = "apps.test"
# Seconds after which somebody who sees nothing loads the page anew, where something is about to go wrong with what they visit.
TO_CONNECT = 1
PATIENCE = 3
# The same of everybody else, who must not notice anything: on a machine that has other things to do, an answer that is late is
# none that has failed.
CALM = 20
# As a browser asks for a page.
PAGE = {"Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@dataclasses.dataclass
class Answer:
    status: int
    body: str
    seconds: float = 0.0

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def page(self):
        """What a page of Skep says: its heading and how it goes on; None for what is no page."""
        found = re.search(r"<h1[^>]*>.*", self.body, re.S)
        return " ".join(re.sub(r"<[^>]+>", " ", found[0]).split())[:90] if found else None


class Door:
    """Where visitors come in: the node that Skep is on, found again when it has moved, as a load balancer before it would."""

    def __init__(self, addresses, port=80):
        self.addresses, self.port = addresses, port
        self.address = None
        self._thread = None

    def is_open(self, address):
        try:
            return Visitor(self).ask("/_skep/health/ready", address=address, timeout=1).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def find(self):
        """Looks now. The address of before stays while there is no other."""
        found = next((address for address in dict.fromkeys([self.address, *self.addresses]) if address and self.is_open(address)), None)
        self.address = found or self.address
        return found

    def watch(self):
        """Looks for ever, for those who only read `address`."""
        def look():
            while True:
                self.find()
                time.sleep(0.1)
        if self._thread is None:
            self._thread = threading.Thread(target=look, daemon=True)
            self._thread.start()


class Visitor:
    def __init__(self, door):
        self.door = door
        self.jar = {}

    def headers(self, path):
        cookies = [f"{name}={value}" for (name, below), value in list(self.jar.items()) if path.startswith(below)]
        return {"Host": HOST, **({"Cookie": "; ".join(cookies)} if cookies else {})}

    def take(self, headers, path):
        for line in headers.get_all("Set-Cookie") or []:
            first, *rest = line.split(";")
            name, _, value = first.strip().partition("=")
            said = {key.strip().lower(): val for key, _, val in (part.partition("=") for part in rest)}
            key = (name, said.get("path", path.rsplit("/", 1)[0] + "/"))
            if said.get("max-age") == "0":
                self.jar.pop(key, None)
            else:
                self.jar[key] = value

    def ask(self, path, page=False, timeout=CALM, address=None):
        """One GET over a connection of its own."""
        address = address or self.door.address or self.door.find()
        if address is None:
            raise ConnectionError("Skep is nowhere")
        began = time.monotonic()
        connection = http.client.HTTPConnection(address, self.door.port, timeout=to_connect(timeout))
        try:
            connection.connect()
            connection.sock.settimeout(timeout)
            more = {**PAGE} if page else {}
            connection.request("GET", path, headers={**self.headers(path), **more, "Connection": "close"})
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace")
            self.take(answer.headers, path)
            return Answer(answer.status, body, time.monotonic() - began)
        finally:
            connection.close()

    def open(self, path, seconds=150):
        """Opens an app as a browser does: the launch page reloads until the app is there."""
        end = time.monotonic() + seconds
        while True:
            answer = self.ask(path, page=True, timeout=seconds)
            if answer.status == 200:
                return answer
            if answer.status != 503 or time.monotonic() > end:
                raise LabError(f"{path}: {answer.status}, {answer.page or answer.body[:300]}")
            time.sleep(0.1)

    @contextlib.contextmanager
    def websocket(self, path, timeout=CALM):
        connection = socket.create_connection((self.door.address, self.door.port), timeout=to_connect(timeout))
        with connection, connection.makefile("rb") as answers:
            connection.settimeout(timeout)
            headers = {**self.headers(path), "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                       "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(), "Origin": f"http://{HOST}"}
            connection.sendall(f"GET {path} HTTP/1.1\r\n{''.join(f'{k}: {v}{chr(13)}{chr(10)}' for k, v in headers.items())}\r\n"
                               .encode())
            status = answers.readline().decode()
            if " 101 " not in status:
                raise ConnectionError(f"no WebSocket: {status.strip()}")
            while answers.readline() not in (b"\r\n", b""):
                pass
            yield Echo(connection, answers)


def to_connect(timeout):
    return min(timeout, TO_CONNECT) if timeout <= PATIENCE else timeout


class Echo:
    def __init__(self, connection, answers):
        self.connection, self.answers = connection, answers

    def say(self, text):
        data, mask = text.encode(), os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        self.connection.sendall(bytes([0x81, 0x80 | len(data)]) + mask + masked)
        head = self.answers.read(2)
        if len(head) < 2 or head[0] != 0x81:
            raise ConnectionError("the WebSocket was closed")
        return self.answers.read(head[1] & 127).decode()


@dataclasses.dataclass
class Seen:
    """One request of a companion."""
    began: float
    ended: float
    status: int
    name: str
    what: str

    @property
    def good(self):
        return self.status == 200


class Companion:
    """Somebody who keeps an app open: asks for its page all the time and has a WebSocket to it, too."""

    EVERY = 0.25

    def __init__(self, visitor, path, name):
        self.visitor, self.path, self.name = visitor, path, name
        self.patience = CALM
        self.seen = []
        self.cuts = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._visit, self._echo)]

    def start(self):
        for thread in self._threads:
            thread.start()
        return self

    def end(self):
        self._end.set()

    def stop(self):
        self.end()
        for thread in self._threads:
            thread.join(PATIENCE + TO_CONNECT)

    def _visit(self):
        while not self._end.is_set():
            began = time.monotonic()
            status, name, what = 0, None, ""
            try:
                answer = self.visitor.ask(self.path, page=True, timeout=self.patience)
                status = answer.status
                if status == 200:
                    name = answer.json["name"]
                else:
                    what = answer.page or answer.body[:120]
            except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
                what = f"{type(error).__name__}: {error}"
            self.seen.append(Seen(began, time.monotonic(), status, name, what))
            self._end.wait(self.EVERY)

    def _echo(self):
        while not self._end.is_set():
            try:
                with self.visitor.websocket(f"{self.path}ws", self.patience) as echo:
                    while not self._end.wait(0.5):
                        if echo.say("still there?") != "still there?":
                            raise ConnectionError("the WebSocket says something else")
                    return
            except (OSError, ValueError) as error:
                self.cuts.append((time.monotonic(), str(error)))
                self._end.wait(0.5)

    # --- what it saw ---------------------------------------------------------------------------------------------------
    def failures(self, since=0.0):
        return [seen for seen in self.seen if seen.ended >= since and not seen.good]

    def names(self, since=0.0):
        return {seen.name for seen in self.seen if seen.ended >= since and seen.good}

    def cuts_since(self, since):
        return [cut for cut in self.cuts if cut[0] >= since]

    def slowest(self, since=0.0):
        return max((seen.ended - seen.began for seen in self.seen if seen.ended >= since), default=0.0)

    def again(self, since):
        """When the app answered again for good after what went wrong since then: None while it does not, `since` if nothing
        went wrong."""
        bad = self.failures(since)
        if not bad:
            return since
        good = [seen for seen in self.seen if seen.good and seen.began >= bad[-1].began]
        return good[0].ended if good else None

    def pages(self, since):
        return [seen.what for seen in self.failures(since) if seen.status]
