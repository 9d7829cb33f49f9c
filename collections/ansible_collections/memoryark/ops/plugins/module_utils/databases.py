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
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

TRIAL = "/var/lib/memoryark/trial.json"
# What a boot has brought back, for the next run to tell: a line for each database.
RECOVERED = "/var/lib/memoryark/recovered"
# Where this file is on a host, and the unit that runs it at boot.
PROGRAM = "/usr/lib/memoryark/databases.py"
UNIT = "memoryark-recovery.service"
CURRENT = "/etc/memoryark/current"
_SIDE_FILES = ("-journal", "-wal", "-shm")


@dataclass(frozen=True)
class Trial:
    """The release that is being tried, and the databases that it has copied: paths of copies by path."""

    release: int
    copies: dict[str, str]


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
    try:
        with closing(_open(path)) as database:
            database.execute("VACUUM INTO ?", (str(fresh),))
        _sync(fresh)
        fresh.replace(target)
    except (OSError, sqlite3.Error):
        # Half a copy would only take the room that is missing.
        fresh.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def restore(path: Path, saved: Path) -> str:
    """Bring ``saved`` back if the schema of ``path`` is another; return what was done, nothing if it was not.

    The database that was there is kept beside it as ``….migrated-TIME``. Nobody may have it open.
    """
    if path.exists() and not differs(path, saved):
        return ""
    fresh = path.with_name(f".{path.name}.restored")
    shutil.copyfile(saved, fresh)
    if path.exists():
        status = path.stat()
        os.chown(fresh, status.st_uid, status.st_gid)
        fresh.chmod(status.st_mode & 0o7777)
    _sync(fresh)
    done = f"{path} is again as it was before the release"
    if path.exists():
        kept = path.with_name(f"{path.name}.migrated-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
        path.replace(kept)
        done += f"; what that had made of it is {kept}"
    fresh.replace(path)
    # They belong to the database that was replaced.
    for suffix in _SIDE_FILES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _sync(path.parent)
    return done


def differs(path: Path, saved: Path) -> bool:
    """Whether a database has another schema than its copy; one that cannot be read has."""
    try:
        return schema(path) != schema(saved)
    except sqlite3.DatabaseError:
        return True


def begin(trial: Path, release: int, copies: Mapping[str, str]) -> None:
    """Copy databases, paths to paths of their copies, and note it for ``release``.

    What an interrupted release has copied already is not copied again: the first copy is the one from
    before any migration.
    """
    noted = journal(trial)
    for path, saved in copies.items():
        if path not in noted.copies:
            copy(Path(path), Path(saved))
    _write(trial, Trial(release, {**copies, **noted.copies}))


def hand_over(trial: Path, release: int) -> None:
    """Note that ``release`` is the one on trial: it goes on with what an interrupted one has begun."""
    noted = journal(trial)
    if noted.copies and noted.release != release:
        _write(trial, Trial(release, noted.copies))


def before_migrations(folders: Sequence[Path], live: Path) -> list[Path]:
    """Return those of ``folders`` with copies, oldest first, after which a database got another schema.

    Databases have the same paths in a folder as below ``live``.
    """
    found: list[Path] = []
    later: dict[Path, Path] = {}
    for folder in reversed(folders):
        # Those with a dot are halves that an interruption has left.
        files = (path for path in folder.rglob("[!.]*") if path.is_file())
        copies = {path.relative_to(folder): path for path in files}
        if any(differs(later.get(name, live / name), path) for name, path in copies.items()):
            found.insert(0, folder)
        later |= copies
    return found


def take_back(trial: Path) -> list[str]:
    """Bring every noted database back that needs it and forget the trial; return what was done to each."""
    done = [restore(Path(path), Path(saved)) for path, saved in journal(trial).copies.items()]
    end(trial)
    return [line for line in done if line]


def end(trial: Path) -> None:
    """Forget the trial: what its release made of the databases stands."""
    trial.unlink(missing_ok=True)


def journal(trial: Path) -> Trial:
    """Return what the trial has noted; nothing without one."""
    try:
        return Trial(**json.loads(trial.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Trial(0, {})


def _write(trial: Path, noted: Trial) -> None:
    trial.parent.mkdir(parents=True, exist_ok=True)
    fresh = trial.with_name(f".{trial.name}.new")
    fresh.write_text(json.dumps(asdict(noted)), encoding="utf-8")
    _sync(fresh)
    fresh.replace(trial)
    _sync(trial.parent)


def _open(path: Path) -> sqlite3.Connection:
    # Not read-only: a journal that a crash left must be rolled back first.
    return sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=30, isolation_level=None)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def settle(trial: Path, current: int | None) -> None:
    """Forget a trial whose release is the present one: it was committed, only its last step is missing."""
    if current is not None and current == journal(trial).release:
        end(trial)


def recover(trial: Path, current: Path) -> list[str]:
    """Bring back what a release migrated that did not come to its end; return what was done."""
    settle(trial, int(current.readlink().name) if current.is_symlink() else None)
    return take_back(trial)


def at_boot(trial: Path, current: Path, recovered: Path) -> list[str]:
    """As ``recover``; note in the file ``recovered`` what was done, for the next run."""
    done = recover(trial, current)
    for line in done:
        with recovered.open("a", encoding="utf-8") as note:
            note.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}, at a boot: {line}\n")
        _sync(recovered)
    return done


def main() -> None:
    """Run at boot, before the earlier release starts."""
    for line in at_boot(Path(TRIAL), Path(CURRENT), Path(RECOVERED)):
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
