"""stdout is data, stderr is talk; a pipe and a terminal are each given their own."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from runctl.render import output

Capture = pytest.CaptureFixture[bytes]


@dataclass(frozen=True, slots=True)
class Row:
    cost: Decimal
    at: datetime


def on_terminal(code: str, **environment: str) -> str:
    """What Python code writes to a terminal of 80 columns."""
    outer, inner = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS"}}
    with os.fdopen(outer, "rb", buffering=0) as reader:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from runctl.render import output\n{code}"],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**clean, "TERM": "xterm-256color", "COLUMNS": "80", **environment},
        )
        os.close(inner)
        written = b""
        while piece := _read(reader.fileno()):
            written += piece
        assert process.wait(60) == 0, written
    return written.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # how Linux says that the other end has closed
        return b""


def test_json_is_one_line_in_a_pipe_with_money_as_text_and_times_in_iso(capsysbinary: Capture) -> None:
    output.write_json({"rows": [Row(Decimal("0.10"), datetime(2026, 11, 23, tzinfo=UTC))]})
    written = capsysbinary.readouterr().out
    assert written.count(b"\n") == 1
    assert json.loads(written) == {"rows": [{"cost": "0.10", "at": "2026-11-23T00:00:00Z"}]}


def test_json_is_readable_on_a_terminal_and_without_colour() -> None:
    written = on_terminal("output.write_json({'a': [1, 2]})")
    assert json.loads(written) == {"a": [1, 2]}
    assert written.count("\n") > 1
    assert "\x1b" not in written


def test_a_table_in_a_pipe_keeps_its_lines_whole_and_without_blanks_at_their_end(
    capsysbinary: Capture,
) -> None:
    output.write_table(
        ["job", "kept at", "cost"], [["a", "s3://" + "x" * 300, "1"], ["b", "", "22"]], right=["cost"]
    )
    lines = capsysbinary.readouterr().out.decode().splitlines()
    assert lines[2].split() == ["a", "s3://" + "x" * 300, "1"]
    assert lines[3].split() == ["b", "22"]
    assert len(lines) == 4
    assert all(line == line.rstrip() for line in lines)
    assert len(lines[2]) == len(lines[3])


def test_a_table_shows_names_as_they_are(capsysbinary: Capture) -> None:
    output.write_table(["name"], [["[red]x[/red]"], [":smile:"], ["a\\[b]"], ["[/]"]])
    lines = [line.strip() for line in capsysbinary.readouterr().out.decode().splitlines()]
    assert lines[2:] == ["[red]x[/red]", ":smile:", "a\\[b]", "[/]"]


def test_a_table_gives_no_orders_to_the_terminal(capsysbinary: Capture) -> None:
    output.write_table(["name"], [["a\x1b]0;title\x07b\nc\x9bd"]])
    written = capsysbinary.readouterr().out.decode()
    assert not {"\x1b", "\x07", "\x9b"} & set(written)
    assert r"a\x1b]0;title\x07b\nc\x9bd" in written


def test_a_table_fits_its_terminal_and_breaks_no_word() -> None:
    written = on_terminal("output.write_table(['a', 'b'], [['x' * 70, 'y' * 30]])", NO_COLOR="1", TERM="dumb")
    lines = written.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-2:] == ["x" * 70, "    b " + "y" * 30]


def test_a_simple_table_needs_no_rich_on_a_terminal_either() -> None:
    code = "import sys; output.write_table(['a', 'b'], [['x', 'y']]); print('rich' in sys.modules)"
    lines = on_terminal(code).splitlines()
    assert "\x1b[1ma   b\x1b[0m" in lines
    assert lines[-1] == "False"
    assert "\x1b" not in on_terminal(code, NO_COLOR="1")


def test_talk_goes_to_stderr(capsysbinary: Capture) -> None:
    output.talk("[note] hello", style="green")
    written = capsysbinary.readouterr()
    assert (written.out, written.err) == (b"", b"[note] hello\n")


def test_talk_has_its_colour_on_a_terminal_alone_and_never_with_no_color() -> None:
    code = "output.talk('[note] :smile: hello', style='green')"
    assert "\x1b[32m" in on_terminal(code)
    assert "[note] :smile: hello" in on_terminal(code)
    assert on_terminal(code, NO_COLOR="1").strip() == "[note] :smile: hello"


def test_a_file_name_that_is_no_text_shows_its_bytes(capsysbinary: Capture) -> None:
    output.write_line(os.fsdecode(b"caf\xe9"))
    assert capsysbinary.readouterr().out == b"caf\\xe9\n"
