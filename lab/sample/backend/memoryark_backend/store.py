"""The SQLite database and the uploaded files.

The schema is the part of the real one that a deployment relies on: the tables and columns that
backups, migrations and metrics look at.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from . import migrations

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
  id integer PRIMARY KEY AUTOINCREMENT, email text NOT NULL UNIQUE, name text NOT NULL, phone text,
  role text DEFAULT 'user', status text DEFAULT 'pending', avatar_url text, created_at datetime,
  updated_at datetime, last_login_at datetime, approved_by integer, approved_at datetime,
  deleted_at datetime);
CREATE TABLE IF NOT EXISTS files (
  id integer PRIMARY KEY AUTOINCREMENT, name text NOT NULL, original_name text NOT NULL,
  file_path text NOT NULL, virtual_path text, sha256_hash text, file_size integer NOT NULL,
  mime_type text, thumbnail_url text, parent_id integer, category_id integer,
  uploaded_by integer NOT NULL, download_count integer DEFAULT 0, is_directory numeric DEFAULT false,
  is_deleted numeric DEFAULT false, deleted_at datetime, deleted_by integer, description text,
  tags text, content_type text, speaker text, sermon_title text, bible_reference text,
  like_count integer DEFAULT 0, created_at datetime, updated_at datetime);
CREATE INDEX IF NOT EXISTS idx_files_sha256_hash ON files(sha256_hash);
CREATE INDEX IF NOT EXISTS idx_files_virtual_path ON files(virtual_path);
CREATE TABLE IF NOT EXISTS line_users (
  id integer PRIMARY KEY AUTOINCREMENT, line_user_id text NOT NULL UNIQUE, display_name text NOT NULL,
  picture_url text, status_message text, language text, is_blocked numeric DEFAULT false,
  is_active numeric DEFAULT true, first_interaction_at datetime, last_interaction_at datetime,
  total_uploads integer DEFAULT 0, created_at datetime, updated_at datetime);
CREATE TABLE IF NOT EXISTS line_upload_records (
  id text PRIMARY KEY, file_id integer NOT NULL, line_user_id text NOT NULL,
  line_user_name text NOT NULL, line_message_id text NOT NULL UNIQUE, line_group_id text,
  line_group_name text, message_type text DEFAULT 'image', original_url text,
  download_status text DEFAULT 'completed', error_message text, retry_count integer DEFAULT 0,
  created_at datetime, updated_at datetime);
CREATE TABLE IF NOT EXISTS line_settings (
  id integer PRIMARY KEY AUTOINCREMENT, setting_key text NOT NULL UNIQUE, setting_value text,
  setting_type text DEFAULT 'string', description text, is_active numeric DEFAULT true,
  created_by integer, created_at datetime, updated_at datetime);
"""


@dataclass(frozen=True)
class Upload:
    """A file that was received into a temporary place."""

    received: Path
    name: str
    mime_type: str
    size: int
    sha256: str
    folder: str
    uploaded_by: int
    description: str = ""
    tags: str = ""


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="microseconds")


class Store:
    """All access to the database goes through one connection, as SQLite has one writer anyway."""

    def __init__(self, database: Path, uploads: Path) -> None:
        database.parent.mkdir(parents=True, exist_ok=True)
        for part in ("files", "chunks", "exports"):
            (uploads / part).mkdir(parents=True, exist_ok=True)
        self.uploads = uploads
        self._lock = threading.Lock()
        # No waiting for locks and a rollback journal: the real driver's defaults. Whoever holds a lock
        # for long, such as a careless backup, makes requests fail; the lab is to show that.
        self._db = sqlite3.connect(database, timeout=0, check_same_thread=False)
        self._db.row_factory = sqlite3.Row

    def migrate(self, admin_email: str, admin_name: str, version: int = migrations.FIRST) -> None:
        """Bring the schema to ``version`` and make the first administrator; raises MigrationError."""
        with self._lock, self._db:
            migrations.refuse_newer(self._db, version)
            self._db.executescript(SCHEMA)
            migrations.migrate(self._db, version)
            self._db.execute(
                "INSERT OR IGNORE INTO line_settings(setting_key, setting_value, created_at, updated_at)"
                " VALUES ('auto_reply_enabled', 'true', ?, ?)",
                (_now(), _now()),
            )
            admins = self._db.execute("SELECT count(*) FROM users WHERE role = 'admin'").fetchone()[0]
            if admin_email and not admins:
                self._db.execute(
                    "INSERT INTO users(email, name, role, status, created_at, updated_at)"
                    " VALUES (?, ?, 'admin', 'approved', ?, ?)",
                    (admin_email, admin_name, _now(), _now()),
                )

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def user(self, email: str) -> dict[str, Any] | None:
        """Find a user by address."""
        found = self._query("SELECT id, email, name, role, status FROM users WHERE email = ?", [email])
        return found[0] if found else None

    def file(self, file_id: int) -> dict[str, Any] | None:
        """Find a file by number."""
        found = self._query("SELECT * FROM files WHERE id = ?", [file_id])
        return found[0] if found else None

    def files(self, limit: int, offset: int) -> tuple[list[dict[str, Any]], int]:
        """Return one page of the files that are not deleted, newest first, and how many there are."""
        where = "WHERE is_deleted = 0 AND is_directory = 0"
        total = self._query(f"SELECT count(*) AS n FROM files {where}", [])[0]["n"]  # noqa: S608
        page = f"SELECT * FROM files {where} ORDER BY id DESC LIMIT ? OFFSET ?"  # noqa: S608
        return self._query(page, [limit, offset]), total

    def keep(self, upload: Upload) -> tuple[dict[str, Any], str]:
        """Take a received file over; says whether it is ``new``, a ``duplicate`` or ``skipped``.

        A known content gets a second row that points to the same bytes, unless the very place in the
        folder tree has it already.
        """
        virtual = "/" + "/".join(part for part in [*upload.folder.split("/"), upload.name] if part)
        with self._lock:
            known = self._db.execute(
                "SELECT * FROM files WHERE sha256_hash = ? AND is_deleted = 0 ORDER BY id", [upload.sha256]
            ).fetchall()
            for row in known:
                if row["virtual_path"] == virtual:
                    upload.received.unlink()
                    return dict(row), "skipped"
            if known:
                path, outcome = known[0]["file_path"], "duplicate"
            else:
                folder = self.uploads / "files" / upload.sha256[:2]
                folder.mkdir(parents=True, exist_ok=True)
                path, outcome = str(folder / str(uuid.uuid4())), "new"
                upload.received.rename(path)
            try:
                with self._db:
                    row_id = self._insert_file(upload, virtual, path)
            except sqlite3.Error:
                if not known:
                    Path(path).unlink()
                raise
            finally:
                upload.received.unlink(missing_ok=True)
            row = self._db.execute("SELECT * FROM files WHERE id = ?", [row_id]).fetchone()
            return dict(row), outcome

    def count_download(self, file_id: int) -> None:
        """Count one more download of a file."""
        with self._lock, self._db:
            self._db.execute("UPDATE files SET download_count = download_count + 1 WHERE id = ?", [file_id])

    def save_line_user(self, user: dict[str, Any]) -> bool:
        """Remember somebody who uses the bot; True if that person is new."""
        now = _now()
        with self._lock, self._db:
            changed = self._db.execute(
                "UPDATE line_users SET display_name = ?, picture_url = ?, last_interaction_at = ?,"
                " updated_at = ? WHERE line_user_id = ?",
                [user["displayName"], user.get("pictureUrl") or "", now, now, user["lineUserId"]],
            ).rowcount
            if not changed:
                self._db.execute(
                    "INSERT INTO line_users(line_user_id, display_name, picture_url, first_interaction_at,"
                    " last_interaction_at, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [
                        user["lineUserId"],
                        user["displayName"],
                        user.get("pictureUrl") or "",
                        now,
                        now,
                        now,
                        now,
                    ],
                )
        return not changed

    def _insert_file(self, upload: Upload, virtual: str, path: str) -> int:
        now = _now()
        row = {
            "name": upload.name,
            "original_name": upload.name,
            "file_path": path,
            "virtual_path": virtual,
            "sha256_hash": upload.sha256,
            "file_size": upload.size,
            "mime_type": upload.mime_type,
            "uploaded_by": upload.uploaded_by,
            "is_directory": False,
            "is_deleted": False,
            "description": upload.description,
            "tags": upload.tags,
            "created_at": now,
            "updated_at": now,
        }
        marks = ", ".join(f":{name}" for name in row)
        done = self._db.execute(f"INSERT INTO files({', '.join(row)}) VALUES ({marks})", row)  # noqa: S608
        return int(done.lastrowid or 0)

    def _query(self, sql: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._db.execute(sql, parameters).fetchall()]
