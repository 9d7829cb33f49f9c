"""The HTTP interface."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from aiohttp import BodyPartReader, web

from .config import Config
from .hub import Hub, event
from .logs import request_line
from .store import Store, Upload

log = logging.getLogger("file")

STORE = web.AppKey("store", Store)
HUB = web.AppKey("hub", Hub)
CONFIG = web.AppKey("config", Config)

IDENTITY = "CF-Access-Authenticated-User-Email"
EXTENSIONS = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".png",
        ".gif",
        ".bmp",
        ".webp",
        ".svg",
        ".tiff",
        ".ico",
        ".mp4",
        ".avi",
        ".mov",
        ".mkv",
        ".webm",
        ".mp3",
        ".wav",
        ".flac",
        ".m4a",
        ".pdf",
        ".doc",
        ".docx",
        ".xls",
        ".xlsx",
        ".ppt",
        ".pptx",
        ".txt",
        ".odt",
        ".ods",
        ".odp",
        ".zip",
        ".tar",
        ".gz",
        ".json",
        ".csv",
        ".bin",
    }
)
_CHUNK = 256 * 1024
_FORM_FIELD_LIMIT = 64 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Caller = dict[str, Any]
GuardedHandler = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

# The LINE bot is nobody in particular.
SERVICE: Caller = {"id": 0}


class Refused(Exception):
    """An upload that is not taken, and the answer to it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


def _json_response(body: Any, status: int = 200) -> web.Response:
    """Answer compact JSON: probes match on its very text."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return web.json_response(text=text, status=status)


def _error(status: int, code: str, message: str) -> web.Response:
    return _json_response({"success": False, "error": {"code": code, "message": message}}, status=status)


def _success(data: Any, status: int = 200, message: str | None = None) -> web.Response:
    body = {"success": True, "data": data}
    return _json_response(body if message is None else {**body, "message": message}, status=status)


def _file_json(row: dict[str, Any]) -> dict[str, Any]:
    """Name the columns as the real application's JSON does."""
    return {
        "id": row["id"],
        "name": row["name"],
        "originalName": row["original_name"],
        "filePath": row["file_path"],
        "virtualPath": row["virtual_path"],
        "sha256Hash": row["sha256_hash"],
        "size": row["file_size"],
        "mimeType": row["mime_type"],
        "uploadedBy": row["uploaded_by"],
        "downloadCount": row["download_count"],
        "isDirectory": bool(row["is_directory"]),
        "isDeleted": bool(row["is_deleted"]),
        "createdAt": row["created_at"],
        "updatedAt": row["updated_at"],
    }


@web.middleware
async def gin_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Print every request once it is finished."""
    begun = time.monotonic()
    status = 500
    try:
        response = await handler(request)
        status = response.status
        return response
    except web.HTTPException as error:
        status = error.status
        raise
    finally:
        request_line(status, begun, request.remote or "", request.method, request.path_qs)


def for_service(handler: GuardedHandler) -> Handler:
    """Let in who carries the token that the LINE bot shares with this server."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        config = request.app[CONFIG]
        if not config.bypass_auth:
            header = request.headers.get("Authorization", "")
            token = header.removeprefix("Bearer ")
            expected = config.line_service_api_token
            if not header:
                return _denied("MISSING_API_TOKEN", "Missing Authorization header")
            if not header.startswith("Bearer "):
                return _denied("INVALID_TOKEN_FORMAT", "Invalid Authorization header format")
            # An empty expected token lets nobody in.
            if not expected or not hmac.compare_digest(token.encode(), expected.encode()):
                return _denied("INVALID_API_TOKEN", "Invalid API token")
        return await handler(request, SERVICE)

    return guarded


def _denied(code: str, message: str) -> web.Response:
    return _json_response({"success": False, "error": message, "code": code}, status=401)


def for_user(handler: GuardedHandler) -> Handler:
    """Believe the identity header, as the real application does: the proxy must guard it."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        config = request.app[CONFIG]
        email = request.headers.get(IDENTITY, config.root_admin_email if config.bypass_auth else "")
        if not email:
            body = {"success": False, "error": "CF_ACCESS_HEADER_MISSING"}
            return _json_response(body, status=401)
        user = await asyncio.to_thread(request.app[STORE].user, email)
        if user is None:
            return _json_response({"success": False, "error": "USER_NOT_REGISTERED"}, status=403)
        if user["status"] != "approved":
            return _json_response({"success": False, "error": "USER_NOT_APPROVED"}, status=403)
        return await handler(request, user)

    return guarded


async def health(request: web.Request) -> web.Response:
    """Say that the process lives; does not look at the database."""
    if request.method == "HEAD":
        return web.Response()
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return _json_response(
        {"service": "MemoryArk API", "status": "healthy", "timestamp": now, "version": "2.0.0"}
    )


async def _receive(part: BodyPartReader, target: Path, limit: int) -> tuple[int, str]:
    """Stream a part into a file; returns its size and hash."""
    size, digest = 0, hashlib.sha256()
    with target.open("wb") as file:
        while chunk := await part.read_chunk(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise Refused(413, "FILE_TOO_LARGE", "檔案大小超過限制")
            digest.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    return size, digest.hexdigest()


async def _read_form(request: web.Request, caller: Caller, received: Path) -> Upload:
    """Read an upload form; its field ``file`` is left at ``received``."""
    limit = request.app[CONFIG].max_file_size
    if not request.content_type.startswith("multipart/"):
        raise Refused(400, "NO_FILE", "沒有選擇檔案")
    if (request.content_length or 0) > limit + _FORM_FIELD_LIMIT:
        raise Refused(413, "FILE_TOO_LARGE", "檔案大小超過限制")
    fields: dict[str, str] = {}
    name, mime, content = "", "", None
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            continue
        if part.name != "file":
            fields[part.name or ""] = (await part.read_chunk(_FORM_FIELD_LIMIT)).decode(errors="replace")
            continue
        name = PurePosixPath(part.filename or "").name
        mime = part.headers.get("Content-Type", "application/octet-stream")
        suffix = PurePosixPath(name).suffix.lower()
        if suffix not in EXTENSIONS:
            raise Refused(400, "INVALID_FILE_TYPE", f"不允許上傳 '{suffix}' 類型的檔案")
        content = await _receive(part, received, limit)
    if content is None:
        raise Refused(400, "NO_FILE", "沒有選擇檔案")
    return Upload(
        received=received,
        name=name,
        mime_type=mime,
        size=content[0],
        sha256=content[1],
        folder=fields.get("relative_path", ""),
        uploaded_by=caller["id"],
        description=fields.get("description", ""),
        tags=fields.get("tags", ""),
    )


async def upload(request: web.Request, caller: Caller) -> web.Response:
    """Store the form's field ``file``; 201 for a new row, 200 if that place had it already."""
    store = request.app[STORE]
    # Beside its later place: the move is then atomic, and /tmp is memory.
    received = store.uploads / "chunks" / f"{uuid.uuid4()}.part"
    try:
        form = await _read_form(request, caller, received)
        row, outcome = await asyncio.to_thread(store.keep, form)
    except Refused as refusal:
        return _error(refusal.status, refusal.code, refusal.message)
    finally:
        received.unlink(missing_ok=True)
    log.info("檔案上傳: %s %s", outcome, row["file_path"])
    await request.app[HUB].broadcast(event("upload", f"檔案 {form.name} 上傳成功", {"id": row["id"]}))
    if outcome == "skipped":
        return _success({**_file_json(row), "skipped": True}, message="檔案已存在，跳過上傳")
    message = "檔案上傳成功" if outcome == "new" else "檔案上傳成功（已去重）"
    return _success(_file_json(row), status=201, message=message)


async def list_files(request: web.Request, _: Caller) -> web.Response:
    """One page of the files."""
    page = max(1, _int(request.query.get("page"), 1))
    limit = min(100, max(1, _int(request.query.get("limit"), 50)))
    rows, total = await asyncio.to_thread(request.app[STORE].files, limit, (page - 1) * limit)
    paging = {"page": page, "limit": limit, "total": total, "totalPages": -(-total // limit)}
    body = {"files": [_file_json(row) for row in rows]}
    return _json_response({"success": True, "data": body, "meta": {"pagination": paging}})


async def _find(request: web.Request) -> dict[str, Any] | None:
    return await asyncio.to_thread(request.app[STORE].file, _int(request.match_info["id"], 0))


async def file_details(request: web.Request, _: Caller) -> web.Response:
    """Everything about one file."""
    row = await _find(request)
    return _success(_file_json(row)) if row else _error(404, "FILE_NOT_FOUND", "檔案不存在")


async def download(request: web.Request, _: Caller) -> web.StreamResponse:
    """The bytes of one file."""
    row = await _find(request)
    if row is None:
        return _error(404, "FILE_NOT_FOUND", "檔案不存在")
    if row["is_deleted"]:
        return _error(410, "FILE_DELETED", "檔案已被刪除")
    path = Path(row["file_path"])
    if not path.is_file():
        return _error(404, "PHYSICAL_FILE_NOT_FOUND", "實體檔案不存在")
    await asyncio.to_thread(request.app[STORE].count_download, row["id"])
    headers = {"Content-Disposition": f'attachment; filename="{row["id"]}"', "Content-Type": row["mime_type"]}
    return web.FileResponse(path, headers=headers)


async def me(_: web.Request, caller: Caller) -> web.Response:
    """Who the caller is taken for."""
    return _success(caller)


async def save_line_user(request: web.Request, _: Caller) -> web.Response:
    """Remember somebody who uses the bot."""
    user = await _json(request)
    if not user.get("lineUserId") or not user.get("displayName"):
        return _error(400, "INVALID_REQUEST", "請求參數錯誤")
    created = await asyncio.to_thread(request.app[STORE].save_line_user, user)
    return _success({"message": "用戶創建成功" if created else "用戶更新成功", "created": created})


async def create_upload_record(request: web.Request, _: Caller) -> web.Response:
    """Refuse what the bot really sends: file 0 and an empty message. No row was ever made this way."""
    record = await _json(request)
    if not record.get("fileId") or not record.get("lineUserId") or not record.get("lineMessageId"):
        return _error(400, "INVALID_REQUEST", "請求參數錯誤")
    return _error(400, "INVALID_REQUEST", "檔案不存在")


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _int(text: str | None, default: int) -> int:
    try:
        return int(text or "")
    except ValueError:
        return default


def make_app(config: Config, store: Store) -> web.Application:
    """Put the application together."""
    app = web.Application(middlewares=[gin_log], client_max_size=_FORM_FIELD_LIMIT)
    app[CONFIG], app[STORE], app[HUB] = config, store, Hub()
    app.add_routes(
        [
            # Answers HEAD as well.
            web.get("/api/health", health),
            web.get("/api/ws", app[HUB].serve),
            web.get("/api/auth/me", for_user(me)),
            web.get("/api/files", for_user(list_files)),
            web.post("/api/files/upload", for_user(upload)),
            web.get("/api/files/{id}", for_user(file_details)),
            web.get("/api/files/{id}/download", for_user(download)),
            web.post("/api/api-access/files/upload", for_service(upload)),
            web.post("/api/api-access/line/users", for_service(save_line_user)),
            web.post("/api/api-access/line/upload-records", for_service(create_upload_record)),
            # Public, as in the real application.
            web.static("/uploads", store.uploads),
        ]
    )
    return app
