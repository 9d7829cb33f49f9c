"""The HTTP interface: LINE's webhook and health."""

from __future__ import annotations

import json
import time
from collections import defaultdict, deque
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from .clients import CallError, Line, MemoryArk
from .config import Config
from .logs import Log
from .signature import is_valid
from .workers import Bot

_BODY_LIMIT = 10 * 1024 * 1024
_ENDPOINTS = {"webhook": "/webhook/line", "api": "/api/line/*", "health": "/health"}
_VERSION = "1.0.0"
_GREETING = "您好！我是 MemoryArk 照片管理助手，傳送照片給我，我會自動保存到 MemoryArk。"


def _json_response(body: Any, status: int = 200) -> web.Response:
    """Answer compact JSON: probes match on its very text."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return web.json_response(text=text, status=status)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class RateLimit:
    """So many requests a minute and client. Behind a proxy all clients are one, as in the real service."""

    def __init__(self, limit: int, seconds: float = 60.0) -> None:
        self._limit = limit
        self._seconds = seconds
        self._seen: dict[str, deque[float]] = defaultdict(deque)

    def admits(self, client: str, now: float) -> bool:
        """Count a request unless it is one too many."""
        seen = self._seen[client]
        while seen and seen[0] <= now - self._seconds:
            seen.popleft()
        if len(seen) >= self._limit:
            return False
        seen.append(now)
        return True


def refusal(events: object) -> str | None:
    """Say what is wrong with the events of a webhook body, if anything is."""
    if not isinstance(events, list):
        return "Events array is required"
    for event in events:
        if not isinstance(event, dict) or not event.get("type"):
            return "Event type is required"
        if not event.get("timestamp"):
            return "Event timestamp is required"
    return None


class Service:
    """The handlers and what they need."""

    def __init__(self, config: Config, line: Line, ark: MemoryArk, bot: Bot, log: Log) -> None:
        self._config = config
        self._line = line
        self._ark = ark
        self._bot = bot
        self._log = log
        self._limit = RateLimit(config.webhooks_per_minute)
        self._begun = time.monotonic()

    def app(self) -> web.Application:
        """Put the application together."""
        app = web.Application(client_max_size=_BODY_LIMIT)
        app.add_routes(
            [
                web.get("/", self.root),
                web.get("/health", self.health),
                web.get("/api/line/health", self.api_health),
                web.get("/webhook/health", self.webhook_health),
                web.post("/webhook/line", self.webhook),
                web.route("*", "/{rest:.*}", self.not_found),
            ]
        )
        return app

    async def root(self, _: web.Request) -> web.Response:
        """Say what this is."""
        return _json_response(
            {
                "service": "MemoryArk LINE Service",
                "version": _VERSION,
                "status": "running",
                "timestamp": _now(),
                "endpoints": _ENDPOINTS,
            }
        )

    async def health(self, _: web.Request) -> web.Response:
        """Say that the process lives; looks at neither Redis nor the archive."""
        return _json_response(
            {
                "service": "line-service",
                "status": "ok",
                "timestamp": _now(),
                "version": _VERSION,
                "uptime": round(time.monotonic() - self._begun, 3),
                "environment": self._config.environment,
            }
        )

    async def api_health(self, _: web.Request) -> web.Response:
        """Always 200 and ``healthy``; only the inner status tells whether the archive is reachable."""
        reachable = await self._ark.is_healthy()
        ark = {
            "status": "healthy" if reachable else "unhealthy",
            "message": "MemoryArk API is accessible" if reachable else "MemoryArk API is not accessible",
        }
        line = {"status": "healthy", "message": "LINE Bot service is running"}
        return _json_response(
            {
                "service": "line-service-api",
                "status": "healthy",
                "timestamp": _now(),
                "uptime": round(time.monotonic() - self._begun, 3),
                "version": _VERSION,
                "services": {"line": line, "memoryark": ark},
            }
        )

    async def webhook_health(self, request: web.Request) -> web.Response:
        """Health that counts against the webhook's rate limit."""
        if (limited := self._limited(request)) is not None:
            return limited
        return _json_response(
            {
                "service": "line-webhook",
                "status": "healthy",
                "timestamp": _now(),
                "uptime": round(time.monotonic() - self._begun, 3),
                "version": _VERSION,
            }
        )

    async def not_found(self, request: web.Request) -> web.Response:
        """Everything else."""
        fields = {"method": request.method, "url": request.path_qs}
        self._log.write("warn", "system", "Route not found", **fields)
        body = {
            "error": "Not Found",
            "message": f"Route {request.path_qs} not found",
            "availableEndpoints": _ENDPOINTS,
        }
        return _json_response(body, status=404)

    async def webhook(self, request: web.Request) -> web.Response:
        """Take LINE's events; 200 even if some could not be handled, as LINE demands."""
        begun = time.monotonic()
        self._log.write("info", "line-webhook", "LINE webhook request started", method="POST", url="/line")
        response = self._limited(request)
        if response is None:
            response = await self._receive(request)
        duration = round((time.monotonic() - begun) * 1000)
        fields = {"statusCode": response.status, "duration": duration}
        self._log.write("info", "line-webhook", "LINE webhook request completed", **fields)
        return response

    def _limited(self, request: web.Request) -> web.Response | None:
        client = request.remote or "unknown"
        if self._limit.admits(client, time.monotonic()):
            return None
        self._log.write("warn", "line-webhook", "Rate limit exceeded", clientId=client)
        return _json_response({"error": "Too many requests", "retryAfter": 60}, status=429)

    async def _receive(self, request: web.Request) -> web.Response:
        raw = await request.read()
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        events = body.get("events") if isinstance(body, dict) else None
        # LINE's test of the endpoint. The real service answers it before it looks at the signature.
        if events == []:
            return _json_response({"message": "OK"})
        # Compared with None: a response of aiohttp is a mapping, and an empty one counts as false.
        if (refused := self._unsigned(raw, request.headers.get("x-line-signature"))) is not None:
            return refused
        if "application/json" not in request.headers.get("Content-Type", ""):
            return _json_response({"error": "Content-Type must be application/json"}, status=400)
        if fault := refusal(events):
            return _json_response({"error": fault}, status=400)
        assert isinstance(events, list)  # noqa: S101 - refusal() has just looked; this is for mypy
        results = [await self._event(event) for event in events]
        done = sum(results)
        counts = {"totalEvents": len(results), "successCount": done, "failureCount": len(results) - done}
        self._log.write("info", "line-webhook", "LINE webhook processing completed", **counts)
        return _json_response(
            {"message": "OK", "processed": len(results), "success": done, "failures": len(results) - done}
        )

    def _unsigned(self, raw: bytes, signature: str | None) -> web.Response | None:
        if not signature:
            self._log.write("warn", "line-webhook", "Missing LINE signature header")
            return _json_response({"error": "Missing X-Line-Signature header"}, status=400)
        if is_valid(self._config.channel_secret, raw, signature):
            return None
        if self._config.signature_bypass:
            message = "Invalid LINE signature - temporarily bypassing for testing"
            self._log.write("warn", "line-webhook", message, signature=signature)
            return None
        self._log.write("warn", "line-webhook", "Invalid LINE signature", signature=signature)
        return _json_response({"error": "Invalid signature"}, status=401)

    async def _event(self, event: dict[str, Any]) -> bool:
        """Handle one event; False if it could not be."""
        kind = event["type"]
        try:
            source = event.get("source")
            if not isinstance(source, dict) or source.get("type") not in {"user", "group", "room"}:
                raise CallError("Event source is missing")
            message = event.get("message") or {}
            if kind == "message" and message.get("type") == "image":
                return await self._image(event, source, str(message["id"]))
            if kind == "follow" or (kind == "message" and message.get("type") == "text"):
                await self._line.reply(str(event.get("replyToken")), _GREETING)
        except CallError as error:
            if kind == "message":
                self._log.failure(error, "handleTextMessage")
            fields = {"error": str(error), "eventType": kind, "timestamp": event["timestamp"]}
            self._log.write("error", "line-webhook", "Event processing error", **fields)
            return False
        return True

    async def _image(self, event: dict[str, Any], source: dict[str, Any], message: str) -> bool:
        user = str(source.get("userId") or "unknown")
        log = self._log
        try:
            await self._line.reply(
                str(event.get("replyToken")), "📸 收到您的照片！正在處理中，完成後會通知您..."
            )
        except CallError as error:
            fields = {"messageId": message, "error": str(error)}
            log.write("warn", "line-webhook", "Failed to reply confirmation message", **fields)
        try:
            profile = await self._line.profile(user)
        except CallError as error:
            fields = {"userId": user, "error": str(error)}
            log.write("warn", "line-webhook", "Failed to get user profile, using fallback", **fields)
            profile = {"userId": user, "displayName": f"User_{user[:8]}"}
        group = await self._group(source)
        try:
            job = await self._bot.enqueue_photo(
                {
                    "messageId": message,
                    "userId": user,
                    "replyToken": event.get("replyToken"),
                    "imageUrl": self._line.content_url(message),
                    "userProfile": profile,
                    **({"groupInfo": group} if group else {}),
                    "timestamp": _now(),
                }
            )
        except CallError as error:
            log.failure(error, "handleImageMessage", messageId=message, userId=user)
            try:
                await self._line.push(user, f"❌ 處理您的照片時發生錯誤。\n錯誤訊息：{error}")
            except CallError as push_error:
                log.failure(push_error, "handleImageMessage - pushMessage failed")
            return False
        log.write("info", "line-webhook", "Photo processing job queued", jobId=job, messageId=message)
        return True

    async def _group(self, source: dict[str, Any]) -> dict[str, str] | None:
        group = source.get("groupId")
        if source["type"] != "group" or not group:
            return None
        try:
            summary = await self._line.group(str(group))
        except CallError as error:
            fields = {"groupId": group, "error": str(error)}
            self._log.write("warn", "line-webhook", "Failed to get group info", **fields)
            return None
        return {"groupId": str(group), "groupName": str(summary.get("groupName"))}
