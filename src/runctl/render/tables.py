"""Tables as lines, for any width: ids and numbers are never broken, so they can be copied.

A table that does not fit folds its long cells between words. If that is not enough, the last columns of each
row go to lines below it, each value behind its column's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_GAP = 3
_NARROW_GAP = 2
_NEVER_FOLDED = 12
"""Cells of up to so many characters stay whole: `9.4 KiB`, `12 min`."""
_INDENT = "    "
_RULE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"

Row = Sequence[str]


class Laid(NamedTuple):
    """The lines of a table: those of its head, then its rule and rows."""

    head: list[str]
    body: list[str]


def laid_out(columns: Row, rows: Sequence[Row], right: Sequence[str], width: int | None) -> Laid:
    """At most `width` cells of a terminal wide, or as wide as it needs to be without one.

    A single word that is wider than the terminal stays whole: the terminal breaks it, and copies it in one
    piece. `right` names the columns whose cells stand at the right edge.
    """
    natural = _widths(columns, rows)
    if width is None or sum(natural) + _GAP * (len(natural) - 1) <= width:
        return _drawn(columns, rows, right, natural, _GAP)
    columns, rows = _without_empty(columns, rows)
    for count in range(len(columns), 0, -1):
        kept = [row[:count] for row in rows]
        fitted = _fitted(columns[:count], kept, width)
        if fitted is not None or count == 1:
            widths = fitted or _least_widths(columns[:1], kept)
            rest = [_pairs(columns[count:], row[count:], width) for row in rows]
            laid = _drawn(columns[:count], kept, right, widths, _NARROW_GAP, rest)
            return laid._replace(body=[laid.body[0][:width], *laid.body[1:]])
    raise AssertionError("a table has a column")


def cell_width(text: str) -> int:
    """Cells of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _widths(columns: Row, rows: Sequence[Row]) -> list[int]:
    return [max(map(cell_width, column)) for column in zip(columns, *rows, strict=True)]


def _without_empty(columns: Row, rows: Sequence[Row]) -> tuple[Row, Sequence[Row]]:
    kept = [place for place in range(len(columns)) if any(row[place] for row in rows)] or [0]
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _fitted(columns: Row, rows: Sequence[Row], width: int) -> list[int] | None:
    """Widths that fit, the narrowest columns whole first; None if words would have to be broken."""
    least = _least_widths(columns, rows)
    left = width - _NARROW_GAP * (len(columns) - 1) - sum(least)
    if left < 0:
        return None
    widths = list(least)
    # Heads are folded before cells are.
    for wanted in (_widths([""] * len(columns), rows), _widths(columns, rows)):
        for place in sorted(range(len(widths)), key=lambda place: wanted[place] - widths[place]):
            more = max(0, min(left, wanted[place] - widths[place]))
            widths[place] += more
            left -= more
    return widths


def _least_widths(columns: Row, rows: Sequence[Row]) -> list[int]:
    return [
        max([*map(_least, cells), _longest_word(name)]) for name, *cells in zip(columns, *rows, strict=True)
    ]


def _least(cell: str) -> int:
    whole = cell_width(cell)
    return whole if whole <= _NEVER_FOLDED else _longest_word(cell)


def _longest_word(text: str) -> int:
    return max(map(cell_width, text.split(" ")))


def _drawn(
    columns: Row,
    rows: Sequence[Row],
    right: Sequence[str],
    widths: Sequence[int],
    gap: int,
    below: Sequence[Sequence[str]] = (),
) -> Laid:
    def lines(cells: Row) -> list[str]:
        folded = [_folded(cell, width) for cell, width in zip(cells, widths, strict=True)]
        height = max(map(len, folded))
        return [
            (" " * gap)
            .join(
                _aligned(part[number] if number < len(part) else "", width, to_right=name in right)
                for part, width, name in zip(folded, widths, columns, strict=True)
            )
            .rstrip()
            for number in range(height)
        ]

    body = [_RULE * (sum(widths) + gap * (len(widths) - 1))]
    for number, row in enumerate(rows):
        body.extend(lines(row))
        if below:
            body.extend(below[number])
    return Laid(lines(columns), body)


def _folded(text: str, width: int) -> list[str]:
    if cell_width(text) <= width:
        return [text]
    return _filled(text.split(" "), " ", width)


def _filled(words: Sequence[str], between: str, width: int) -> list[str]:
    """As many words on a line as fit, and at least one."""
    lines: list[str] = []
    for word in words:
        if lines and cell_width(lines[-1]) + len(between) + cell_width(word) <= width:
            lines[-1] += between + word
        else:
            lines.append(word)
    return lines


def _aligned(text: str, width: int, *, to_right: bool) -> str:
    space = " " * (width - cell_width(text))
    return space + text if to_right else text + space


def _pairs(columns: Row, cells: Row, width: int) -> list[str]:
    """`name value` of each cell that is not empty, as many on a line as fit."""
    pairs = [f"{name} {cell}".strip() for name, cell in zip(columns, cells, strict=True) if cell]
    room = width - len(_INDENT)
    return [_INDENT + part for line in _filled(pairs, "   ", room) for part in _folded(line, room)]
