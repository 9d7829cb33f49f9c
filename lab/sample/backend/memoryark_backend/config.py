"""Settings from the environment, with the real application's names and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .migrations import FIRST


@dataclass(frozen=True)
class Config:
    """What the server can be told. Like the real one it validates nothing and demands nothing."""

    port: int = 8081
    release: bool = False
    database_path: Path = Path("./data/memoryark.db")
    upload_path: Path = Path("./uploads")
    max_file_size: int = 104857600
    jwt_secret: str = "memoryark-secret-key"
    root_admin_email: str = ""
    root_admin_name: str = "系統管理員"
    line_service_api_token: str = ""
    bypass_auth: bool = False
    log_dir: Path = Path("./logs")
    # The laboratory's; the real application knows nothing of it.
    schema_version: int = FIRST


def _number(value: str | None, default: int) -> int:
    """Parse as the real one does: what is no number is the default."""
    try:
        return int(value or "")
    except ValueError:
        return default


def load(env: Mapping[str, str]) -> Config:
    """Read the settings; an empty variable counts as an absent one."""

    def text(name: str, default: str) -> str:
        return env.get(name) or default

    def flag(name: str) -> bool:
        return env.get(name, "").lower() in {"1", "t", "true"}

    defaults = Config()
    return Config(
        port=_number(env.get("PORT"), defaults.port),
        release=text("GIN_MODE", "debug") == "release",
        database_path=Path(text("DATABASE_PATH", str(defaults.database_path))),
        upload_path=Path(text("UPLOAD_PATH", str(defaults.upload_path))),
        max_file_size=_number(env.get("MAX_FILE_SIZE"), defaults.max_file_size),
        jwt_secret=text("JWT_SECRET", defaults.jwt_secret),
        root_admin_email=text("ROOT_ADMIN_EMAIL", ""),
        root_admin_name=text("ROOT_ADMIN_NAME", defaults.root_admin_name),
        line_service_api_token=text("LINE_SERVICE_API_TOKEN", ""),
        bypass_auth=flag("DEVELOPMENT_MODE") and flag("DEV_BYPASS_AUTH"),
        schema_version=_number(env.get("LAB_SCHEMA_VERSION"), defaults.schema_version),
    )
