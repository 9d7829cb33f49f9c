"""A migration can be taken back, and what it made is kept."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from ansible_collections.memoryark.ops.plugins.module_utils import databases


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def rows(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return [str(row[0]) for row in database.execute("SELECT name FROM files ORDER BY name")]


def migrated(path: Path) -> Path:
    """The database that was kept when an earlier one came back."""
    (kept,) = path.parent.glob(f"{path.name}.migrated-*")
    return kept


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "data/ark.db"
    made.parent.mkdir()
    run(made, "CREATE TABLE files (name TEXT)", "INSERT INTO files VALUES ('a')")
    made.chmod(0o640)
    return made


@pytest.fixture
def trial(tmp_path: Path, path: Path) -> Path:
    """The journal of a trial that has copied the database."""
    journal = tmp_path / "state/trial.json"
    databases.begin(journal, 2, {str(path): str(tmp_path / "saved/ark.db")})
    return journal


@pytest.mark.parametrize(
    "migration",
    [
        "ALTER TABLE files ADD COLUMN size INTEGER",
        "CREATE TABLE more (x)",
        "CREATE INDEX by_name ON files (name)",
        "PRAGMA user_version = 7",
    ],
)
def test_a_migrated_database_comes_back_and_the_migrated_one_is_kept(
    path: Path, trial: Path, migration: str
) -> None:
    run(path, migration, "INSERT INTO files (name) VALUES ('b')")
    (done,) = databases.take_back(trial)
    kept = migrated(path)
    assert done == f"{path} is again as it was before the release; what that had made of it is {kept}"
    assert rows(path) == ["a"]
    assert rows(kept) == ["a", "b"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert not trial.exists()


def test_each_migration_that_was_taken_back_is_kept(path: Path, trial: Path) -> None:
    saved = databases.journal(trial).copies
    for number in range(2):
        databases.begin(trial, number, saved)
        run(path, f"CREATE TABLE t{number} (x)")
        databases.take_back(trial)
    assert len(list(path.parent.glob("ark.db.migrated-*"))) == 2


def test_a_database_with_the_same_schema_keeps_what_was_added(path: Path, trial: Path) -> None:
    run(path, "INSERT INTO files VALUES ('b')")
    assert databases.take_back(trial) == []
    assert rows(path) == ["a", "b"]


def test_a_journal_of_the_migrated_database_does_not_spoil_the_old_one(path: Path, trial: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE more (x)")
        database.commit()
        wal = path.with_name("ark.db-wal")
        left = wal.read_bytes()
    wal.write_bytes(left)
    databases.take_back(trial)
    assert rows(path) == ["a"]
    assert not wal.exists()


def test_the_first_copy_is_the_one_that_counts(path: Path, trial: Path) -> None:
    """A second try after an interruption must not copy what the first has migrated already."""
    run(path, "CREATE TABLE more (x)")
    databases.begin(trial, 3, {str(path): str(trial.parents[1] / "other/ark.db")})
    assert databases.journal(trial).release == 3
    databases.take_back(trial)
    assert len(databases.schema(path)) == 2


@pytest.mark.parametrize(("current", "restored"), [("releases/1", True), ("releases/2", False), (None, True)])
def test_a_boot_takes_back_only_what_was_not_committed(
    path: Path, trial: Path, tmp_path: Path, current: str | None, restored: bool
) -> None:
    run(path, "CREATE TABLE more (x)")
    link = tmp_path / "current"
    if current:
        link.symlink_to(current)
    recovered = tmp_path / "recovered"
    assert len(databases.at_boot(trial, link, recovered)) == restored
    assert recovered.exists() is restored
    assert len(databases.schema(path)) == (2 if restored else 3)
    assert not trial.exists()


def test_a_database_that_cannot_be_read_comes_back_and_is_kept(path: Path, trial: Path) -> None:
    path.write_bytes(b"no database" * 100)
    assert len(databases.take_back(trial)) == 1
    assert rows(path) == ["a"]
    assert migrated(path).read_bytes().startswith(b"no database")


def test_half_a_copy_is_not_left(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(databases, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        databases.copy(path, tmp_path / "elsewhere/ark.db")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_lost_database_comes_back(path: Path, trial: Path) -> None:
    path.unlink()
    databases.take_back(trial)
    assert rows(path) == ["a"]


def test_copies_from_before_migrations_are_told_from_others(path: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "saved" / str(number) for number in range(6)]
    for number, folder in enumerate(folders):
        if number in {2, 4}:
            run(path, f"CREATE TABLE t{number} (x)")
        run(path, "INSERT INTO files VALUES ('x')")
        databases.copy(path, folder / "ark.db")
    half = folders[0] / ".ark.db.new"
    half.write_bytes(b"half")
    assert databases.before_migrations(folders, path.parent) == [folders[1], folders[3]]
    run(path, "CREATE TABLE last (x)")
    assert databases.before_migrations(folders, path.parent) == [folders[1], folders[3], folders[5]]


def test_without_a_trial_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert databases.take_back(tmp_path / "none.json") == []
