"""The ledger: its tables as one object, which many processes share safely."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from runctl import private_files
from runctl.clock import Clock, SystemClock
from runctl.errors import ConfigError, LedgerDamaged
from runctl.ledger import copies, failures, opening, sums
from runctl.ledger.jobs import Jobs
from runctl.ledger.journal import Journal
from runctl.ledger.migrations import MIGRATIONS
from runctl.ledger.prices import Prices
from runctl.ledger.resources import Resources
from runctl.ledger.staged import Staged
from runctl.ledger.verdicts import Verdicts

FILE_NAME = "ledger.sqlite3"
_COPY_LOOK_SECONDS = 600.0
"""How often a ledger that stays open for days looks whether its daily copy is due."""


class Database:
    """One connection. Every write is an immediate transaction, so that writers queue and never clash."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, *, committed: Callable[[], None] = lambda: None
    ) -> None:
        self._connection = connection
        self._path = path
        self._committed = committed
        self._depth = 0
        self._summed_schema = -1

    @contextmanager
    def write(self, *, durable: bool = False) -> Generator[sqlite3.Connection]:
        """A transaction; one inside another joins it. Raises Conflict where others write for too long.

        A killed process loses nothing that was committed. A power failure may lose the last commits, but
        none up to a `durable` one: that one waits for the disk.
        """
        if self._depth:
            yield self._connection
            return
        with self._named_failures():
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                self._keep_sums()
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself where the disk is full or broken.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1
        self._committed()

    def read(self, query: str, parameters: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        with self._named_failures():
            return self._connection.execute(query, parameters).fetchall()

    def _keep_sums(self) -> None:
        """Once, and again where a newer runctl added a column meanwhile."""
        version = int(self._connection.execute("PRAGMA schema_version").fetchone()[0])
        if version != self._summed_schema:
            sums.keep(self._connection)
            self._summed_schema = version

    def _named_failures(self) -> AbstractContextManager[None]:
        return failures.named(self._path, lambda: opening.damage(self._connection))


class Ledger:
    """Open with `Ledger.open`; a context manager. One object is for one thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Clock) -> None:
        self._connection = connection
        self._path = path
        self._clock = clock
        self._next_look = time.monotonic() + _COPY_LOOK_SECONDS
        database = Database(connection, path, committed=self._copy_now_and_then)
        self.jobs = Jobs(database)
        self.resources = Resources(database)
        self.prices = Prices(database)
        self.journal = Journal(database)
        self.verdicts = Verdicts(database)
        self.staged = Staged(database)

    @staticmethod
    def is_missing(folder: Path) -> bool:
        """Whether there is none any more: its copies are there."""
        path = folder / FILE_NAME
        is_there = path.exists() or path.is_symlink()  # one to a place that is gone is told of by `open`
        return not is_there and bool(copies.of(path, SystemClock().now().date()))

    @classmethod
    def open(cls, folder: Path, *, clock: Clock | None = None) -> Self:
        """Open or create the ledger in `folder`; `clock` tells the days of its copies.

        Raises ConfigError for a file that is none of ours and for a folder that cannot be written,
        LedgerDamaged for a file that is not what runctl wrote, Conflict where another process keeps it busy.
        """
        clock = clock or SystemClock()
        path = folder / FILE_NAME
        try:
            private_files.make_folder(folder)
        except OSError as error:
            raise ConfigError(
                f"The ledger's folder {folder} cannot be made",
                why=str(error),
                next="set RUNCTL_HOME to a folder that can be written",
            ) from error
        for beside in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
            private_files.tighten(beside)
        with private_files.mask():
            connection = opening.prepared(path, clock.now().date())
        return cls(connection, path, clock)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A command that did its work leaves the copy of its day, the first one of the day alone."""
        try:
            if kind is None:
                self._copy_if_due()
        finally:
            self.close()

    def _copy_now_and_then(self) -> None:
        """A command that follows a job for days has its copies, too."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _COPY_LOOK_SECONDS
            self._copy_if_due()

    def _copy_if_due(self) -> None:
        today = self._clock.now().date()
        if copies.is_due(self._path, today) and not self._is_empty():
            # What is damaged will be told by the next command, which looks before it does anything.
            with suppress(LedgerDamaged):
                copies.make(self._connection, self._path, today, MIGRATIONS)

    def _is_empty(self) -> bool:
        query = "SELECT 1 FROM jobs UNION ALL SELECT 1 FROM resources UNION ALL SELECT 1 FROM transactions"
        return not self._connection.execute(f"{query} LIMIT 1").fetchone()
