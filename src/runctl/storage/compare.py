"""What a transfer has to do: two listings in the order of keys, walked side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from runctl.storage.entries import Entry

T = TypeVar("T")


class Comparison(msgspec.Struct, kw_only=True):
    """What two sides have in common, seen from the source.

    `missing` are the source's entries that the destination lacks or has in another size; `doubtful` those of
    the same size that only their content can tell apart, with the object's ETag; `extra` the destination's
    alone.
    """

    missing: list[Entry]
    doubtful: list[Entry]
    extra: list[Entry]
    equal_files: int = 0
    equal_bytes: int = 0

    @property
    def source_files(self) -> int:
        return len(self.missing) + len(self.doubtful) + self.equal_files


Equal = Callable[[Entry, Entry], bool]
"""Whether source and destination of the same size are known to be equal without reading them."""


def compare(
    source: Iterable[Entry], destination: Iterable[Entry], equal: Equal, *, extra: bool
) -> Comparison:
    """Compare sides that are in the order of their keys' UTF-8 bytes; `extra` says to keep that list."""
    result = Comparison(missing=[], doubtful=[], extra=[])
    for here, there in side_by_side(source, destination):
        if here is None:
            if extra and there is not None:
                result.extra.append(there)
        elif there is None or there.size != here.size:
            result.missing.append(here)
        elif equal(here, there):
            result.equal_files += 1
            result.equal_bytes += here.size
        else:
            result.doubtful.append(here if here.etag else msgspec.structs.replace(here, etag=there.etag))
    return result


def side_by_side(
    left: Iterable[Entry], right: Iterable[Entry]
) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Pairs of entries with the same key, and those without a partner. Strings compare like their UTF-8."""
    first, second = iter(left), iter(right)
    one, other = next(first, None), next(second, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one.key < other.key):
            yield one, None
            one = next(first, None)
        elif one is None or other.key < one.key:
            yield None, other
            other = next(second, None)
        else:
            yield one, other
            one, other = next(first, None), next(second, None)


Order = Callable[[Iterable[Entry]], Iterable[Entry]]
"""Gives a listing the order of its keys' UTF-8 bytes, which is S3's own."""


def as_listed(plan: Callable[[Order], T]) -> T:
    """Plan from listings as they come, held nowhere; from sorted ones where a store has an order of its own.

    What `plan` does must bear repeating.
    """
    try:
        return plan(_checked)
    except _Disordered:
        return plan(in_order)


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """The entries in the order that `compare` needs: not every store lists in S3's."""
    found = list(entries)
    found.sort(key=_key)  # nearly no work where they are in order
    return found


class _Disordered(Exception):
    """A store lists in an order of its own."""


def _checked(entries: Iterable[Entry]) -> Iterator[Entry]:
    before = ""
    for entry in entries:
        if entry.key < before:
            raise _Disordered
        before = entry.key
        yield entry


def _key(entry: Entry) -> str:
    return entry.key
