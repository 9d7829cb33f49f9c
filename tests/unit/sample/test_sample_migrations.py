"""The sample backend migrates its database as the real one does: at its start, forward only, in no transaction."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from memoryark_backend.migrations import MigrationError
from memoryark_backend.store import Store, Upload

BACKEND = Path(__file__).resolve().parents[3] / "lab/sample/backend"


def database(root: Path) -> Path:
    return root / "memoryark.db"


def query(root: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(database(root))) as connection:
        return connection.execute(sql).fetchall()


def dump(root: Path) -> list[str]:
    """Everything that is in the database."""
    with closing(sqlite3.connect(database(root))) as connection:
        return [*connection.iterdump(), str(version(root))]


def version(root: Path) -> int:
    return int(query(root, "PRAGMA user_version")[0][0])


def start(root: Path, schema: int) -> None:
    """What a backend of a schema version does when it starts."""
    store = Store(database(root), root / "uploads")
    try:
        store.migrate("admin@example.org", "Admin", schema)
    finally:
        store.close()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The first version's database, with a photo in it."""
    start(tmp_path, 1)
    upload(tmp_path, "a.jpg")
    return tmp_path


def upload(root: Path, name: str) -> None:
    store = Store(database(root), root / "uploads")
    received = root / "received"
    received.write_bytes(name.encode())
    store.keep(Upload(received, name, "image/jpeg", len(name), name, "", 0))
    store.close()


def test_a_migration_changes_tables_and_rows_once(archive: Path) -> None:
    start(archive, 2)
    assert version(archive) == 2
    found = query(archive, "SELECT name, description, taken_at = created_at FROM files")
    assert found == [("a.jpg", "migrated", 1)]
    # Photos that come later are not migrated again by a second start.
    upload(archive, "b.jpg")
    start(archive, 2)
    assert query(archive, "SELECT description FROM files WHERE name = 'b.jpg'") == [("",)]


def test_a_new_database_gets_the_newest_schema(tmp_path: Path) -> None:
    start(tmp_path, 2)
    assert version(tmp_path) == 2
    upload(tmp_path, "a.jpg")
    assert query(tmp_path, "SELECT name, taken_at FROM files") == [("a.jpg", None)]


def test_an_older_program_refuses_a_newer_schema_and_leaves_it_alone(archive: Path) -> None:
    start(archive, 2)
    before = dump(archive)
    with pytest.raises(MigrationError, match="schema version 2, this program knows 1"):
        start(archive, 1)
    assert dump(archive) == before


def test_a_migration_that_fails_leaves_what_it_did(archive: Path) -> None:
    for _attempt in range(2):
        with pytest.raises(MigrationError, match="to schema version 3 failed"):
            start(archive, 3)
        assert version(archive) == 2
        assert query(archive, "SELECT description, tags FROM files") == [("migrated", "album")]
        assert query(archive, "SELECT count(*) FROM albums") == [(0,)]


@pytest.mark.parametrize(
    ("schema", "said"),
    [("3", "the migration to schema version 3 failed"), ("1", "this program knows 1"), ("", "knows 1")],
)
def test_the_program_ends_with_an_error(archive: Path, schema: str, said: str) -> None:
    start(archive, 2)
    ended = subprocess.run(
        [sys.executable, "-m", "memoryark_backend"],
        cwd=archive,
        env={
            "PYTHONPATH": str(BACKEND),
            "DATABASE_PATH": str(database(archive)),
            "LAB_SCHEMA_VERSION": schema,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert said in (archive / "logs/memoryark.log").read_text()
