"""Schema versions of a later application, for the laboratory alone.

As in the real application a migration runs when the program starts, goes forward only, and is no
transaction: each statement is committed by itself, and one that fails leaves what those before it did. The
version is in the database, as its ``user_version``; a database without one has the first schema.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

FIRST = 1
# The statements that lead to a version from the one before it. They change tables and rows alike.
MIGRATIONS: Mapping[int, Sequence[str]] = {
    2: (
        "ALTER TABLE files ADD COLUMN taken_at datetime",
        "UPDATE files SET taken_at = created_at, description = 'migrated'",
    ),
    # Its last statement fails, each time.
    3: (
        "CREATE TABLE IF NOT EXISTS albums (id integer PRIMARY KEY, name text NOT NULL)",
        "UPDATE files SET tags = 'album'",
        "INSERT INTO album_names SELECT name FROM albums",
    ),
}


class MigrationError(Exception):
    """The database cannot be brought to the program's schema."""


def present(database: sqlite3.Connection) -> int:
    """Return the version of a database's schema."""
    return int(database.execute("PRAGMA user_version").fetchone()[0]) or FIRST


def refuse_newer(database: sqlite3.Connection, version: int) -> None:
    """Raise MigrationError if a later program than that of ``version`` has migrated the database."""
    if (found := present(database)) > version:
        raise MigrationError(f"the database has schema version {found}, this program knows {version}")


def migrate(database: sqlite3.Connection, version: int) -> None:
    """Bring the schema of a database to ``version``; raises MigrationError where that ends half way."""
    for step in range(present(database) + 1, version + 1):
        try:
            for statement in MIGRATIONS[step]:
                with database:
                    database.execute(statement)
        except sqlite3.Error as error:
            raise MigrationError(f"the migration to schema version {step} failed: {error}") from error
        database.execute(f"PRAGMA user_version = {step}")
