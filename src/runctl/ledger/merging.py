"""Add to one ledger what another one holds: rows are told apart by what they are, never by where they lay."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runctl.errors import LedgerDamaged
from runctl.ledger import sums
from runctl.ledger.readers import READERS
from runctl.ledger.salvage import Row, Table

KEYS: Mapping[str, tuple[str, ...]] = {
    # In an order in which a row finds its owner there.
    "jobs": ("id",),
    "resources": ("id",),
    "transactions": ("id",),
    "attempts": ("job", "number"),
    "steps": ("tx", "number"),
    "price_points": ("pool", "at"),
    "intervals": ("resource", "state", "start"),
    "job_events": ("job", "at", "attempt", "state", "cause", "cost"),
    "verdicts": ("at", "action", "resource", "allowed", "forced", "findings", "user"),
    "staged": ("resource", "cloud", "region", "location", "version", "files", "bytes", "at"),
}
"""What makes a row of each table the same row. Supervisors are left out: theirs are leases of a minute."""
_COUNTED = frozenset({("jobs", "number"), ("intervals", "number"), ("verdicts", "id"), ("staged", "number")})
"""Columns that only count: where the number is taken, the next free one does."""
_OUTCOMES = (None, "done", "failed", "undoing", "undone")
_PROGRESS: Mapping[str, Callable[[Any], tuple[Any, ...]]] = {
    "jobs": lambda row: (row["updated"],),
    "resources": lambda row: (row["ended"] is not None, row["seen"] or 0),
    "transactions": lambda row: (row["outcome"] is not None,),
    "attempts": lambda row: (
        row["ended"] is not None,
        row["last_step"] or 0,
        sum(row[name] is not None for name in row.keys()),  # noqa: SIM118 (a Row is no dict)
    ),
    "steps": lambda row: (_OUTCOMES.index(row["outcome"]),),
    "intervals": lambda row: (row["end"] is not None,),
}
"""How far a row had come. A row of the other tables is never altered."""
DAMAGED = "damaged"
"""The outcome of an operation of which too little is left to finish or undo it."""


def add(connection: sqlite3.Connection, found: Mapping[str, Table], *, newer: bool) -> dict[str, int]:
    """How many rows of each table were added or brought up to date.

    `newer`: proven rows of `found` are later states of those that are there; else what is there stays.
    """
    counts: dict[str, int] = {}
    steps = found.get("steps", Table())
    for table in KEYS:
        rows = found.get(table, Table())
        count = 0
        for row, proven in (*((row, True) for row in rows.proven), *((row, False) for row in rows.unproven)):
            if table == "transactions" and row.get("outcome") is None and not steps.is_complete:
                if _existing(connection, table, row) is None:
                    count += _insert(connection, table, {**row, "outcome": DAMAGED})
                continue
            count += _add(connection, table, row, replace=newer and proven)
        counts[table] = count
    return counts


def _add(connection: sqlite3.Connection, table: str, row: Row, *, replace: bool) -> int:
    there = _existing(connection, table, row)
    if there is None:
        return _insert(connection, table, row)
    if not replace:
        return 0
    columns = set(there.keys())
    changed = {
        name: value
        for name, value in row.items()
        if name in columns and name != sums.COLUMN and (table, name) not in _COUNTED and there[name] != value
    }
    if not changed or not _is_later(table, row, there):
        return 0
    wanted = ", ".join(f'"{name}" = ?' for name in changed)
    same, key = _same(table, row)
    connection.execute(f"UPDATE {table} SET {wanted} WHERE {same}", (*changed.values(), *key))  # noqa: S608
    return 1


def _is_later(table: str, row: Row, there: sqlite3.Row) -> bool:
    """A damaged file may hold an older state, too: its pages, or a log that was left behind."""

    def progress(state: Row | sqlite3.Row) -> tuple[Any, ...]:
        return _PROGRESS[table](state)

    return table in _PROGRESS and progress(row) >= progress(there)


def _existing(connection: sqlite3.Connection, table: str, row: Row) -> sqlite3.Row | None:
    same, key = _same(table, row)
    found: sqlite3.Row | None = connection.execute(f"SELECT * FROM {table} WHERE {same}", key).fetchone()  # noqa: S608
    return found


def _same(table: str, row: Row) -> tuple[str, Sequence[object]]:
    names = KEYS[table]
    return " AND ".join(f'"{name}" IS ?' for name in names), [row.get(name) for name in names]


def _insert(connection: sqlite3.Connection, table: str, row: Row) -> int:
    """0 where its owner is missing, where a type forbids it, or where it could not be understood."""
    there = {column["name"] for column in connection.execute(f"PRAGMA table_info({table})")}
    values = {name: value for name, value in row.items() if name in there and name != sums.COLUMN}
    for reference in connection.execute(f"PRAGMA foreign_key_list({table})").fetchall():
        owner = f'SELECT 1 FROM {reference["table"]} WHERE "{reference["to"]}" = ?'  # noqa: S608
        if not connection.execute(owner, (values.get(reference["from"]),)).fetchone():
            return 0
    for name in [name for counted, name in _COUNTED if counted == table]:
        taken = f'SELECT 1 FROM {table} WHERE "{name}" = ?'  # noqa: S608
        # A row of an earlier version may not have its number yet.
        if name not in values or connection.execute(taken, (values[name],)).fetchone():
            free = f'SELECT COALESCE(MAX("{name}"), 0) + 1 FROM {table}'  # noqa: S608
            values[name] = connection.execute(free).fetchone()[0]
    if table == "intervals":
        _end_open(connection, values)
    columns = ", ".join(f'"{name}"' for name in values)
    marks = ", ".join("?" * len(values))
    connection.execute("SAVEPOINT row")
    try:
        connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(values.values()))  # noqa: S608
        if (written := _existing(connection, table, values)) is not None:
            READERS[table](written)
    except (sqlite3.IntegrityError, LedgerDamaged):
        connection.execute("ROLLBACK TO row")
        return 0
    finally:
        connection.execute("RELEASE row")
    return 1


def _end_open(connection: sqlite3.Connection, interval: Row) -> None:
    """A resource is in one state at a time: one that was entered later ends the one that is open."""
    connection.execute(
        'UPDATE intervals SET "end" = ? WHERE resource = ? AND "end" IS NULL AND start <= ?',
        (interval["start"], interval["resource"], interval["start"]),
    )
