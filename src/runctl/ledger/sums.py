"""A sum over the content of each row: a bit that flipped in a value is noticed when the row is read.

SQLite looks after its own structure, never after values. Triggers of the writing connection keep the sums, so
no query can forget them; a row that another program wrote has none, one that it altered has a wrong one.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence

import msgspec

from runctl.errors import LedgerDamaged

COLUMN = "sum"
_UNSUMMED = frozenset({COLUMN, "seen"})  # `seen` is renewed by each look at the cloud, for thousands of rows
_encode = msgspec.msgpack.Encoder().encode


def of(names: Sequence[str], values: Sequence[object]) -> int:
    """CRC-32 of names and values. A column that is empty does not count, so that one can be added later."""
    content = [
        part
        for name, value in zip(names, values, strict=True)
        if value is not None and name not in _UNSUMMED
        for part in (name, value)
    ]
    return zlib.crc32(_encode(content))


def checked_row(cursor: sqlite3.Cursor, values: tuple[object, ...]) -> sqlite3.Row:
    """The row factory of every connection. Raises LedgerDamaged for a row that is not what was written."""
    names = [column[0] for column in cursor.description]
    if COLUMN in names and is_wrong(names, values):
        raise LedgerDamaged(f"the row of {values[0]!r} is not what runctl wrote")
    return sqlite3.Row(cursor, values)


def is_wrong(names: Sequence[str], values: Sequence[object]) -> bool:
    """Whether a row differs from its sum; one that has none is taken as it is."""
    found = values[names.index(COLUMN)]
    return found is not None and found != of(names, values)


def register(connection: sqlite3.Connection) -> None:
    """The function that the triggers and `renew` call."""
    connection.create_function("row_sum", -1, _row_sum, deterministic=True)


def keep(connection: sqlite3.Connection) -> None:
    """From now on each row that this connection writes gets its sum; again after a change of the schema."""
    for table, columns, key in _tables(connection):
        same = " AND ".join(f'"{name}" = NEW."{name}"' for name in key)
        content = ", ".join(f'"{name}"' for name in columns)
        for event in ("INSERT", f"UPDATE OF {content}"):
            name = f"sum_of_{table}_{event[:6].lower()}"
            connection.execute(f"DROP TRIGGER IF EXISTS temp.{name}")
            connection.execute(
                f"CREATE TEMP TRIGGER {name} AFTER {event} ON main.{table}"  # noqa: S608 (the schema's names)
                f" BEGIN UPDATE {table} SET {COLUMN} = {_call(columns, 'NEW.')} WHERE {same}; END"
            )


def renew(connection: sqlite3.Connection) -> None:
    """The sums of all rows anew, after a migration. The rows must have been checked before."""
    for table, columns, _ in _tables(connection):
        connection.execute(f"UPDATE {table} SET {COLUMN} = {_call(columns)}")  # noqa: S608 (the schema's names)


def _row_sum(names: str, *values: object) -> int:
    return of(names.split(","), values)


def _call(columns: Sequence[str], prefix: str = "") -> str:
    values = ", ".join(f'{prefix}"{name}"' for name in columns)
    return f"row_sum('{','.join(columns)}', {values})"


def _tables(connection: sqlite3.Connection) -> list[tuple[str, list[str], list[str]]]:
    """Of each table that has sums: its name, the columns that count, and what tells its rows apart."""
    found: list[tuple[str, list[str], list[str]]] = []
    for _, table, kind, _, without_rowid, _ in connection.execute("PRAGMA main.table_list").fetchall():
        columns = connection.execute(f"PRAGMA main.table_info({table})").fetchall()
        names = [column["name"] for column in columns]
        if kind == "table" and COLUMN in names:
            key = [column["name"] for column in columns if column["pk"]] if without_rowid else ["rowid"]
            found.append((table, [name for name in names if name not in _UNSUMMED], key))
    return found
