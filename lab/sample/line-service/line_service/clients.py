"""What the bot calls: LINE's Messaging API and MemoryArk's API."""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import Any

import aiohttp

from .config import Config
from .logs import Log

_DOWNLOADS = 3
_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG", "image/png"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
}


class CallError(Exception):
    """A call that failed, in the words of the real service."""


def mime_type(content: bytes) -> str:
    """Tell a picture by its first bytes; what is unknown passes for JPEG."""
    if len(content) < 4:
        return "application/octet-stream"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for start, mime in _SIGNATURES if content.startswith(start)), "image/jpeg")


def file_name(message_id: str, milliseconds: int, mime: str) -> str:
    """Name a photo as the real service does, with its doubled dot."""
    return f"line_{message_id}_{milliseconds}.{_SUFFIXES.get(mime, '.jpg')}"


def session(config: Config) -> aiohttp.ClientSession:
    """Make a client that trusts the system's authorities, and one more as Node would."""
    trust = ssl.create_default_context()
    if config.extra_ca:
        trust.load_verify_locations(config.extra_ca)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust))


class Line:
    """The parts of the Messaging API that the bot uses."""

    def __init__(self, config: Config, http: aiohttp.ClientSession, log: Log, delay: float = 1.0) -> None:
        self._config = config
        self._http = http
        self._log = log
        self._delay = delay
        self._headers = {"Authorization": f"Bearer {config.access_token}"}

    async def reply(self, token: str, text: str) -> None:
        """Answer a message; free of charge."""
        await self._send("reply", {"replyToken": token}, text, replyToken=token)

    async def push(self, user: str, text: str) -> None:
        """Write to somebody; counts against the monthly quota."""
        await self._send("push", {"to": user}, text, userId=user)

    async def profile(self, user: str) -> dict[str, Any]:
        """Who somebody is."""
        return await self._get(f"/v2/bot/profile/{user}")

    async def group(self, group: str) -> dict[str, Any]:
        """What a group is called."""
        return await self._get(f"/v2/bot/group/{group}/summary")

    def content_url(self, message: str) -> str:
        """Where the content of a message is."""
        return f"{self._config.line_data_api}/v2/bot/message/{message}/content"

    async def download(self, url: str) -> bytes:
        """Fetch a photo; three attempts."""
        for attempt in range(1, _DOWNLOADS + 1):
            try:
                async with self._http.get(
                    url, headers=self._headers, timeout=aiohttp.ClientTimeout(total=60)
                ) as answer:
                    if not answer.ok:
                        raise CallError(f"HTTP {answer.status}: {answer.reason}")
                    return await answer.read()
            except (aiohttp.ClientError, TimeoutError, CallError) as error:
                said = str(error) if isinstance(error, CallError) else "fetch failed"
                self._log.write(
                    "error",
                    "photo-processing",
                    "Image download attempt failed",
                    attempt=attempt,
                    maxRetries=_DOWNLOADS,
                    error=said,
                )
                if attempt == _DOWNLOADS:
                    raise CallError(
                        f"Failed to download image after {_DOWNLOADS} attempts: {said}"
                    ) from error
            await asyncio.sleep(self._delay * 2 ** (attempt - 1))
        raise AssertionError

    async def _send(self, kind: str, receiver: dict[str, str], text: str, **context: str) -> None:
        body = {**receiver, "messages": [{"type": "text", "text": text}]}
        try:
            await self._call("POST", f"/v2/bot/message/{kind}", body)
        except CallError as error:
            self._log.write("error", "line-webhook", f"Failed to {kind} message", error=str(error), **context)
            raise

    async def _get(self, path: str) -> dict[str, Any]:
        return await self._call("GET", path, None)

    async def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        url = self._config.line_api + path
        timeout = aiohttp.ClientTimeout(total=60)
        try:
            async with self._http.request(
                method, url, json=body, headers=self._headers, timeout=timeout
            ) as answer:
                if not answer.ok:
                    raise CallError(f"Request failed with status code {answer.status}")
                found = await answer.json(content_type=None)
                return found if isinstance(found, dict) else {}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise CallError(str(error) or type(error).__name__) from error


@dataclass(frozen=True)
class Photo:
    """A photo on its way into the archive."""

    name: str
    mime: str
    content: bytes
    description: str
    tags: list[str]
    folder: str
    metadata: dict[str, Any]


class MemoryArk:
    """The archive's API."""

    def __init__(self, config: Config, http: aiohttp.ClientSession, log: Log) -> None:
        self._config = config
        self._http = http
        self._log = log
        token = config.memoryark_token
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def is_healthy(self) -> bool:
        """Whether the archive answers."""
        url = f"{self._config.memoryark_url}/api/health"
        try:
            async with self._http.get(url, timeout=aiohttp.ClientTimeout(total=5)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def upload(self, photo: Photo) -> None:
        """Store a photo."""
        if len(photo.content) > self._config.max_file_size:
            raise self._upload_failed(
                photo, "Unknown error", "Request body larger than maxBodyLength limit", None
            )
        form = aiohttp.FormData()
        form.add_field("file", photo.content, filename=photo.name, content_type=photo.mime)
        form.add_field("description", photo.description)
        form.add_field("tags", json.dumps(photo.tags, ensure_ascii=False))
        form.add_field("metadata", json.dumps(photo.metadata, ensure_ascii=False))
        form.add_field("relative_path", photo.folder)
        url = self._config.memoryark_url + self._config.upload_endpoint
        timeout = aiohttp.ClientTimeout(total=30)
        try:
            async with self._http.post(url, data=form, headers=self._headers, timeout=timeout) as answer:
                if not answer.ok:
                    said = f"Request failed with status code {answer.status}"
                    raise self._upload_failed(photo, "HTTP error", said, answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._upload_failed(photo, "Network error", str(error), None) from error

    async def save_user(self, profile: dict[str, Any]) -> None:
        """Remember who sent a photo. The second call is one that the real archive always refuses."""
        user = {
            "lineUserId": profile.get("userId"),
            "displayName": profile.get("displayName"),
            "pictureUrl": profile.get("pictureUrl"),
        }
        if error := await self._post("/api/api-access/line/users", user):
            self._log.write("error", "memoryark-api", "Failed to save LINE user", error=error)
        record = {"fileId": 0, "lineUserId": profile.get("userId"), "lineMessageId": ""}
        if error := await self._post("/api/api-access/line/upload-records", record):
            for level, service in (("error", "memoryark-api"), ("warn", "line-webhook")):
                self._log.write(level, service, "Failed to create upload record", error=error, fileId="0")

    async def _post(self, path: str, body: dict[str, Any]) -> str | None:
        """Send JSON; returns what went wrong, if anything did."""
        url = self._config.memoryark_url + path
        timeout = aiohttp.ClientTimeout(total=30)
        try:
            async with self._http.post(url, json=body, headers=self._headers, timeout=timeout) as answer:
                return None if answer.ok else f"Request failed with status code {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return str(error) or type(error).__name__

    def _upload_failed(self, photo: Photo, kind: str, said: str, status: int | None) -> CallError:
        message = f"Photo upload failed - {kind}"
        self._log.write("error", "memoryark-api", message, error=said, fileName=photo.name, status=status)
        if status is not None:
            return CallError(f"HTTP {status}: {said}")
        return CallError("No response from MemoryArk API" if kind == "Network error" else said)
