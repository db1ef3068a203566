"""Open the ledger's file: looked at first, then brought up to this version; never one that is not ours."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from runctl.errors import ConfigError, LedgerDamaged
from runctl.ledger import copies, failures, health, inspection, sums, swap
from runctl.ledger.migrations import APPLICATION_ID, MIGRATIONS
from runctl.quoting import quoted

LOOKED_THROUGH_BYTES = 4 << 20
"""A ledger up to this size is looked through whenever it is opened (2 ms/MiB), a larger one once a day."""


def prepared(path: Path, today: date) -> sqlite3.Connection:
    """A connection to a ledger that is sound as far as was looked, and of this version.

    Raises as `Ledger.open`.
    """
    swap.finish(path)
    is_old = _look_from_outside(path, today)
    log = path.with_name(f"{path.name}-wal")
    if is_old and log.exists() and log.stat().st_size:
        # It may belong to another file: nothing is played in before what it makes of the ledger was seen.
        with _own_failures(path, looking := health.looking_at(path, wait_seconds=failures.BUSY_SECONDS)):
            _look(looking, path, today)
        looking.close()
        is_old = False
    connection = connected(path)
    try:
        with _own_failures(path, connection):
            if is_old:
                _look(connection, path, today)
            connection.execute("PRAGMA foreign_keys = ON")
            if 0 < health.version_of(connection) < len(MIGRATIONS):
                copies.make(connection, path, today, MIGRATIONS)
            migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _own_failures(path: Path, connection: sqlite3.Connection) -> Generator[None]:
    """Whatever else is wrong with the file is no fault of ours either."""
    try:
        with failures.named(path, lambda: damage(connection)):
            yield
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"The ledger {path} cannot be opened", why=str(error), next="runctl ledger check"
        ) from error


def connected(path: Path) -> sqlite3.Connection:
    """A connection to whatever the file is."""
    with failures.named(path, str):
        connection = sqlite3.connect(path, timeout=failures.BUSY_SECONDS, isolation_level=None)
    connection.row_factory = sums.checked_row
    sums.register(connection)
    return connection


def damage(connection: sqlite3.Connection) -> str:
    """The first thing that is wrong with the structure of an open ledger; nothing for a sound one."""
    with health.at_one_moment(connection):
        return _first(health.structure(connection, MIGRATIONS))


def _look_from_outside(path: Path, today: date) -> bool:
    """Whether there is something in the file. Raises ConfigError and LedgerDamaged."""
    if path.is_dir():
        raise inspection.folder(path)
    try:
        size = path.stat().st_size
    except OSError as error:  # there is none yet, or SQLite will tell
        if path.is_symlink():
            raise inspection.leads_nowhere(path, error) from error
        return False
    # SQLite takes an empty file for a new database; a power failure leaves one where a ledger was.
    if size == 0 and (known := copies.of(path, today)):
        raise LedgerDamaged(f"it is empty, and there is a copy of {known[0].day}", path=path)
    return size > 0


def _look(connection: sqlite3.Connection, path: Path, today: date) -> None:
    """Raises ConfigError for a database that is not ours, or is of a newer version; LedgerDamaged."""
    with health.at_one_moment(connection):
        version = health.version_of(connection)
        if version > len(MIGRATIONS):
            raise inspection.newer(
                path, version, seems_ours=not any(health.structure(connection, MIGRATIONS))
            )
        if version == 0:
            _refuse_foreign(connection, path)
            return
        is_due = copies.is_due(path, today) or version < len(MIGRATIONS)
        if is_due or path.stat().st_size <= LOOKED_THROUGH_BYTES:
            _refuse(path, health.structure(connection, MIGRATIONS))
        if is_due:
            _refuse(path, health.rows(connection, MIGRATIONS))


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Of a database without a version: a new one passes."""
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if application == APPLICATION_ID:
        raise LedgerDamaged("its version is missing", path=path)
    if _is_ours_without_its_log(path):
        raise LedgerDamaged("the log beside it (-wal) belongs to another database", path=path)
    if application or connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0]:
        raise ConfigError(
            f"The file {path} is not a ledger of runctl",
            why="it is a database of another program",
            next=f"mv {quoted(path)} {quoted(path)}-other",
        )


def _is_ours_without_its_log(path: Path) -> bool:
    """By the file's own header: https://www.sqlite.org/fileformat2.html#the_database_header."""
    with path.open("rb") as stream:
        header = stream.read(72)
    return int.from_bytes(header[68:72], "big") == APPLICATION_ID


def _refuse(path: Path, findings: Iterable[str]) -> None:
    if found := _first(findings):
        raise LedgerDamaged(found, path=path)


def _first(findings: Iterable[str]) -> str:
    return next(iter(findings), "")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a sound ledger, or a new file, up to this version: all of it or nothing."""
    if health.version_of(connection) == len(MIGRATIONS):
        return
    _use_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated while this one waited for its turn.
        for number in range(health.version_of(connection), len(MIGRATIONS)):
            for statement in _statements(MIGRATIONS[number]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        sums.renew(connection)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _use_wal(connection: sqlite3.Connection) -> None:
    """SQLite refuses this at once while another process does the same: its busy timeout does not count."""
    deadline = time.monotonic() + failures.BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not failures.is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


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
