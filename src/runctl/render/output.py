"""The one place where text leaves: stdout is data, stderr is talk, and neither gives orders to a terminal.

Nothing else in the command line writes to either (a test walks the source), so that no command can forget to
make the text of others harmless. A script's log is the one thing that passes as it is: `render.screen`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runctl.errors import ValidationError
from runctl.links import refuse_brought
from runctl.render import tables
from runctl.render.harmless import harmless, harmless_json, harmless_lines
from runctl.render.screen import Screen

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_PIPE_WIDTH = 10_000
_LONGEST_CELL = 2_000
_screen = Screen()
"""Of the one stdout that a process has: whatever is written next must find it settled."""


def on_terminal() -> bool:
    """Whether data is shown to a person."""
    return sys.stdout.isatty()


def talk_on_terminal() -> bool:
    """Whether talk is shown to a person."""
    return sys.stderr.isatty()


def write_json(value: Any) -> None:
    """One object, readable on a terminal and one line in a pipe. Money is text, times are ISO 8601."""
    _data(_json(value, indent=2 if on_terminal() else None) + "\n")


def write_json_line(value: Any) -> None:
    """One object of a stream, on one line wherever it goes."""
    _data(_json(value) + "\n")


def write_line(text: str) -> None:
    """One line, whatever is in it."""
    _data(harmless(text) + "\n")


def write_document(text: str) -> None:
    """Lines of a format of its own, such as CSV or HTML: they are never cut."""
    _data(harmless_lines(text))


def write_log(data: bytes) -> None:
    """What a script wrote: byte by byte in a pipe or file, and as `Screen` lets it through on a terminal."""
    _bytes(_screen.shown(data) if on_terminal() else data)


def end_log() -> None:
    """Before a line of ours comes: what the log switched on is off, and it reaches no line above this one."""
    if (data := _screen.settled()) and on_terminal():
        _bytes(data)


def write_file(path: Path, data: bytes) -> None:
    """To a file that the user named. Raises ValidationError where it cannot be written."""
    refuse_brought(path)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ValidationError(f"{path} cannot be written", why=error.strerror or str(error)) from error


def write_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout, as wide as its terminal; in a pipe as wide as it needs, so that lines stay whole."""
    cells = [[harmless(cell, longest=_LONGEST_CELL) for cell in row] for row in rows]
    head, body = tables.laid_out(columns, cells, right, _terminal_columns() if on_terminal() else None)
    if on_terminal() and _is_styled():
        head = [f"\x1b[1m{line}\x1b[0m" for line in head]
    _data("".join(f"{line}\n" for line in (*head, *body)))


def _terminal_columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _is_styled() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


def write_drawn(drawing: RenderableType) -> None:
    """What rich draws: in colour on a terminal, and with whole lines in a pipe."""
    if on_terminal():
        screen = console()
        screen.print(_harmless_drawing(screen, drawing))
    else:
        _data(drawn_lines(drawing))


def drawn_lines(drawing: RenderableType) -> str:
    """What rich draws as lines without colour, as wide as they need to be."""
    from rich.console import Console

    wide = Console(width=_PIPE_WIDTH, highlight=False, markup=False, emoji=False, color_system=None)
    with wide.capture() as captured:
        wide.print(_harmless_drawing(wide, drawing))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().split("\n")[:-1])


def _harmless_drawing(console: Console, drawing: RenderableType) -> RenderableType:
    from rich.segment import Segment, Segments

    return Segments(
        [
            part if part.control else Segment(harmless_lines(part.text), part.style)
            for part in console.render(drawing)
        ]
    )


def console(*, talk: bool = False) -> Console:
    """Where rich draws on a terminal; foreign text that goes there by itself must be harmless already."""
    from rich.console import Console

    end_log()
    return Console(stderr=talk, highlight=False, markup=False, emoji=False)


def talk(text: str, *, style: str = "") -> None:
    """A sentence on stderr, on one line; a terminal shows its style."""
    line = harmless(text)
    if style and talk_on_terminal():
        console(talk=True).print(line, style=style, soft_wrap=True)
        return
    _talk(line + "\n")


def talk_json(value: Any, *, spaced: bool = False) -> None:
    """One object on one line of stderr; `spaced` sets blanks between its parts."""
    _talk(_json(value, indent=0 if spaced else None) + "\n")


def talk_document(text: str) -> None:
    """Lines on stderr that belong together, such as a command's help."""
    _talk(harmless_lines(text))


def talk_trace(error: BaseException) -> None:
    """A stack trace for whoever looks for a fault; a line of its own text cannot be taken for one of ours."""
    import traceback

    for line in "".join(traceback.format_exception(error)).split("\n")[:-1]:
        _talk(f"debug: {harmless(line, longest=None)}\n")


def ask(question: str) -> bool:
    """A yes or a no from the terminal; no for an end of input."""
    while True:
        _talk(f"{harmless(question)} [y/N]: ")
        answer = sys.stdin.readline()
        if not answer:
            _talk("\n")
        if answer.strip().lower() in {"", "n", "no"}:
            return False
        if answer.strip().lower() in {"y", "yes"}:
            return True


def ask_code(prompt: str) -> str:
    """What is typed without being shown. Raises EOFError if there is no terminal."""
    import getpass

    if not (sys.stdin and sys.stdin.isatty() and talk_on_terminal()):
        raise EOFError("the profile wants a code for MFA, and there is no terminal to ask at")
    return getpass.getpass(harmless(prompt))


def data_as_talk() -> contextlib.AbstractContextManager[Any]:
    """For a story that is data for people and talk for scripts."""
    return contextlib.redirect_stdout(sys.stderr)


def close_data() -> None:
    """Whoever read our output has left: what is still to come goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _json(value: Any, *, indent: int | None = None) -> str:
    try:
        text = msgspec.json.encode(value).decode()
        text = text if indent is None else msgspec.json.format(text, indent=indent)
    except UnicodeEncodeError:  # half a surrogate pair, which only escapes can write
        between = (",", ": ") if indent else (", ", ": ") if indent == 0 else (",", ":")
        plain = msgspec.to_builtins(value, str_keys=True)
        text = json.dumps(plain, indent=indent or None, separators=between)
    return harmless_json(text)


def _data(text: str) -> None:
    end_log()
    _bytes(text.encode("utf-8", "backslashreplace"))


def _bytes(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _talk(text: str) -> None:
    end_log()
    sys.stderr.write(text)
    sys.stderr.flush()
