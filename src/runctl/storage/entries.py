"""What a listing is made of: files and objects by their keys."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import msgspec


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A file or an object. `key` is relative with `/` between parts, `size` in bytes.

    `modified` is in nanoseconds since 1970 (UTC). `etag` comes without its quotes, and is empty for files.
    """

    key: str
    size: int
    modified: int
    etag: str = ""


def dataset_version(entries: Iterable[Entry]) -> str:
    """What tells one state of a dataset from every other: SHA-256 over keys, sizes and ETags, in hex.

    Keys are relative to the dataset and may come in any order. The agent computes the same on a machine.
    """
    total = sha256()
    for entry in sorted(entries, key=lambda item: item.key.encode()):
        total.update(f"{entry.key}\0{entry.size}\0{entry.etag}\n".encode())
    return total.hexdigest()
