"""Websocket clients, and telling them what changed."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from aiohttp import WSMsgType, web

log = logging.getLogger("hub")


def event(kind: str, message: str, data: Any = None) -> dict[str, Any]:
    """Make an event in the form that the real frontend understands."""
    return {"type": kind, "folderId": None, "message": message, "data": data, "timestamp": int(time.time())}


class Hub:
    """All open connections. The two log lines are what the number of connections is read from."""

    def __init__(self) -> None:
        self._clients: set[web.WebSocketResponse] = set()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection until it ends: greet, answer pings, send everything else back."""
        socket = web.WebSocketResponse(max_msg_size=512)
        await socket.prepare(request)
        self._clients.add(socket)
        log.info("客戶端已連接，總連線數: %d", len(self._clients))
        try:
            await socket.send_json(event("connected", "歡迎使用 MemoryArk"))
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_json(_answer(message.data))
        finally:
            self._clients.discard(socket)
            log.info("客戶端已斷開，總連線數: %d", len(self._clients))
        return socket

    async def broadcast(self, news: dict[str, Any]) -> None:
        """Send an event to everybody; a client that cannot take it is dropped by its own task."""
        for socket in list(self._clients):
            try:
                await socket.send_json(news)
            except ConnectionError:
                self._clients.discard(socket)


def _answer(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        return event("echo", text)
    if isinstance(said, dict) and said.get("type") == "ping":
        return event("pong", "pong")
    return event("echo", "echo", said)
