"""Small files that lie beside each other in one object are asked for together: a request for each costs more.

Nothing is proven here: each file's own bytes are, as ever, by its digest.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from runctl.agent import packs
from runctl.agent.snapshot import Entry
from runctl.errors import TrainctlError
from runctl.storage.objects import ObjectInfo, Store

LARGEST = packs.LARGEST
"""Bytes that one request brings: others may have written the manifest that says where files lie."""


class Reads(Protocol):
    """What files are read from."""

    def read_range(self, key: str, start: int, length: int) -> bytes: ...

    def info(self, key: str) -> ObjectInfo: ...


class Span:
    """A stretch of one object: read once, when the first of its files is. Thread-safe."""

    def __init__(self, store: Store, key: str, start: int, end: int) -> None:
        self._store = store
        self._key = key
        self._start, self._end = start, end
        self._data: bytes | None = None
        self._lock = threading.Lock()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """As `Store.read_range`."""
        at = start - self._start
        if key == self._key and at >= 0 and start + length <= self._end:
            data = self._whole()
            if data is not None:
                return data[at : at + length]
        return self._store.read_range(key, start, length)

    def info(self, key: str) -> ObjectInfo:
        """As `Store.info`."""
        return self._store.info(key)

    def _whole(self) -> bytes | None:
        """None where it cannot be had: then each file is asked for by itself, and its trouble is its own."""
        with self._lock:
            if self._data is None:
                try:
                    self._data = self._store.read_range(self._key, self._start, self._end - self._start)
                except TrainctlError:
                    self._data = b""
            return self._data or None


def spans(entries: Sequence[Entry]) -> list[list[int]]:
    """The files, by their number, that are read together; each of them once."""
    alone: list[list[int]] = []
    by_object: dict[str, list[tuple[int, int]]] = {}
    for number, entry in enumerate(entries):
        found = packs.inside(entry.at) if not entry.part else None
        if found is None or not 0 < entry.size <= LARGEST:
            alone.append([number])
        else:
            by_object.setdefault(found.pack, []).append((found.offset, number))
    together: list[list[int]] = []
    for beside in by_object.values():
        run: list[int] = []
        start = 0
        for offset, number in sorted(beside):
            if run and offset + entries[number].size - start > LARGEST:
                together.append(run)
                run = []
            if not run:
                start = offset
            run.append(number)
        together.append(run)
    return [*alone, *together]


def span(store: Store, key: str, entries: Sequence[Entry]) -> Reads:
    """What files that lie in one object are read from."""
    if len(entries) < 2:
        return store
    places = [(packs.inside(entry.at), entry.size) for entry in entries]
    starts = [(place.offset, place.offset + size) for place, size in places if place is not None]
    return Span(store, key, min(start for start, _ in starts), max(end for _, end in starts))
