"""Whether a ledger's file is what runctl wrote: its structure, its tables, the sum of each row."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from runctl.errors import LedgerDamaged
from runctl.ledger import failures, sums
from runctl.ledger.readers import READERS

_FEW = 5  # findings of a kind: the first say it all


def looking_at(path: Path, how: str = "mode=ro", *, wait_seconds: float = 5.0) -> sqlite3.Connection:
    """A connection that leaves the file as it is: another one plays the log into it when it is closed."""
    uri = f"{path.absolute().as_uri()}?{how}"
    connection = sqlite3.connect(uri, uri=True, timeout=wait_seconds, isolation_level=None)
    connection.row_factory = sums.checked_row
    return connection


def version_of(connection: sqlite3.Connection) -> int:
    """How many migrations a ledger has had; 0 for a new file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def at_one_moment(connection: sqlite3.Connection) -> Generator[None]:
    """Everything that is read in the block is of one state, whatever others write meanwhile."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def structure(connection: sqlite3.Connection, migrations: Sequence[str]) -> Iterator[str]:
    """What is wrong with pages, indexes, types and tables, by the migrations up to the ledger's version.

    About 2 ms for each MiB, and 2 ms for the tables.
    """
    try:
        for (text,) in _plain(connection, f"PRAGMA integrity_check({_FEW})"):
            lines = str(text).splitlines()
            yield from (line for line in lines if line != "ok" and not line.startswith("***"))
        yield from _differences(_schema(connection), _expected(tuple(migrations[: version_of(connection)])))
    except failures.UNREADABLE as error:
        yield str(error)


def rows(connection: sqlite3.Connection, migrations: Sequence[str]) -> Iterator[str]:
    """Rows that are not what was written, and those whose owner is missing; reads everything.

    The columns of an earlier version are not those that are understood here.
    """
    try:
        readers = READERS if version_of(connection) == len(migrations) else {}
        for (table,) in _plain(connection, "SELECT name FROM sqlite_schema WHERE type = 'table'"):
            try:
                understand = readers.get(str(table), lambda row: row)
                for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 (the schema's names)
                    understand(row)
            except LedgerDamaged as error:
                yield f"{table}: {error.why}"
        for table, _, parent, _ in _plain(connection, "PRAGMA foreign_key_check")[:_FEW]:
            yield f"{table}: a row has no owner in {parent}"
    except failures.UNREADABLE as error:
        yield str(error)


def _plain(connection: sqlite3.Connection, query: str) -> list[tuple[object, ...]]:
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute(query).fetchall()


def _schema(connection: sqlite3.Connection) -> dict[str, str]:
    """What makes each table, index and trigger, by its kind and name."""
    found = _plain(connection, "SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    return {str(name): str(sql) for name, sql in found}


def _differences(found: dict[str, str], expected: dict[str, str]) -> Iterator[str]:
    for name, sql in expected.items():
        if name not in found:
            yield f"the {name} is missing"
        elif found[name] != sql:
            yield f"the {name} is not what runctl made"


@cache
def _expected(migrations: tuple[str, ...]) -> dict[str, str]:
    connection = sqlite3.connect(":memory:")
    try:
        for migration in migrations:
            connection.executescript(migration)
        return _schema(connection)
    finally:
        connection.close()
