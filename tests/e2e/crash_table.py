"""The crash matrix as a table: operations, points, outcomes; and how many points a whole one has at least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PROPERTY = "crash matrix"
LEAST_POINTS = 60
"""Of a whole matrix, over all operations."""

COLUMNS = ("never begun", "finished", "rolled-back", "ended", "ended before")
"""Outcomes. A process that ended before its call came was not killed: that is no point."""

Row = Mapping[str, Any]


def row(operation: str, outcomes: Mapping[str, int], *, of: int) -> dict[str, Any]:
    """What a test records of one operation; `of` is how many operations a whole matrix has."""
    unknown = outcomes.keys() - set(COLUMNS)
    if unknown:
        raise ValueError(f"{unknown} is no outcome of the matrix")
    return {"operation": operation, "of": of, **outcomes}


def points(row: Row) -> int:
    return sum(row.get(column, 0) for column in COLUMNS[:-1])


def is_whole(rows: Sequence[Row]) -> bool:
    return bool(rows) and len({row["operation"] for row in rows}) >= rows[0]["of"]


def is_too_small(rows: Sequence[Row]) -> bool:
    """Whether every operation was told, and in fewer points than there must be."""
    return is_whole(rows) and sum(map(points, rows)) < LEAST_POINTS


def lines(rows: Sequence[Row]) -> list[str]:
    total = sum(map(points, rows))
    heads = "".join(f"{column:>14}" for column in COLUMNS)
    found = [f"{'operation':<26}{'points':>8}{heads}"]
    for told in sorted(rows, key=lambda told: told["operation"]):
        cells = "".join(f"{told.get(column, 0):>14}" for column in COLUMNS)
        found.append(f"{told['operation']:<26}{points(told):>8}{cells}")
    enough = "TOO FEW" if is_too_small(rows) else "enough" if is_whole(rows) else "not every operation ran"
    found.append(f"{'in all':<26}{total:>8}, of {LEAST_POINTS} at least: {enough}")
    return found
