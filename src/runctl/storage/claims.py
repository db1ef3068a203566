"""What lies in a bucket is a claim: bounded before it is read, of its type and range before it is believed.

Whoever can write to the bucket may have written it. Each kind of object that is read from one is a Struct
whose fields say what they may hold, marked with `claim`; `read` is the one place that decodes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec

from runctl.errors import ValidationError
from runctl.storage.objects import Store

T = TypeVar("T", bound=msgspec.Struct)

MiB = 1024 * 1024
_LONGEST_WHY = 200

# What fields may hold. Control characters are in none of these: NUL cuts paths, others give terminals orders.
_PLAIN = r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
Moment = Annotated[float, msgspec.Meta(ge=0, le=32_503_680_000)]
"""Seconds since the epoch, until the year 3000."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=5 * 2**40)]
"""S3's largest object has 5 TiB."""
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
ExitStatus = Annotated[int, msgspec.Meta(ge=-1024, le=1024)]
Number = Annotated[int, msgspec.Meta(ge=0, le=999_999)]
"""Of an attempt, or of a try."""
Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Word = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z-]{0,31}\Z")]
"""A word of the agent's vocabulary."""
Name = Annotated[str, msgspec.Meta(pattern=rf"\A{_PLAIN}*\Z", max_length=200)]
Text = Annotated[str, msgspec.Meta(max_length=8192)]
"""Words for people: made harmless where they leave."""
JobName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9]+(-[a-z0-9]+)*\Z", max_length=64)]
CommitName = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,9}-[^/\x00-\x1f\x7f]{1,255}\Z")]
"""As agents call a commit, after the name of the checkpoint that a script gave."""
RelativePath = Annotated[
    str,
    msgspec.Meta(pattern=rf"\A(?!.*(?:\A|/)\.{{0,2}}(?:/|\Z)){_PLAIN}+\Z", max_length=1024),
]
"""Leads into the folder that it begins in, and to nowhere else."""
Folder = Annotated[
    str,
    msgspec.Meta(pattern=rf"\A(\.|(?!.*(?:\A|/)\.{{0,2}}(?:/|\Z)){_PLAIN}+)\Z", max_length=1024),
]
"""The same, or `.` for the folder itself."""


class Unbelievable(ValidationError):
    """An object of a bucket is not what it should be: nothing of it was used."""


class _Kind(msgspec.Struct, frozen=True):
    """A kind of object: what it is to people, its type, and its largest size in bytes."""

    what: str
    type: type[msgspec.Struct]
    largest: int


_kinds: dict[type[msgspec.Struct], _Kind] = {}


def claim(what: str, *, largest: int) -> Callable[[type[T]], type[T]]:
    """Mark a Struct as what is read from a bucket; `largest` in bytes."""

    def register(kind: type[T]) -> type[T]:
        _kinds[kind] = _Kind(what, kind, largest)
        return kind

    return register


def kinds() -> tuple[type[msgspec.Struct], ...]:
    """Every kind that is read from a bucket, of the modules that are loaded."""
    return tuple(_kinds)


def read(store: Store, key: str, kind: type[T]) -> T:
    """One object of a store. Raises NotFound, Unbelievable, TooLarge, and as every store does."""
    return decode(store.read(key, largest=_kinds[kind].largest), kind, key)


def read_if_exists(store: Store, key: str, kind: type[T]) -> T | None:
    """The same, None where there is no such object."""
    data = store.read_if_exists(key, largest=_kinds[kind].largest)
    return None if data is None else decode(data, kind, key)


def decode(data: bytes, kind: type[T], where: str) -> T:
    """What an object says. Raises Unbelievable, which names it by `where`."""
    about = _kinds[kind]
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        raise _unbelievable(about, where, error) from error


def decode_proven(
    data: bytes, kind: type[T], where: str, is_proven: Callable[[dict[str, Any]], bool], lacks: str
) -> T:
    """The same of an object that proves who wrote it: what is used is what `is_proven` was given.

    Raises Unbelievable, which says what any other one `lacks`.
    """
    decode(data, kind, where)
    try:
        told: dict[str, Any] = msgspec.json.decode(data)
        if is_proven(told):
            return msgspec.convert(told, kind)
        raise ValueError(lacks)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
        raise _unbelievable(_kinds[kind], where, error) from error


def converted(value: Any, kind: type[T], where: str) -> T:
    """What was decoded already and came through a bucket. Raises Unbelievable."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
        raise _unbelievable(_kinds[kind], where, error) from error


def unbelievable(kind: type[msgspec.Struct], where: str, error: Exception) -> Unbelievable:
    """The error for an object whose fields may be so each, and cannot be so together."""
    return _unbelievable(_kinds[kind], where, error)


def _unbelievable(about: _Kind, where: str, error: Exception) -> Unbelievable:
    return Unbelievable(
        f"{spelled(where)} is not believed",
        why=f"it is no {about.what}: {spelled(str(error))}",
        next="look at who may write to the bucket",
    )


def spelled(text: str) -> str:
    """Somebody else's words, short and in one line."""
    plain = re.sub(rf"(?!{_PLAIN}).", lambda found: repr(found[0])[1:-1], text, flags=re.DOTALL)
    return plain if len(plain) <= _LONGEST_WHY else plain[:_LONGEST_WHY] + "..."
