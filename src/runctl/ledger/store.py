"""The ledger's file: opened, migrated and shared safely by many processes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from runctl.errors import ConfigError, Conflict
from runctl.ledger.jobs import Jobs
from runctl.ledger.journal import Journal
from runctl.ledger.migrations import MIGRATIONS
from runctl.ledger.prices import Prices
from runctl.ledger.resources import Resources
from runctl.ledger.staged import Staged
from runctl.ledger.verdicts import Verdicts

FILE_NAME = "ledger.sqlite3"
_BUSY_SECONDS = 30.0
_PRIMARY_CODE = 0xFF  # the rest of an extended error code says where it happened


class Database:
    """One connection. Every write is an immediate transaction, so that writers queue and never clash."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._depth = 0

    @contextmanager
    def write(self, *, durable: bool = False) -> Generator[sqlite3.Connection]:
        """A transaction; one inside another joins it. Raises Conflict where others write for too long.

        A killed process loses nothing that was committed. A power failure may lose the last commits, but
        none up to a `durable` one: that one waits for the disk.
        """
        if self._depth:
            yield self._connection
            return
        with _named_failures():
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself where the disk is full or broken.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    def read(self, query: str, parameters: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        with _named_failures():
            return self._connection.execute(query, parameters).fetchall()


@contextmanager
def _named_failures() -> Generator[None]:
    """What a disk or other processes do to the ledger; a broken constraint is a fault of ours and stays."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if _is_busy(error):
            raise Conflict(
                "The ledger is busy",
                why=f"another process has been writing for {_BUSY_SECONDS:.0f} s",
                next="try again; `fuser` names who has the file open",
            ) from error
        raise ConfigError(
            "The ledger cannot be read or written", why=str(error), next="check the disk and its permissions"
        ) from error


class Ledger:
    """Open with `Ledger.open`; a context manager. One object is for one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        database = Database(connection)
        self.jobs = Jobs(database)
        self.resources = Resources(database)
        self.prices = Prices(database)
        self.journal = Journal(database)
        self.verdicts = Verdicts(database)
        self.staged = Staged(database)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open or create the ledger in `folder`.

        Raises ConfigError for a file that is none of ours and for a folder that cannot be written,
        Conflict where another process keeps it busy.
        """
        path = folder / FILE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"The ledger's folder {folder} cannot be made",
                why=str(error),
                next="set RUNCTL_HOME to a folder that can be written",
            ) from error
        with _named_failures():
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.row_factory = sqlite3.Row
    try:
        with _named_failures():
            connection.execute("PRAGMA foreign_keys = ON")
            _migrate(connection, path)
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"The ledger {path} cannot be opened",
            why=str(error),
            next="move the file away; resources are found again by their tags",
        ) from error


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
    _use_wal(connection)
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


def _use_wal(connection: sqlite3.Connection) -> None:
    """SQLite refuses this at once while another process does the same: its busy timeout does not count."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & _PRIMARY_CODE in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _statements(script: str) -> list[str]:
    """Split a script where a line ends a statement: `executescript` would commit our transaction."""
    statements: list[str] = []
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return [*statements, pending] if pending.strip() else statements
