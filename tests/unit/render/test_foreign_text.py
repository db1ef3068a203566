"""Every string that reaches stdout, stderr or a page from outside is clean, found from the types.

Each function of `render` is called with values that hold the planted text in every field of text; so are
each error and each event. A new one is covered by being there.
"""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import foreign
import pytest
from foreign import PLANTED, assert_clean, captured, filled, hints_of

from runctl import errors, events
from runctl.cli import main
from runctl.render.follow import JsonFollower, TextFollower

NOT_FROM_OUTSIDE = {
    # The building stones themselves have their own tests; `asset` reads our files, `svg` needs an extra.
    "runctl.render.output",
    "runctl.render.harmless",
    "runctl.render.screen",
}
GIVES_VALUES = {
    "plan_body",
    "could_go_body",
    "both_body",
    "place",
    "asset",
    "style",
    "tree",
    "shortfall",
    "escaped",
}
"""What does not write and gives no text of its own: data for `write_json`, positions, our own files."""
DOCUMENTS = {"tree_text", "dot", "mermaid", "page", "svg", "picture"}
"""Their lines are theirs; any other text that is returned is a piece of a line."""


def renderers() -> list[Any]:
    return [
        function
        for module in foreign.modules_of("runctl.render")
        if module.__name__ not in NOT_FROM_OUTSIDE
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
        and name not in GIVES_VALUES
        and not inspect.isgeneratorfunction(inspect.unwrap(function))
    ]


class Said(dict[str, Any]):
    """An answer of a machine, of which only the form is known to the source."""

    def __init__(self) -> None:
        numbers = ("copied_bytes", "seconds", "copied_files", "equal_files", "files", "deleted_files")
        super().__init__(dict.fromkeys((*numbers, "extra_files", "left_out_files"), 7))
        self.update(location=PLANTED, version=PLANTED, usd="7", left_out=[(PLANTED, PLANTED)])


def calls(function: Callable[..., Any]) -> list[dict[str, Any]]:
    """Arguments for a function: every switch both ways."""
    hints = {name: kind for name, kind in hints_of(function).items() if name not in {"return", "style"}}
    switches = [name for name, kind in hints.items() if kind is bool]
    values = {name: filled(kind) for name, kind in hints.items() if kind is not bool}
    values |= {name: Said() for name, kind in hints.items() if kind == Mapping[str, Any]}
    return [
        {**values, **dict(zip(switches, chosen, strict=True))}
        for chosen in product((False, True), repeat=len(switches))
    ]


@pytest.mark.parametrize(
    "function", renderers(), ids=lambda function: f"{function.__module__}.{function.__name__}"
)
def test_what_is_rendered_is_clean(function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, terminal in product(calls(function), (False, True)):
        with captured(monkeypatch, terminal=terminal) as streams:
            try:
                answer = function(**arguments)
            except errors.ConfigError:
                pytest.skip("the extra for its layout is not installed")
        for stream in streams:
            assert_clean(stream.written(), terminal=terminal, where=function.__name__)
        if isinstance(answer, str):
            with captured(monkeypatch, terminal=terminal) as (out, _):
                from runctl.render import output

                write = output.write_document if function.__name__ in DOCUMENTS else output.write_line
                write(answer)
            assert_clean(out.written(), terminal=terminal, where=function.__name__)


def test_the_walk_finds_the_functions_and_fills_what_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    found = renderers()
    assert len(found) >= 35
    shown = 0
    for function in found:
        for arguments in calls(function):
            with captured(monkeypatch, terminal=False) as streams:
                try:
                    answer = function(**arguments)
                except errors.ConfigError:
                    continue
            shown += b"MARK" in streams[0].written() + streams[1].written() or "MARK" in str(answer)
    assert shown >= 30


KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.TrainctlError)
]


def raised(kind: type[errors.TrainctlError]) -> errors.TrainctlError:
    hints = typing.get_type_hints(
        kind.__init__, vars(errors) | {"Path": Path, "Mapping": Mapping, "Any": Any, "Callable": Callable}
    )
    return kind(**{name: filled(hint) for name, hint in hints.items() if name != "return"})


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, OSError, ValueError, KeyError, UnicodeDecodeError, ExceptionGroup])
def test_what_is_said_of_an_error_is_clean(
    kind: type[BaseException], terminal: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path))
    monkeypatch.setenv("RUNCTL_DEBUG", "1")
    if issubclass(kind, errors.TrainctlError):
        error: BaseException = raised(kind)
    elif kind is OSError:
        error = OSError(13, PLANTED, PLANTED)
    elif kind is UnicodeDecodeError:
        error = UnicodeDecodeError("utf-8", b"\x9b", 0, 1, PLANTED)
    elif kind is ExceptionGroup:
        error = ExceptionGroup(PLANTED, [ValueError(PLANTED)])
    else:
        error = kind(PLANTED)

    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(main, "_invoke", fail)
    for arguments in ([], ["--output", "json"]):
        with captured(monkeypatch, terminal=terminal) as (out, err):
            assert main.run(arguments) != 0
        assert not out.written()
        assert_clean(err.written(), terminal=terminal, where=f"{kind.__name__} {arguments}")
        if arguments and issubclass(kind, errors.TrainctlError):
            assert PLANTED.replace("\0", "") in json.loads(err.written())["error"]["what"].replace("\0", "")
    for crash in tmp_path.glob("crashes/*"):
        foreign.assert_seen(crash.read_text(encoding="utf-8"), where="a crash's file")


def _events(kind: type[events.Event]) -> list[type[events.Event]]:
    return [kind, *(one for below in kind.__subclasses__() for one in _events(below))]


@pytest.mark.parametrize("kind", _events(events.Event))
def test_what_is_told_of_an_event_is_clean(kind: type[events.Event], monkeypatch: pytest.MonkeyPatch) -> None:
    event = filled(kind)
    for follower, terminal in product(
        (TextFollower(), TextFollower(quiet=True), JsonFollower(), JsonFollower(talk=True)), (False, True)
    ):
        for name in ("_STATUS_SECONDS", "_PROGRESS_SECONDS"):
            monkeypatch.setattr(f"runctl.render.follow.{name}", -1)
        with captured(monkeypatch, terminal=terminal) as (out, err):
            follower(event)
        if isinstance(event, events.LogOutput) and isinstance(follower, TextFollower):
            if not terminal and out.written():
                assert out.written() == event.data  # a script's own bytes in a pipe
            elif out.written():
                log = out.written().replace(b"\r", b"").replace(b"\t", b"").decode()
                assert all(foreign.is_seen(char) or char == "\n" for char in log), log
        else:
            assert_clean(out.written(), terminal=terminal, where=kind.__name__)
        assert_clean(err.written(), terminal=terminal, where=kind.__name__)


def test_a_bar_shows_its_task_and_obeys_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from runctl.render import transfer

    with captured(monkeypatch, terminal=True) as (out, err):
        monkeypatch.setenv("COLUMNS", "400")
        with transfer.following(quiet=False, json=False) as emit:
            emit(filled(events.Progress))
            emit(filled(events.Notice))
    assert not out.written()
    told = err.written().decode()
    assert "[bold red]x" in told
    for order in ("\x1b]", "\x1b[2J", "\x1b[6n", "\x9b", "\u202e", "\u2028", "\x07", "\x00", "\x0e"):
        assert order not in told
