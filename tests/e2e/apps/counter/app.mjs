// A page with a number in the memory of its process, kept current through a WebSocket. Without any package.

import { createHash } from "node:crypto";
import { createServer } from "node:http";

const [port, base, ...chosen] = process.argv.slice(2);
const listeners = new Set();
let count = 0;

const page = () => `<!doctype html><html lang="en"><title>Counter</title>
<main><h1>Counter</h1>
<p>Count: <output id="count">${count}</output></p>
<p>Process: <span id="process">${process.pid}</span></p>
<p>Base: <span id="base">${base}</span></p>
<p>Chosen: <span id="chosen">${chosen.join(" ")} ${process.env.CHOSEN ?? ""}</span></p>
<p>Line: <span id="line">down</span></p>
<button id="add">Add one</button></main>
<script>
  const at = (path) => new URL(path, location.href);
  const line = new WebSocket(at("live").href.replace("http", "ws"));
  line.onopen = () => (document.getElementById("line").textContent = "up");
  line.onclose = () => (document.getElementById("line").textContent = "cut");
  line.onmessage = ({ data }) => (document.getElementById("count").textContent = data);
  document.getElementById("add").onclick = () => fetch(at("add"), { method: "POST" });
</script></html>`;

const frame = (text) => Buffer.concat([Buffer.from([0x81, text.length]), Buffer.from(text)]);

const server = createServer((request, response) => {
  if (request.method === "POST") {
    count += 1;
    for (const socket of listeners) socket.write(frame(String(count)));
    response.end(String(count));
    return;
  }
  response.setHeader("content-type", "text/html; charset=utf-8");
  response.end(page());
});

server.on("upgrade", (request, socket) => {
  const key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  const accept = createHash("sha1").update(key).digest("base64");
  const head = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"];
  socket.write([...head, `Sec-WebSocket-Accept: ${accept}`, "", ""].join("\r\n"));
  socket.write(frame(String(count)));
  listeners.add(socket);
  const gone = () => {
    listeners.delete(socket);
    socket.destroy();
  };
  socket.on("data", (bytes) => {
    // A close frame; nothing else is expected.
    if ((bytes[0] & 0x0f) === 8) gone();
  });
  socket.on("end", gone);
  socket.on("close", gone);
  socket.on("error", gone);
});

server.listen(Number(port), "127.0.0.1");
