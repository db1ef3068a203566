"""What two interruptions cost with each framework, as one table."""

from __future__ import annotations

from collections.abc import Sequence

PROPERTY = "frameworks under interruptions"
HEAD = ("framework", "version", "save every", "on SIGTERM", "cut at", "resumed at", "lost", "final equal")


def table(rows: Sequence[Sequence[object]]) -> list[str]:
    """The rows below their head, in columns."""
    cells = [HEAD, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
