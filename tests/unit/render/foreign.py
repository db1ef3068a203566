"""Text that is out to hurt, values that are full of it by their types, and what must hold of output."""

from __future__ import annotations

import ast
import builtins
import contextlib
import dataclasses
import enum
import importlib
import inspect
import io
import re
import sys
import types
import typing
import unicodedata
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

FORGED = "FORGED: job succeeded"
PLANTED = (
    "MARK\x1b]0;title\x07\x1b[2J\x1b[6n\x9b31m\u202eevil\u2066\u200b[bold red]x[/bold red][link=x]y"
    f"\udc9b\x0e\x00\r\n{FORGED}\n\x85{FORGED}\u2028{FORGED}\t\U000e0041"
)
STORABLE = PLANTED.replace("\udc9b", "").replace("\x00", "")
"""As it comes from files and services, where neither half a surrogate pair nor NUL can be."""

_SHOW_NOTHING = {
    "runctl.datasets.dataset.Dataset",
    "runctl.storage.bulk.BulkStore",
    "runctl.storage.folder.FolderStore",
    "runctl.storage.memory.Memory",
}
"""Objects with a life of their own, from which no function of `render` takes a text."""

_NO_CIRCLES = frozenset({"edges"})
_OUR_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.TextIOWrapper):
    """A stream that keeps what is written, and says that it is a terminal or that it is none."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def written(self) -> bytes:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue()


@contextmanager
def captured(patch: pytest.MonkeyPatch, *, terminal: bool) -> Generator[tuple[Terminal, Terminal]]:
    """stdout and stderr for a while."""
    streams = Terminal(is_terminal=terminal), Terminal(is_terminal=terminal)
    with patch.context() as inner:
        inner.setattr(sys, "stdout", streams[0])
        inner.setattr(sys, "stderr", streams[1])
        inner.setenv("TERM", "xterm-256color")
        inner.delenv("NO_COLOR", raising=False)
        yield streams


def is_seen(char: str) -> bool:
    return char == " " or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def assert_clean(written: bytes, *, terminal: bool, where: str) -> None:
    """Nothing in it is obeyed, hidden, or taken for a line of ours; foreign markup is shown as it is."""
    text = written.decode("utf-8")  # raises for a byte that is no text
    if terminal:
        text = _OUR_STYLE.sub("", text)
    assert_seen(text, where=where)
    assert "\r" not in text.replace("\r\n", ""), where
    lines = [line.strip(" \"',│|") for line in text.splitlines()]
    assert not [line for line in lines if line.startswith(FORGED)], f"{where}: a line was forged"
    assert "xy" not in text, f"{where}: markup was read"


def assert_seen(text: str, *, where: str) -> None:
    """Nothing in it is obeyed or hidden."""
    odd = {char for char in text if not is_seen(char) and char not in "\n\r"}
    assert not odd, f"{where}: {odd!a} in {text[:2000]!a}"


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's types, those that its module imports for type checkers alone included."""
    return typing.get_type_hints(function, globalns=_names_of(sys.modules[function.__module__]))


def _names_of(module: types.ModuleType) -> dict[str, Any]:
    names = dict(vars(module))
    source = inspect.getsource(module)
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                with contextlib.suppress(ImportError):  # what only stubs have
                    exec(compile(ast.Module([line], []), module.__name__, "exec"), names)
    return names


def filled(kind: Any, text: str = PLANTED, depth: int = 0) -> Any:
    """A value of a type with the planted text wherever text can be. Raises TypeError for unknown types."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return filled(inner[0], text, depth)
    if isinstance(kind, typing.ForwardRef):
        named = getattr(builtins, kind.__forward_arg__, None)
        return types.SimpleNamespace() if named is None else filled(named, text, depth)
    if hasattr(kind, "__supertype__"):
        return filled(kind.__supertype__, text, depth)
    if origin is typing.Literal:
        return inner[0]
    if origin in (typing.Union, types.UnionType):
        some = [one for one in inner if one is not type(None)]
        return None if depth > 8 and len(some) < len(inner) else filled(some[0], text, depth)
    if origin is not None:
        return _container(origin, inner, text, depth)
    simple = _simple(kind, text)
    if simple is not None:
        return simple
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind))
    return _record(kind, text, depth)


def _container(origin: Any, inner: tuple[Any, ...], text: str, depth: int) -> Any:
    if origin is Callable:
        return print  # never called: a plan that is shown is not carried out
    if issubclass(origin, Mapping):
        return {filled(inner[0], text, depth + 1): filled(inner[1], text, depth + 1)}
    if origin is tuple and not (len(inner) == 2 and inner[1] is Ellipsis):
        return tuple(filled(one, text, depth + 1) for one in inner)
    if issubclass(origin, Iterable):
        one = [filled(inner[0], text, depth + 1)]
        return origin(one) if origin in (list, tuple, set, frozenset) else one
    raise TypeError(f"{origin} cannot be built from its type")


def _simple(kind: Any, text: str) -> Any:
    moment = datetime(2026, 11, 23, tzinfo=UTC)
    known: dict[Any, Any] = {
        str: text, Any: text, object: text, bytes: text.encode("utf-8", "surrogateescape"),
        Path: Path(text.replace("\0", "")),
        bool: True, int: 7, float: 7.5, Decimal: Decimal("7.25"), datetime: moment,
        timedelta: timedelta(hours=7),
    }  # fmt: skip
    return known.get(kind)


def _record(kind: Any, text: str, depth: int) -> Any:
    if not isinstance(kind, type) or depth > 12:
        raise TypeError(f"{kind} cannot be built from its type")
    if f"{kind.__module__}.{kind.__name__}" in _SHOW_NOTHING:
        return types.SimpleNamespace(entries=())
    if issubclass(kind, msgspec.Struct):
        fields = kind.__struct_fields__
    elif dataclasses.is_dataclass(kind):
        fields = tuple(field.name for field in dataclasses.fields(kind) if field.init)
    elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
        fields = kind._fields  # pyright: ignore
    else:
        raise TypeError(f"{kind} cannot be built from its type")
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        names = _names_of(sys.modules[base.__module__]) if base.__module__.startswith("runctl") else None
        for name, hint in inspect.get_annotations(base).items():
            # A NamedTuple makes a ForwardRef of a text.
            written = hint.__forward_arg__ if isinstance(hint, typing.ForwardRef) else hint
            hints[name] = eval(written, names) if isinstance(written, str) else written
    values = {name: filled(hints[name], text, depth + 1) for name in fields}
    # Two that need each other, of one name, are no plan and no graph.
    return kind(**values | dict.fromkeys(_NO_CIRCLES & values.keys(), ()))


def modules_of(package: str) -> list[types.ModuleType]:
    import pkgutil

    found = importlib.import_module(package)
    return [importlib.import_module(f"{package}.{one.name}") for one in pkgutil.iter_modules(found.__path__)]
