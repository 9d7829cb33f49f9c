"""Both sample services against a fake LINE and a real Redis: from the webhook to the archived file."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import line_service.config
import line_service.workers
import memoryark_backend.config
import pytest
import redis.asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from line_service.bull import Client
from line_service.clients import Line, MemoryArk
from line_service.logs import Log
from line_service.signature import sign
from line_service.web import Service
from line_service.workers import Bot
from memoryark_backend.store import Store
from memoryark_backend.web import IDENTITY, make_app

PHOTO = b"\xff\xd8\xff\xe0" + b"photo" * 1000
SECRET = "channel-secret"
TOKEN = "token-shared-by-both"
ADMIN = "admin@example.org"
API = TestClient[web.Request, web.Application]


class FakeLine:
    """LINE's API as far as the bot needs it, and a record of what was asked of it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.push_status = 200
        self.broken_downloads = 0
        self.downloads = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v2/bot/message/{id}/content", self.content),
                web.get("/v2/bot/profile/{user}", self.profile),
                web.get("/v2/bot/group/{group}/summary", self.group),
                web.post("/v2/bot/message/{kind}", self.message),
            ]
        )
        return app

    async def content(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer access-token"
        self.downloads += 1
        if self.downloads <= self.broken_downloads:
            raise web.HTTPNotFound
        return web.Response(body=PHOTO, content_type="image/jpeg")

    async def profile(self, request: web.Request) -> web.Response:
        return web.json_response({"userId": request.match_info["user"], "displayName": "王小明"})

    async def group(self, request: web.Request) -> web.Response:
        return web.json_response({"groupId": request.match_info["group"], "groupName": "青年團契"})

    async def message(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        if kind == "push" and self.push_status != 200:
            return web.json_response({"message": "You have reached your monthly limit."}, status=429)
        self.sent.append((kind, (await request.json())["messages"][0]["text"]))
        return web.json_response({})


@dataclasses.dataclass
class Stage:
    """Everything that runs in a scenario."""

    line: FakeLine
    bot: API
    backend: API
    redis: redis.asyncio.Redis
    root: Path

    async def webhook(self, body: dict[str, Any], signature: str | None = "right") -> aiohttp.ClientResponse:
        raw = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if signature is not None:
            headers["x-line-signature"] = sign(SECRET, raw) if signature == "right" else signature
        return await self.bot.post("/webhook/line", data=raw, headers=headers)

    async def jobs_done(self, queue: str, target: str, count: int) -> None:
        for _ in range(400):
            if await self.redis.zcard(f"bull:{queue}:{target}") >= count:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{queue} never had {count} {target} jobs")

    def rows(self, sql: str) -> list[Any]:
        with sqlite3.connect(self.root / "data" / "memoryark.db") as database:
            return database.execute(sql).fetchall()

    def messages(self, name: str = "combined") -> list[dict[str, Any]]:
        files = sorted((self.root / "logs").glob(f"{name}-*.log"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def image_event(message: str = "100", source: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "type": "message",
        "timestamp": 1,
        "replyToken": "reply-token",
        "source": source or {"type": "user", "userId": "U0001"},
        "message": {"type": "image", "id": message},
    }


@asynccontextmanager
async def stage(root: Path, port: int, **settings: Any) -> AsyncIterator[Stage]:
    """Start everything."""
    fake = FakeLine()
    client = redis.asyncio.Redis(port=port, decode_responses=True)
    await client.flushall()
    store = Store(root / "data" / "memoryark.db", root / "uploads")
    store.migrate(ADMIN, "Admin")
    backend = dataclasses.replace(
        memoryark_backend.config.Config(),
        line_service_api_token=TOKEN,
        max_file_size=settings.pop("limit", 10**6),
    )
    async with (
        TestServer(fake.app()) as line_server,
        TestClient(TestServer(make_app(backend, store))) as archive,
        aiohttp.ClientSession() as http,
    ):
        base = f"http://127.0.0.1:{line_server.port}"
        config = line_service.config.load(
            {
                "LINE_CHANNEL_ACCESS_TOKEN": "access-token",
                "LINE_CHANNEL_SECRET": SECRET,
                "LINE_CHANNEL_ID": "1",
                "MEMORYARK_API_URL": f"http://127.0.0.1:{archive.port}",
                "MEMORYARK_API_TOKEN": TOKEN,
                "LINE_API_BASE": base,
                "LINE_DATA_API_BASE": base,
                "NODE_ENV": "production",
            }
        )
        config = dataclasses.replace(config, **settings)
        log = Log(root / "logs", config.environment)
        log.open()
        line, ark = Line(config, http, log, delay=0.01), MemoryArk(config, http, log)
        bot = Bot(cast(Client, client), line, ark, log, lock_ms=2000)
        bot.start()
        async with TestClient(TestServer(Service(config, line, ark, bot, log).app())) as front:
            yield Stage(fake, front, archive, client, root)
        await bot.stop()
    await client.aclose()
    store.close()


Scenario = Callable[[Stage], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, redis_port: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a scenario on a fresh stage."""
    monkeypatch.setattr(line_service.workers, "_POLL_SECONDS", 0.1)

    def runner(scenario: Scenario, **settings: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), stage(tmp_path, redis_port, **settings) as everything:
                await scenario(everything)

        asyncio.run(main())

    return runner


def test_a_photo_reaches_the_archive_and_its_sender_is_told(run: Run) -> None:
    async def scenario(on: Stage) -> None:
        answer = await on.webhook({"destination": "x", "events": [image_event()]})
        assert answer.status == 200
        assert await answer.json() == {"message": "OK", "processed": 1, "success": 1, "failures": 0}
        await on.jobs_done("notifications", "completed", 1)
        ((name, path, virtual, sha, size, by),) = on.rows(
            "SELECT name, file_path, virtual_path, sha256_hash, file_size, uploaded_by FROM files"
            " WHERE name LIKE 'line\\_%' ESCAPE '\\' AND is_directory = 0"
        )
        assert name.startswith("line_100_")
        assert name.endswith("..jpg")
        assert virtual == f"/LINE信徒照片上傳/個人上傳/王小明/{name}"
        assert (sha, size, by) == (hashlib.sha256(PHOTO).hexdigest(), len(PHOTO), 0)
        assert Path(path).read_bytes() == PHOTO
        assert Path(path).parent == on.root / "uploads" / "files" / sha[:2]
        assert not list((on.root / "uploads" / "chunks").iterdir())
        assert [kind for kind, _ in on.line.sent] == ["reply", "push"]
        assert await on.redis.get("bull:photo-processing:id") == "1"
        assert on.rows("SELECT line_user_id, display_name FROM line_users") == [("U0001", "王小明")]
        # In production a success leaves no trace in the log but the record that is always refused.
        assert {entry["message"] for entry in on.messages()} == {"Failed to create upload record"}

    run(scenario)


def test_the_same_photo_again_takes_no_space(run: Run) -> None:
    async def scenario(on: Stage) -> None:
        group = {"type": "group", "groupId": "G1", "userId": "U0001"}
        await on.webhook({"events": [image_event("1"), image_event("2", group)]})
        await on.jobs_done("photo-processing", "completed", 2)
        rows = on.rows("SELECT file_path, virtual_path FROM files ORDER BY virtual_path")
        assert len({path for path, _ in rows}) == 1
        assert [virtual.split("/")[2:4] for _, virtual in rows] == [
            ["個人上傳", "王小明"],
            ["群組上傳", "青年團契"],
        ]
        assert len([path for path in (on.root / "uploads" / "files").rglob("*") if path.is_file()]) == 1

    run(scenario)


def test_an_exhausted_quota_does_not_stop_the_archive(run: Run) -> None:
    async def scenario(on: Stage) -> None:
        on.line.push_status = 429
        await on.webhook({"events": [image_event()]})
        await on.jobs_done("notifications", "failed", 1)
        assert on.rows("SELECT count(*) FROM files") == [(1,)]
        failures = [entry for entry in on.messages("error") if entry["message"] == "Failed to push message"]
        assert len(failures) == 2
        assert failures[0]["error"] == "Request failed with status code 429"
        assert failures[0]["service"] == "line-webhook"

    run(scenario)


def test_a_download_that_works_the_second_time(run: Run) -> None:
    async def scenario(on: Stage) -> None:
        on.line.broken_downloads = 1
        await on.webhook({"events": [image_event()]})
        await on.jobs_done("photo-processing", "completed", 1)
        failed = [e for e in on.messages() if e["message"] == "Image download attempt failed"]
        assert [(e["attempt"], e["maxRetries"], e["service"]) for e in failed] == [(1, 3, "photo-processing")]

    run(scenario)


def test_a_photo_that_cannot_be_had_is_given_up(run: Run) -> None:
    async def scenario(on: Stage) -> None:
        on.line.broken_downloads = 99
        await on.webhook({"events": [image_event()]})
        await on.jobs_done("photo-processing", "failed", 1)
        await on.jobs_done("notifications", "completed", 1)
        assert on.line.downloads == 9
        failed = [e for e in on.messages() if e["message"] == "Photo processing failed"]
        # Every failed attempt is told twice: by the worker, and by the queue.
        assert [e["attempt"] for e in failed if "jobId" in e] == [1, 2, 3]
        assert [e["attempts"] for e in failed if "attempts" in e] == [1, 2, 3]
        assert failed[-1]["error"].startswith("Failed to download image after 3 attempts")
        assert on.line.sent[-1] == ("push", "照片處理失敗，請稍後重試或聯繫管理員")

    run(scenario)


@pytest.mark.parametrize(
    ("body", "signature", "bypass", "status"),
    [
        ({"events": []}, None, False, 200),
        ({"events": []}, "wrong", False, 200),
        ({"events": [image_event()]}, None, False, 400),
        ({"events": [image_event()]}, "wrong", False, 401),
        ({"events": [image_event()]}, "wrong", True, 200),
        ({"events": [image_event()]}, None, True, 400),
        ({"events": "x"}, "right", False, 400),
        ({"events": [{"type": "message"}]}, "right", False, 400),
        ({"events": [{"type": "unfollow", "timestamp": 1}]}, "right", False, 200),
    ],
)
def test_webhook_signatures(
    run: Run, body: dict[str, Any], signature: str | None, bypass: bool, status: int
) -> None:
    async def scenario(on: Stage) -> None:
        assert (await on.webhook(body, signature)).status == status

    run(scenario, signature_bypass=bypass)


def test_the_101st_webhook_of_a_minute_is_refused(run: Run) -> None:
    async def scenario(on: Stage) -> None:
        statuses = [(await on.webhook({"events": []})).status for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        assert (await on.bot.get("/webhook/health")).status == 429
        assert (await on.bot.get("/health")).status == 200

    run(scenario, webhooks_per_minute=3)


def test_health_of_both(run: Run) -> None:
    async def scenario(on: Stage) -> None:
        text = await (await on.bot.get("/health")).text()
        assert text.startswith('{"service":"line-service","status":"ok",')
        health = json.loads(text)
        assert list(health) == ["service", "status", "timestamp", "version", "uptime", "environment"]
        assert (health["service"], health["status"]) == ("line-service", "ok")
        inner = await (await on.bot.get("/api/line/health")).json()
        assert inner["services"]["memoryark"]["status"] == "healthy"
        health = await (await on.backend.get("/api/health")).json()
        assert list(health) == ["service", "status", "timestamp", "version"]
        assert (health["service"], health["status"], health["version"]) == (
            "MemoryArk API",
            "healthy",
            "2.0.0",
        )
        head = await on.backend.head("/api/health")
        assert (head.status, await head.read()) == (200, b"")
        await on.backend.close()
        answer = await on.bot.get("/api/line/health")
        assert answer.status == 200
        assert (await answer.json())["services"]["memoryark"]["status"] == "unhealthy"

    run(scenario)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/api/api-access/files/upload", {}, 401),
        ("/api/api-access/files/upload", {"Authorization": "Bearer wrong-token"}, 401),
        ("/api/api-access/files/upload", {"Authorization": TOKEN}, 401),
        ("/api/api-access/files/upload", {"Authorization": f"Bearer {TOKEN}"}, 201),
        ("/api/files/upload", {}, 401),
        ("/api/files/upload", {IDENTITY: "stranger@example.org"}, 403),
        ("/api/files/upload", {IDENTITY.lower(): ADMIN}, 201),
    ],
)
def test_who_may_upload(run: Run, path: str, headers: dict[str, str], status: int) -> None:
    async def scenario(on: Stage) -> None:
        form = aiohttp.FormData()
        form.add_field("file", PHOTO, filename="a.jpg", content_type="image/jpeg")
        assert (await on.backend.post(path, data=form, headers=headers)).status == status

    run(scenario)


def test_a_user_uploads_skips_and_downloads(run: Run) -> None:
    async def scenario(on: Stage) -> None:
        who = {IDENTITY: ADMIN}

        async def send(name: str, content: bytes = PHOTO) -> aiohttp.ClientResponse:
            form = aiohttp.FormData(quote_fields=False)  # as browsers do
            form.add_field("relative_path", "主日/2026")
            form.add_field("file", content, filename=name, content_type="image/jpeg")
            return await on.backend.post("/api/files/upload", data=form, headers=who)

        assert (await on.backend.get("/api/files/1/download", headers=who)).status == 404
        first = (await (await send("照片.jpg")).json())["data"]
        assert first["virtualPath"] == "/主日/2026/照片.jpg"
        again = await send("照片.jpg")
        assert (again.status, (await again.json())["data"]["skipped"]) == (200, True)
        assert (await send("copy.jpg")).status == 201
        assert (await send("program.exe")).status == 400
        assert (await send("big.jpg", b"x" * 20_000)).status == 413
        assert (await send("bigger.jpg", b"x" * 200_000)).status == 413
        download = await on.backend.get(f"/api/files/{first['id']}/download", headers=who)
        assert await download.read() == PHOTO
        assert (await on.backend.get(f"/api/files/{first['id']}/download")).status == 401
        public = Path(first["filePath"]).relative_to(on.root / "uploads")
        assert await (await on.backend.get(f"/uploads/{public}")).read() == PHOTO
        assert (await on.backend.get("/uploads/../data/memoryark.db")).status == 404
        listed = await (await on.backend.get("/api/files", headers=who)).json()
        assert (len(listed["data"]["files"]), listed["meta"]["pagination"]["total"]) == (2, 2)
        assert not list((on.root / "uploads" / "chunks").iterdir())

    run(scenario, limit=10_000)


def test_websocket_clients_are_counted_and_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="hub")

    async def scenario(on: Stage) -> None:
        async with on.backend.ws_connect("/api/ws") as first, on.backend.ws_connect("/api/ws") as second:
            for socket in (first, second):
                assert (await socket.receive_json())["type"] == "connected"
            await first.send_json({"type": "ping"})
            assert (await first.receive_json())["type"] == "pong"
            await first.send_str("hello")
            assert (await first.receive_json())["message"] == "hello"
            form = aiohttp.FormData()
            form.add_field("file", PHOTO, filename="a.jpg")
            await on.backend.post("/api/files/upload", data=form, headers={IDENTITY: ADMIN})
            for socket in (first, second):
                assert (await socket.receive_json())["type"] == "upload"
        for _ in range(100):
            if "客戶端已斷開，總連線數: 0" in caplog.text:
                break
            await asyncio.sleep(0.02)

    run(scenario)
    counts = [record.getMessage() for record in caplog.records]
    assert counts == [
        "客戶端已連接，總連線數: 1",
        "客戶端已連接，總連線數: 2",
        "客戶端已斷開，總連線數: 1",
        "客戶端已斷開，總連線數: 0",
    ]


def test_the_database_keeps_its_rollback_journal(run: Run) -> None:
    async def scenario(on: Stage) -> None:
        assert on.rows("PRAGMA journal_mode") == [("delete",)]

    run(scenario)
