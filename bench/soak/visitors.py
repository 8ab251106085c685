"""Those who use the apps during a soak. Each is a coroutine for one visit; whatever goes wrong is raised as `Wrong`."""

import asyncio
import base64
import hashlib
import os
import random

APPS = ["command", "flask", "fastapi", "streamlit", "static", "probe"]
# Longer than any hold: a silent server is an error of its own.
PATIENCE = 60


class Wrong(Exception):
    pass


class Connection:
    """One connection, and the little HTTP that is needed."""

    def __init__(self, port):
        self.port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass

    def abort(self):
        self.writer.transport.abort()

    async def send(self, method, path, headers=None, body=b""):
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self.writer.drain()

    async def head(self):
        line = await asyncio.wait_for(self.reader.readline(), PATIENCE)
        if not line:
            raise Wrong("connection closed without an answer")
        status, headers = int(line.split()[1]), []
        while (line := (await asyncio.wait_for(self.reader.readline(), PATIENCE)).strip()):
            name, _, value = line.decode("latin-1").partition(":")
            headers.append((name.lower(), value.strip()))
        return status, headers

    async def answer(self):
        status, headers = await self.head()
        found = dict(headers)
        if "content-length" in found:
            body = await asyncio.wait_for(self.reader.readexactly(int(found["content-length"])), PATIENCE)
        elif found.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await asyncio.wait_for(self.reader.readline(), PATIENCE), 16):
                body += (await asyncio.wait_for(self.reader.readexactly(size + 2), PATIENCE))[:-2]
            await self.reader.readline()
        else:
            body = await asyncio.wait_for(self.reader.read(), PATIENCE)
        return status, headers, body


def jar(headers, cookies):
    for name, value in headers:
        if name == "set-cookie":
            key, _, rest = value.partition("=")
            cookies[key] = rest.split(";")[0]
    return {"Cookie": "; ".join(f"{k}={v}" for k, v in cookies.items())} if cookies else {}


async def browser(port, seen):
    """A page load, through the launch page if need be, and a few more pages."""
    app = random.choice(APPS)
    cookies, extra = {}, {}
    for attempt in range(120):
        async with Connection(port) as connection:
            await connection.send("GET", f"/{app}/", {"Accept": "text/html", **extra})
            status, headers, body = await connection.answer()
            extra = jar(headers, cookies)
        if status != 503:
            break
        if b"<html" not in body.lower() or "retry-after" not in dict(headers):
            raise Wrong(f"503 that is no launch page from {app}: {body[:200]!r}")
        seen["launch pages"] += 1
        await asyncio.sleep(0.5)
    if status != 200:
        raise Wrong(f"{status} from {app}: {body[:300]!r}")
    for _ in range(random.randint(0, 6)):
        await asyncio.sleep(random.random())
        async with Connection(port) as connection:
            await connection.send("GET", f"/{app}/", {"Accept": "text/html", **extra})
            status, headers, body = await connection.answer()
            if status != 200:
                raise Wrong(f"{status} from {app}, visited before: {body[:300]!r}")
    seen["pages"] += 1


def frame(text):
    mask, data = os.urandom(4), text.encode()
    return bytes([0x81, 0x80 | len(data)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data))


async def websocket(port, seen):
    """Throws dice with whoever is there, for a while, and leaves politely or not."""
    async with Connection(port) as connection:
        key = base64.b64encode(os.urandom(16)).decode()
        await connection.send("GET", "/fastapi/live", {
            "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key})
        status, _ = await connection.head()
        if status != 101:
            raise Wrong(f"{status} instead of a WebSocket")
        for _ in range(random.randint(1, 20)):
            connection.writer.write(frame("throw"))
            if not await asyncio.wait_for(connection.reader.read(65536), PATIENCE):
                raise Wrong("WebSocket closed")
            await asyncio.sleep(random.random())
        if random.random() < 0.5:
            connection.abort()
    seen["WebSockets"] += 1


async def tunnel(port, seen):
    """Bytes there and back, checked, over a WebSocket that is silent in between."""
    async with Connection(port) as connection:
        await connection.send("GET", "/probe/", {
            "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode()})
        status, _ = await connection.head()
        if status != 101:
            raise Wrong(f"{status} instead of a WebSocket")
        for _ in range(random.randint(1, 6)):
            sent = frame(os.urandom(20).hex()) * random.randint(1, 200)
            connection.writer.write(sent)
            back = await asyncio.wait_for(connection.reader.readexactly(len(sent)), PATIENCE)
            if back != sent:
                raise Wrong("the echo is not what was sent")
            await asyncio.sleep(random.random() * 3)
    seen["tunnels"] += 1


async def upload(port, seen):
    """Some MiB, at once or in pieces; the app says what it got."""
    body = os.urandom(random.randint(1, 4 << 20))
    async with Connection(port) as connection:
        await connection.send("POST", "/probe/", {"Content-Type": "application/octet-stream"}, body)
        status, _, answer = await connection.answer()
        if status != 200 or answer.decode() != hashlib.sha256(body).hexdigest():
            raise Wrong(f"upload: {status} {answer[:200]!r}")
    seen["uploads"] += 1
    seen["MiB uploaded"] += len(body) / (1 << 20)
    await asyncio.sleep(random.random() * 4)


async def stream(port, seen):
    """Server-sent events, left in the middle."""
    async with Connection(port) as connection:
        await connection.send("GET", "/fastapi/ticks", {"Accept": "text/event-stream"})
        status, _ = await connection.head()
        if status != 200:
            raise Wrong(f"{status} from an event stream")
        for _ in range(random.randint(1, 8)):
            if not await asyncio.wait_for(connection.reader.read(4096), PATIENCE):
                raise Wrong("event stream ended")
    seen["event streams"] += 1


async def rude(port, seen):
    """Leaves in the middle of everything. Nothing it meets is an error but a server that is not there."""
    async with Connection(port) as connection:
        kind = random.randrange(5)
        if kind == 0:
            connection.writer.write(b"GET /probe/ HTTP/1.1\r\nHost: 127")
        elif kind == 1:
            connection.writer.write(b"POST /probe/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\nxyz")
        elif kind == 2:
            await connection.send("GET", f"/{random.choice(APPS)}/")
        elif kind == 3:
            await connection.send("GET", "/probe/?sleep=5")
        else:
            connection.writer.write(os.urandom(300))
        await asyncio.sleep(random.random() * 2)
        connection.abort()
    seen["aborts"] += 1
    await asyncio.sleep(random.random())


VISITS = [browser] * 5 + [websocket] * 3 + [tunnel] * 3 + [upload] * 2 + [stream] + [rude] * 3
