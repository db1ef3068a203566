"""stdout is data, stderr is talk."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from runctl.errors import ValidationError

_PIPE_WIDTH = 10_000


def write_json(value: Any) -> None:
    """One object, readable on a terminal and one line in a pipe. Money is text, times are ISO 8601."""
    data = msgspec.json.encode(value)
    if sys.stdout.isatty():
        data = msgspec.json.format(data, indent=2)
    write_bytes(data + b"\n")


def write_line(text: str) -> None:
    write_bytes(text.encode(errors="surrogateescape") + b"\n")


def write_bytes(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def write_file(path: Path, data: bytes) -> None:
    """To a file that the user named. Raises ValidationError where it cannot be written."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ValidationError(f"{path} cannot be written", why=error.strerror or str(error)) from error


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout, as wide as its terminal; in a pipe as wide as it needs, so that lines stay whole."""
    cells = [[_harmless(cell) for cell in row] for row in rows]
    lines = _plain_table(columns, cells, right)
    if lines is None:
        _write_rich_table(columns, cells, right)
        return
    if sys.stdout.isatty() and _is_styled():
        lines[0] = f"\x1b[1m{lines[0]}\x1b[0m"
    for line in lines:
        write_line(line)


def _plain_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]
) -> list[str] | None:
    """The lines of a table that needs no folding and no knowledge of wide characters; else None.

    Nearly every table is one, and reading rich in takes longer than all the rest of a short command.
    """
    if not all(cell.isascii() for row in (columns, *rows) for cell in row):
        return None
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    whole = sum(widths) + 3 * (len(widths) - 1)
    if sys.stdout.isatty() and whole > _terminal_columns():
        return None

    def line(cells: Sequence[str]) -> str:
        parts = zip(cells, columns, widths, strict=True)
        aligned = [cell.rjust(width) if name in right else cell.ljust(width) for cell, name, width in parts]
        return "   ".join(aligned).rstrip()

    return [line(columns), "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * whole, *map(line, rows)]


def _terminal_columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _is_styled() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


def _write_rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    if sys.stdout.isatty():
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        write_line(line.rstrip())


def _harmless(text: str) -> str:
    """Without control characters: names come from clouds, and a terminal obeys what it is shown."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def talk(text: str, *, style: str = "") -> None:
    """A sentence on stderr; a terminal shows its style."""
    if style and sys.stderr.isatty():
        from rich.console import Console

        console = Console(stderr=True, highlight=False, emoji=False)
        console.print(text, style=style, markup=False, soft_wrap=True)
        return
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
