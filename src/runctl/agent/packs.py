"""Many small files in one object of the bucket: a request each would cost more than their bytes do.

A file in a pack lies at `SNAPSHOT/.packs/NAME-SIZE/OFFSET`, a place of its own like any other: SIZE is that
of the object, and OFFSET is where in it the file's bytes begin.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple, Optional, Tuple

PACKED_UP_TO = 256 * 1024
"""Bytes of a file that goes into a pack; it is worth it from so many files on:"""
MANY = 64
LARGEST = 1024 * 1024
"""Bytes of a pack, which is put together in memory."""
_FOLDER = ".packs"
_PLACE = re.compile(r"([^/]+/\.packs/[0-9a-f]{16}-(0|[1-9][0-9]{0,9}))/(0|[1-9][0-9]{0,9})")


class Inside(NamedTuple):
    """Where a file lies in a pack: the pack's place and size, and the bytes of it that come before."""

    pack: str
    size: int
    offset: int


def new_place(snapshot: str, size: int) -> str:
    """A place for a pack of a snapshot, that no other has: an earlier try may have left some there."""
    return "%s/%s/%s-%d" % (snapshot, _FOLDER, os.urandom(8).hex(), size)


def place_in(pack: str, offset: int) -> str:
    """The place of a file in a pack."""
    return "%s/%d" % (pack, offset)


def inside(at: str) -> Optional[Inside]:
    """Where a file lies that is in a pack; None for one that is an object of its own."""
    found = _PLACE.fullmatch(at)
    return Inside(found.group(1), int(found.group(2)), int(found.group(3))) if found else None


def object_of(at: str, size: int) -> Tuple[str, int]:
    """The object in which the bytes of a file of this place and size lie, and its size."""
    found = inside(at)
    return (found.pack, found.size) if found else (at, size)
