"""What a store is: objects by key, each seen whole or not at all."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from runctl.agent.names import unfit
from runctl.errors import NotFound, ValidationError
from runctl.processes import is_alive

PARTIAL_PREFIX = ".runctl-partial-"
"""Files on their way to their name begin like this, and no listing shows them."""


JOBS_PREFIX = "runctl/jobs"
"""Where the objects of jobs lie in their bucket."""


class ObjectInfo(msgspec.Struct, frozen=True):
    """An object without its bytes; size in bytes, `etag` is opaque and changes with each write."""

    key: str
    size: int
    etag: str
    modified: datetime


class TooLarge(ValidationError):
    """An object has more bytes than one of its kind ever has."""


def too_large(key: str, size: int, largest: int) -> TooLarge:
    return TooLarge(
        f"{key!r:.200} is not read",
        why=f"it has {size} bytes, and one of its kind has at most {largest}",
        next="look at who may write to the bucket",
    )


class Store(Protocol):
    """Keys are relative with `/` between parts; what breaks that rule raises ValidationError.

    Safe to call from many threads. Beside the errors named below, every method may raise CloudError
    (the store did not answer or refused), ConfigError (credentials) or TransferError.
    """

    def read(self, key: str, *, largest: int | None = None) -> bytes:
        """The whole object. Raises NotFound, and TooLarge for more than `largest` bytes: it is not read."""
        ...

    def read_if_exists(self, key: str, *, largest: int | None = None) -> bytes | None:
        """The same, None where there is none. Raises NotFound where its bucket is missing."""
        ...

    def read_from(self, key: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes (one or more) from `offset` on, none at or past the end. Raises NotFound."""
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """The `length` bytes from `start` on. Raises NotFound, CloudError or TransferError for fewer."""
        ...

    def write(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Replace the object and answer its etag.

        Raises Conflict where `if_absent` and the key exists, or where the etag is no longer `if_match`.
        A store may try again by itself after a lost answer, so a Conflict can mean that this very write
        arrived: read to know.
        """
        ...

    def upload(self, path: Path, key: str) -> None:
        """Send a file of any size and check that all of it arrived. Raises TransferError."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Fetch under a temporary name, check the size, sync, rename. Raises NotFound, TransferError."""
        ...

    def list(self, prefix: str = "", *, after: str | None = None) -> list[ObjectInfo]:
        """Every object inside the folder `prefix` with a key greater than `after`, in order of key."""
        ...

    def info(self, key: str) -> ObjectInfo:
        """One object without its bytes. Raises NotFound."""
        ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Idempotent."""
        ...


_LONGEST_PART = 255
"""Bytes, of which a letter has up to four."""
_NO_KEY = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)")


def checked_key(key: str) -> str:
    """A key whose path can leave no folder. Raises ValidationError for any other."""
    why = unfit(key)
    if not why and _NO_KEY.search(key):
        why = "a key is relative and has no empty part, no '.' and no '..'"
    if why:
        raise ValidationError(f"{key!r} is no key of an object", why=why)
    return key


def no_file(key: str) -> str | None:
    """Why an object of this relative key can be no file below a folder; None where it can."""
    try:
        parts = checked_key(key).split("/")
    except ValidationError as error:
        return error.why
    if len(key) > 63 and max(len(os.fsencode(part)) for part in parts) > _LONGEST_PART:
        return "a part of the name is longer than 255 bytes"
    if parts[-1].startswith(PARTIAL_PREFIX):
        return "its name is that of a file on its way"
    return None


def is_of_a_job(key: str) -> bool:
    """Whether the object at a whole key is a job's: what mirrors a folder never deletes it."""
    return f"/{JOBS_PREFIX}/" in f"/{key}"


def checked_prefix(prefix: str) -> str:
    """A prefix without its closing `/`, empty for the whole store. Raises as `checked_key`."""
    return checked_key(prefix.removesuffix("/")) if prefix else ""


def inside(folder: Path, relative: str) -> Path:
    """Where `relative` lies in `folder`. Raises ValidationError where a symlink would lead out of it."""
    path = folder / PurePosixPath(checked_key(relative))
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ValidationError(
            f"{relative!r} would leave {folder}",
            why=f"{path.parent} leads to {path.parent.resolve()}",
            next="remove the link or choose an empty folder",
        )
    return path


@contextmanager
def partial_file(target: Path, *, private: bool = False) -> Generator[Path]:
    """A new file beside `target`, removed at the end unless it was renamed; `private` keeps others out."""
    target.parent.mkdir(0o700 if private else 0o777, parents=True, exist_ok=True)
    partial = target.parent / f"{PARTIAL_PREFIX}{os.getpid()}.{_host()}.{secrets.token_hex(8)}"
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666))
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def remove_stale(partials: Iterable[Path]) -> None:
    """What a killed process left of small files: nobody goes on with it."""
    for path in partials:
        process, dot, _ = path.name.removeprefix(PARTIAL_PREFIX).partition(".")
        if dot and process.isdigit() and not is_alive(int(process)):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """What processes of this host left in `folder` that were killed while they wrote a file."""
    remove_stale(folder.glob(f"{PARTIAL_PREFIX}*.{_host()}.*"))


def _host() -> str:
    """Of the names of partial files: a folder may be shared, and a pid says nothing elsewhere."""
    return blake2b(platform.node().encode(), digest_size=4).hexdigest()


def rename_durably(partial: Path, target: Path) -> None:
    """Give a finished file its name so that a power cut leaves the old file or the new one, whole."""
    sync(partial)
    partial.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Put a file or folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_found(key: str, place: str) -> NotFound:
    return NotFound(f"There is no {key}", why=f"looked in {place}")
