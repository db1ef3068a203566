"""stdout is data, stderr is talk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec


def write_json(value: Any) -> None:
    """One object, readable on a terminal and one line in a pipe. Money is text, times are ISO 8601."""
    data = msgspec.json.encode(value)
    if sys.stdout.isatty():
        data = msgspec.json.format(data, indent=2)
    write_bytes(data + b"\n")


def write_line(text: str) -> None:
    write_bytes(text.encode() + b"\n")


def write_bytes(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout; plain where it is no terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def talk(text: str, *, style: str = "") -> None:
    """A sentence on stderr; a terminal shows its style."""
    if style and sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True, highlight=False).print(text, style=style, markup=False, soft_wrap=True)
        return
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
