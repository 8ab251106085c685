import asyncio
import json
import random
from pathlib import Path

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, StreamingResponse

app = FastAPI(title="Dice room")
room: set[WebSocket] = set()
throws: list[int] = []


@app.get("/", include_in_schema=False)
def page():
    return FileResponse(Path(__file__).with_name("room.html"))


@app.websocket("/live")
async def live(socket: WebSocket):
    """Every throw reaches everybody in the room."""
    await socket.accept()
    room.add(socket)
    try:
        await tell(socket, {"people": len(room), "throws": throws[-12:]})
        while True:
            await socket.receive_text()
            throws.append(random.randint(1, 6))
            del throws[:-1000]
            news = {"people": len(room), "throws": throws[-12:]}
            await asyncio.gather(*(tell(other, news) for other in list(room)))
    except WebSocketDisconnect:
        pass
    finally:
        room.discard(socket)


async def tell(socket: WebSocket, news: dict):
    try:
        await socket.send_json(news)
    except (RuntimeError, WebSocketDisconnect):
        room.discard(socket)


@app.get("/ticks")
def ticks():
    """Server-sent events: how many throws there were, twice a second."""

    async def stream():
        while True:
            yield f"data: {json.dumps({'throws': len(throws)})}\n\n"
            await asyncio.sleep(0.5)

    return StreamingResponse(stream(), media_type="text/event-stream")
