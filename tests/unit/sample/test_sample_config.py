"""Settings of the sample services, and what needs nothing but itself."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from line_service import clients, config, logs, signature, web
from line_service.bull import Backoff, delayed_score
from memoryark_backend import config as backend_config

MINIMAL = {
    "LINE_CHANNEL_ACCESS_TOKEN": "token",
    "LINE_CHANNEL_SECRET": "secret",
    "LINE_CHANNEL_ID": "1",
    "MEMORYARK_API_URL": "http://backend:8081",
}


@pytest.mark.parametrize("name", config.MANDATORY)
@pytest.mark.parametrize("value", [None, ""])
def test_line_service_refuses_to_start_without(name: str, value: str | None) -> None:
    env = {key: text for key, text in MINIMAL.items() if key != name}
    if value is not None:
        env[name] = value
    with pytest.raises(config.ConfigError, match=f"Missing required environment variables: {name}$"):
        config.load(env)


def test_line_service_names_everything_that_is_missing() -> None:
    with pytest.raises(config.ConfigError) as error:
        config.load({})
    assert all(name in str(error.value) for name in config.MANDATORY)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "0", "between 1 and 65535"),
        ("PORT", "65536", "between 1 and 65535"),
        ("PORT", "http", "PORT must be a number"),
        ("MEMORYARK_MAX_FILE_SIZE", "0", "greater than 0"),
        ("MEMORYARK_MAX_FILE_SIZE", "20 MB", "must be a number"),
        ("REDIS_PORT", "redis", "must be a number"),
    ],
)
def test_line_service_refuses(name: str, value: str, message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        config.load({**MINIMAL, name: value})


@pytest.mark.parametrize(
    ("env", "attribute", "expected"),
    [
        ({}, "port", 3000),
        ({}, "upload_endpoint", "/api/api-access/files/upload"),
        ({}, "max_file_size", 20971520),
        ({}, "environment", "development"),
        ({}, "line_api", "https://api.line.me"),
        ({}, "line_data_api", "https://api-data.line.me"),
        ({}, "redis_host", "localhost"),
        ({}, "signature_bypass", False),
        ({"LINE_SIGNATURE_BYPASS": "true"}, "signature_bypass", True),
        ({"PORT": "65535"}, "port", 65535),
        ({"REDIS_HOST": ""}, "redis_host", "localhost"),
        ({"MEMORYARK_API_TOKEN": " t "}, "memoryark_token", "t"),
        ({"MEMORYARK_API_URL": "http://backend:8081/"}, "memoryark_url", "http://backend:8081"),
    ],
)
def test_line_service_settings(env: dict[str, str], attribute: str, expected: object) -> None:
    assert getattr(config.load({**MINIMAL, **env}), attribute) == expected


@pytest.mark.parametrize(
    ("env", "attribute", "expected"),
    [
        ({}, "port", 8081),
        ({"PORT": "http"}, "port", 8081),
        ({}, "database_path", Path("data/memoryark.db")),
        ({}, "upload_path", Path("uploads")),
        ({}, "max_file_size", 104857600),
        ({"DATABASE_PATH": "/data/x.db"}, "database_path", Path("/data/x.db")),
        ({}, "release", False),
        ({"GIN_MODE": "release"}, "release", True),
        ({"DEV_BYPASS_AUTH": "true"}, "bypass_auth", False),
        ({"DEV_BYPASS_AUTH": "true", "DEVELOPMENT_MODE": "true"}, "bypass_auth", True),
        ({}, "jwt_secret", "memoryark-secret-key"),
        ({}, "schema_version", 1),
        ({"LAB_SCHEMA_VERSION": "3"}, "schema_version", 3),
    ],
)
def test_backend_settings(env: dict[str, str], attribute: str, expected: object) -> None:
    assert getattr(backend_config.load(env), attribute) == expected


def test_signature_is_that_of_the_raw_body() -> None:
    body = '{"events": [ ], "note": "中文"}'.encode()
    signed = signature.sign("secret", body)
    assert signature.is_valid("secret", body, signed)
    assert not signature.is_valid("secret", body.replace(b"[ ]", b"[]"), signed)
    assert not signature.is_valid("other", body, signed)
    assert not signature.is_valid("secret", body, "簽名")
    # openssl dgst -sha256 -hmac key -binary | base64, for the body "abc"
    assert signature.sign("key", b"abc") == "nBluMtwBdfhvSxy4konWYZ3mvuaZ5MN45oMJ7Zehpqs="


@pytest.mark.parametrize(
    ("content", "mime", "name"),
    [
        (b"\xff\xd8\xff\xe0rest", "image/jpeg", "line_7_5..jpg"),
        (b"\x89PNG\r\n", "image/png", "line_7_5..png"),
        (b"GIF89a", "image/gif", "line_7_5..gif"),
        (b"RIFF\0\0\0\0WEBP", "image/webp", "line_7_5..webp"),
        (b"RIFF\0\0\0\0WAVE", "image/jpeg", "line_7_5..jpg"),
        (b"BM\0\0", "image/bmp", "line_7_5..bmp"),
        (b"text", "image/jpeg", "line_7_5..jpg"),
        (b"a", "application/octet-stream", "line_7_5..jpg"),
    ],
)
def test_photos_are_told_by_their_content(content: bytes, mime: str, name: str) -> None:
    assert clients.mime_type(content) == mime
    assert clients.file_name("7", 5, mime) == name


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [(Backoff("exponential", 2000), [2000, 6000, 14000]), (Backoff("fixed", 1000), [1000, 1000, 1000])],
)
def test_backoff(backoff: Backoff, waits: list[int]) -> None:
    assert [backoff.after(made) for made in (1, 2, 3)] == waits


def test_delayed_jobs_keep_their_order() -> None:
    assert delayed_score(1000, "5") == 1000 * 4096 + 5
    assert delayed_score(1000, "4097") == 1000 * 4096 + 1


def test_rate_limit_forgets_after_a_minute() -> None:
    limit = web.RateLimit(2)
    assert [limit.admits("proxy", now) for now in (0.0, 1.0, 2.0, 60.5, 60.6)] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert limit.admits("other", 2.0)


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        (None, "Events array is required"),
        ({}, "Events array is required"),
        (["x"], "Event type is required"),
        ([{"timestamp": 1}], "Event type is required"),
        ([{"type": "message"}], "Event timestamp is required"),
        ([{"type": "message", "timestamp": 1}], None),
    ],
)
def test_webhook_bodies(events: object, fault: str | None) -> None:
    assert web.refusal(events) == fault


@pytest.mark.parametrize(
    ("environment", "combined"),
    [("production", ["warn", "error"]), ("development", ["debug", "info", "warn", "error"])],
)
def test_only_the_environment_sets_the_log_level(
    tmp_path: Path, environment: str, combined: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    log = logs.Log(tmp_path, environment, lambda: datetime(2026, 11, 2, 21, 6, 7))
    for level in ("debug", "info", "warn", "error"):
        log.write(level, "system", "Message", url="/x", attempt=3, absent=None)
    lines = (tmp_path / "combined-2026-11-02.log").read_text().splitlines()
    assert [json.loads(line)["level"] for line in lines] == combined
    assert len((tmp_path / "error-2026-11-02.log").read_text().splitlines()) == 1
    assert lines[-1] == (
        '{"attempt":3,"level":"error","message":"Message","service":"system",'
        '"timestamp":"2026-11-02 21:06:07:67","url":"/x"}'
    )
    # The console has the message in colour and none of the rest.
    assert capsys.readouterr().out.splitlines()[-1].endswith("\x1b[31mMessage\x1b[39m")
