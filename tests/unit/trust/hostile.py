"""Every kind of object that is read from a bucket, found by its type, with hostile values in every field."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import inspect as types

import runctl
from runctl.storage import claims

HUGE = "A" * 10_000_000
VALUES: tuple[Any, ...] = (
    "../../x",
    "/etc/x",
    "~/.bashrc",
    "-rf",
    "--index-url=http://127.0.0.1:9/",
    "$(touch x)",
    "; touch x",
    "`touch x`",
    "a\nb",
    "a\0b",
    "\x1b]0;owned\x07\x1b[2J",
    "\u202egnp.exe",
    "",
    ".",
    "..",
    "s3://somebody-elses/",
    HUGE,
    10**30,
    -1,
    2**63,
    1e308,
    -1e308,
    True,
    None,
    [],
    {},
    [[[[[["deep"]]]]]],
    {"deep": {"deep": {}}},
    ["../../x"] * 3,
)
"""What a stranger may write in the place of a field."""

RAW: tuple[bytes, ...] = (
    b"",
    b"\0",
    b"null",
    b"[]",
    b"NaN",
    b'{"',
    b"\xff\xfe",
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b'{"size": NaN, "heartbeat": Infinity}',
    b'{"heartbeat": 1e999}',
)
"""What a stranger may write in the place of the whole."""


def load_everything() -> None:
    """Kinds register themselves where they are defined."""
    for module in pkgutil.walk_packages(runctl.__path__, "runctl."):
        if not module.name.startswith(("runctl.sandbox", "runctl.tui", "runctl.datasets.torch")) and not (
            module.name.endswith("__main__")
        ):
            importlib.import_module(module.name)


class Planted(NamedTuple):
    """An object whose field at `path` holds something hostile."""

    path: tuple[str | int, ...]
    value: Any
    whole: dict[str, Any]


def example(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """An object of a kind with something in each of its fields. Raises AssertionError where it is none."""
    made = {**_value(types.type_info(kind)), **_EXCLUSIVE.get(kind.__name__, {})}
    return msgspec.to_builtins(msgspec.convert(made, kind, strict=False))


def planted(kind: type[msgspec.Struct]) -> Iterator[Planted]:
    """The example with each hostile value in each field and each item, at any depth."""
    whole = example(kind)
    for path in _paths(whole):
        for value in VALUES:
            yield Planted(path, value, _with(whole, path, value))


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _paths(item, (*path, name))


def _with(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _with(copy[path[0]], path[1:], new)  # type: ignore[index]
    return copy


_ENTRIES = [
    {
        "tree": "outputs",
        "path": "a",
        "size": 1,
        "mode": 420,
        "mtime": 1,
        "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        "at": "000001-step.pt/outputs/a",
    },
    {
        "tree": "checkpoints",
        "path": "b",
        "raw": "Yg==",
        "size": 1,
        "mode": 420,
        "mtime": 1,
        "sha256": "0a325ca303eb3014c43ae004970f343634db176fa1697bcc8c9efac94626488d",
        "part": 8,
        "parts": "LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=",
    },
    {"tree": "work", "path": "c", "link": "d"},
    {"tree": "work", "path": "e", "folder": True},
]
_EXCLUSIVE: dict[str, dict[str, Any]] = {
    "ClaimedSpec": {"gpus": None},
    "Manifest": {"entries": _ENTRIES, "checkpoint": {"tree": "checkpoints", "path": "b"}},
}
"""Fields that no object has beside its others, and those whose items are not alike."""
_WORDS = (
    "a",
    "vol-0123456789abcdef0",
    "000001-step.pt",
    "s3.bucket",
    "sandbox",
    "g5.xlarge",
    "0" * 64,
    f"runctl/bundles/{'0' * 64}.tar.gz",
    "--resume",
    ">=3.8",
    ".",
)
"""One of these fits the pattern of every field that has one: else the field needs another here."""


def _value(kind: types.Type) -> Any:
    if isinstance(kind, types.Metadata):
        return _value(kind.type)
    if isinstance(kind, types.StructType):
        return {field.encode_name: _value(field.type) for field in kind.fields}
    if isinstance(kind, types.UnionType):
        return _value(next(one for one in kind.types if not isinstance(one, types.NoneType)))
    if isinstance(kind, types.VarTupleType | types.ListType):
        return [_value(kind.item_type)]
    if isinstance(kind, types.TupleType):
        return [_value(one) for one in kind.item_types]
    return _plain(kind)


def _plain(kind: types.Type) -> Any:
    if isinstance(kind, types.LiteralType):
        return kind.values[0]
    if isinstance(kind, types.StrType):
        return _text(kind)
    if isinstance(kind, types.BoolType):
        return False
    if isinstance(kind, types.IntType | types.FloatType):
        return 1
    if isinstance(kind, types.DecimalType):
        return "1"
    raise AssertionError(f"the test knows no {kind}: teach it, for such a field is read from a bucket")


def _text(kind: types.StrType) -> str:
    if kind.pattern is None:
        return "words"
    fitting = msgspec.Meta(pattern=kind.pattern)
    for word in _WORDS:
        try:
            return msgspec.convert(word, Annotated[str, fitting])
        except msgspec.ValidationError:
            continue
    raise AssertionError(f"no word of the test fits {kind.pattern}: add one")


KINDS = (load_everything(), claims.kinds())[1]
