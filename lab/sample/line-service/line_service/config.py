"""Settings from the environment, with the real service's names, defaults and complaints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MANDATORY = ("LINE_CHANNEL_ACCESS_TOKEN", "LINE_CHANNEL_SECRET", "LINE_CHANNEL_ID", "MEMORYARK_API_URL")
_IMAGE_TYPES = "image/jpeg,image/png,image/gif,image/webp,image/bmp"


class ConfigError(Exception):
    """The service cannot run with these settings."""


@dataclass(frozen=True)
class Config:
    """What the service can be told. REDIS_PASSWORD is missing on purpose: the real one ignores it."""

    access_token: str
    channel_secret: str
    channel_id: str
    memoryark_url: str
    memoryark_token: str
    upload_endpoint: str
    max_file_size: int
    allowed_mime_types: frozenset[str]
    redis_host: str
    redis_port: int
    port: int
    environment: str
    # The following are the laboratory's; the real service knows none of them.
    line_api: str
    line_data_api: str
    extra_ca: str | None
    signature_bypass: bool
    webhooks_per_minute: int
    lock_ms: int


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{name} must be a number, not {text!r}") from error


def load(env: Mapping[str, str]) -> Config:
    """Read the settings; an empty variable counts as an absent one."""
    if missing := [name for name in MANDATORY if not env.get(name)]:
        raise ConfigError(f"Missing required environment variables: {', '.join(missing)}")
    config = Config(
        access_token=env["LINE_CHANNEL_ACCESS_TOKEN"],
        channel_secret=env["LINE_CHANNEL_SECRET"],
        channel_id=env["LINE_CHANNEL_ID"],
        memoryark_url=env["MEMORYARK_API_URL"].rstrip("/"),
        memoryark_token=env.get("MEMORYARK_API_TOKEN", "").strip(),
        upload_endpoint=env.get("MEMORYARK_UPLOAD_ENDPOINT") or "/api/api-access/files/upload",
        max_file_size=_number(env, "MEMORYARK_MAX_FILE_SIZE", 20971520),
        allowed_mime_types=frozenset((env.get("MEMORYARK_ALLOWED_MIME_TYPES") or _IMAGE_TYPES).split(",")),
        redis_host=env.get("REDIS_HOST") or "localhost",
        redis_port=_number(env, "REDIS_PORT", 6379),
        port=_number(env, "PORT", 3000),
        environment=env.get("NODE_ENV") or "development",
        line_api=(env.get("LINE_API_BASE") or "https://api.line.me").rstrip("/"),
        line_data_api=(env.get("LINE_DATA_API_BASE") or "https://api-data.line.me").rstrip("/"),
        extra_ca=env.get("NODE_EXTRA_CA_CERTS") or None,
        signature_bypass=env.get("LINE_SIGNATURE_BYPASS", "").lower() == "true",
        webhooks_per_minute=_number(env, "LINE_WEBHOOK_RATE_LIMIT", 100),
        lock_ms=_number(env, "BULL_LOCK_DURATION_MS", 30000),
    )
    if config.max_file_size <= 0:
        raise ConfigError("MemoryArk max file size must be greater than 0")
    if not 0 < config.port <= 65535:
        raise ConfigError("Server port must be between 1 and 65535")
    return config
