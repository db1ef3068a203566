"""The ledger's file: opened, migrated and shared safely by many processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from runctl.errors import ConfigError
from runctl.ledger.jobs import Jobs
from runctl.ledger.journal import Journal
from runctl.ledger.migrations import MIGRATIONS
from runctl.ledger.prices import Prices
from runctl.ledger.resources import Resources

FILE_NAME = "ledger.sqlite3"
_BUSY_SECONDS = 30.0


class Database:
    """One connection. Every write is an immediate transaction, so that writers queue and never clash."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._depth = 0

    @contextmanager
    def write(self) -> Generator[sqlite3.Connection]:
        """A transaction; one inside another joins it."""
        if self._depth:
            yield self._connection
            return
        self._connection.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        else:
            self._connection.execute("COMMIT")
        finally:
            self._depth -= 1

    def read(self, query: str, parameters: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        return self._connection.execute(query, parameters).fetchall()


class Ledger:
    """Open with `Ledger.open`; a context manager. One object is for one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        database = Database(connection)
        self.jobs = Jobs(database)
        self.resources = Resources(database)
        self.prices = Prices(database)
        self.journal = Journal(database)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open or create the ledger in `folder`. Raises ConfigError for a file that is none of ours."""
        path = folder / FILE_NAME
        folder.mkdir(parents=True, exist_ok=True)
        try:
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA foreign_keys = ON")
            _migrate(connection, path)
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"The ledger {path} cannot be opened",
                why=str(error),
                next="move the file away; resources are found again by their tags",
            ) from error
        return cls(connection)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection)
    if version == len(MIGRATIONS):
        return
    if version > len(MIGRATIONS):
        raise ConfigError(
            f"The ledger {path} was written by a newer runctl",
            why=f"it has version {version}, this runctl knows {len(MIGRATIONS)}",
            next="upgrade runctl",
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated while this one waited for its turn.
        for number in range(_version(connection), len(MIGRATIONS)):
            for statement in _statements(MIGRATIONS[number]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> list[str]:
    """Split a script at complete statements: `executescript` would commit our transaction."""
    statements: list[str] = []
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements
