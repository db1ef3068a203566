"""The bytes of a snapshot's file, read in stretches and proven by its manifest as they come.

Others can write to the bucket: only what has the digest that a sealed manifest tells is ever used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from runctl.agent import packs
from runctl.agent.snapshot import Entry
from runctl.errors import CloudError, TransferError
from runctl.jobs.spans import Reads

READ = 4 * 1024 * 1024
"""Bytes that are in memory at a time: a checkpoint may be larger than this computer's memory."""
_DIGEST = 32


class NotAsCommitted(TransferError):
    """The bytes in the store are not those that the manifest tells."""


class Stretch(NamedTuple):
    """Bytes of a file that have a digest of their own; `before` are those of its object that are others'."""

    start: int
    length: int
    sha256: bytes
    before: int = 0


def key_of(entry: Entry, commits: str) -> str:
    """The key of the object in which a file's bytes lie; `commits` is the folder of the snapshots."""
    return commits + packs.object_of(entry.at, entry.size)[0]


def stretches(entry: Entry) -> list[Stretch]:
    """The whole file, or the parts in which it was sent."""
    if not entry.part:
        packed = packs.inside(entry.at)
        return [Stretch(0, entry.size, bytes.fromhex(entry.sha256), packed.offset if packed else 0)]
    return [
        Stretch(start, length, entry.parts[number * _DIGEST : (number + 1) * _DIGEST])
        for number, (start, length) in enumerate(_cut(entry.size, entry.part))
    ]


def receive(store: Reads, key: str, stretch: Stretch, take: Callable[[int, bytes], object]) -> None:
    """Give the bytes of a stretch to `take` with their place in the file, then prove them.

    Raises NotAsCommitted, and as `Store.read_range`.
    """
    digest = hashlib.sha256()
    for start, length in _cut(stretch.length, READ):
        data = _read(store, key, stretch.before + stretch.start + start, length)
        digest.update(data)
        take(stretch.start + start, data)
    if digest.digest() != stretch.sha256:
        raise NotAsCommitted(f"{key!r:.200} is not what was committed", why="its SHA-256 is another one")


def _read(store: Reads, key: str, start: int, length: int) -> bytes:
    try:
        return store.read_range(key, start, length)
    except (CloudError, TransferError) as error:
        if (size := store.info(key).size) >= start + length:
            raise
        raise NotAsCommitted(f"{key!r:.200} is too short", why=f"it has only {size} bytes") from error


def check(store: Reads, key: str, entry: Entry) -> None:
    """Read a file and prove it. Raises as `receive`."""
    for stretch in stretches(entry):
        receive(store, key, stretch, lambda _at, _data: None)


def _cut(size: int, most: int) -> Iterator[tuple[int, int]]:
    """Where each piece of at most `most` bytes begins, and its length."""
    return ((start, min(most, size - start)) for start in range(0, size, max(1, most)))
