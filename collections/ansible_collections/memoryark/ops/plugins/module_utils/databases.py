# Copyright: memoryark-ops contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies of SQLite databases around a release, so that a migration can be taken back.

A release that starts a service with a database anew copies the database first and notes so in the journal
of the trial. When the release fails, and the schema is another one than in the copy, the copy comes back and
the migrated database is kept beside it. This file is also a program: a boot in the middle of a release runs
it before the earlier release starts.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

TRIAL = "/var/lib/memoryark/trial.json"
_SIDE_FILES = ("-journal", "-wal", "-shm")


def schema(path: Path) -> list[tuple[str, ...]]:
    """Return what a database's tables, indexes, views and triggers are, and its ``user_version``."""
    with closing(_open(path)) as database:
        found = database.execute(
            "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master ORDER BY 1, 2"
        )
        version = database.execute("PRAGMA user_version").fetchone()
        return [tuple(row) for row in found] + [("user_version", str(version[0]))]


def copy(path: Path, target: Path) -> None:
    """Write a consistent copy of a database, whoever uses it; an older file at ``target`` is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = target.with_name(f".{target.name}.new")
    fresh.unlink(missing_ok=True)
    with closing(_open(path)) as database:
        database.execute("VACUUM INTO ?", (str(fresh),))
    _sync(fresh)
    fresh.replace(target)
    _sync(target.parent)


def restore(path: Path, saved: Path) -> bool:
    """Bring ``saved`` back if the schema of ``path`` is another; return whether it was.

    The database that was there is kept beside ``saved``. Nobody may have it open.
    """
    if path.exists() and schema(path) == schema(saved):
        return False
    fresh = path.with_name(f".{path.name}.restored")
    shutil.copyfile(saved, fresh)
    if path.exists():
        status = path.stat()
        os.chown(fresh, status.st_uid, status.st_gid)
        fresh.chmod(status.st_mode & 0o7777)
        copy(path, saved.with_name(f"{saved.name}.migrated"))
    _sync(fresh)
    fresh.replace(path)
    # They belong to the database that was replaced.
    for suffix in _SIDE_FILES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _sync(path.parent)
    return True


def begin(trial: Path, path: Path, saved: Path) -> None:
    """Copy a database and note it, unless an interrupted release has done so already."""
    noted = journal(trial)
    if str(path) in noted:
        return
    copy(path, saved)
    noted[str(path)] = str(saved)
    fresh = trial.with_name(f".{trial.name}.new")
    fresh.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_text(json.dumps(noted), encoding="utf-8")
    _sync(fresh)
    fresh.replace(trial)
    _sync(trial.parent)


def take_back(trial: Path) -> list[str]:
    """Bring every noted database back that needs it and forget the trial; return the paths of those."""
    restored = [path for path, saved in journal(trial).items() if restore(Path(path), Path(saved))]
    end(trial)
    return restored


def end(trial: Path) -> None:
    """Forget the trial: what its release made of the databases stands."""
    trial.unlink(missing_ok=True)


def journal(trial: Path) -> dict[str, str]:
    """Return the copies that a trial has noted, by the path of the database."""
    try:
        noted: dict[str, str] = json.loads(trial.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return noted


def _open(path: Path) -> sqlite3.Connection:
    # Not read-only: a journal that a crash left must be rolled back first.
    return sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=30, isolation_level=None)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def main() -> None:
    """Take an interrupted release's migrations back; for the boot."""
    for path in take_back(Path(TRIAL)):
        sys.stdout.write(f"{path} is as it was before the release that did not come to its end\n")


if __name__ == "__main__":
    main()
