"""A dataset, wherever it lies: names, sizes, bytes, a folder, and samples that are read ahead."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

from runctl.datasets.samples import Sample, WholeFiles
from runctl.datasets.sources import Source
from runctl.errors import NotFound
from runctl.storage.entries import Entry, dataset_version

AHEAD = 2048
"""Samples that are on their way at once, unless their bytes are more than `ahead_bytes` before: so many, that
small windows of one shard let the next shards come."""
_BUFFER = 1 << 20
"""Bytes of the first read at a place."""
_PIECE = 4 << 20
_MOST_AHEAD = 4
"""Pieces of `_PIECE` bytes that come while a file is read from one end to the other."""


class Dataset:
    """The files below a place, as they were when it was opened. Iteration yields names with their bytes.

    `strategy` says how it is read: existing, cache or direct. `ahead_bytes` bounds what is read before it is
    asked for. Can be pickled, and used by forked processes as long as nothing was read before the fork.
    """

    def __init__(
        self,
        location: str,
        strategy: str,
        source: Source,
        entries: Iterable[Entry],
        *,
        ahead_bytes: int = 64 << 20,
    ) -> None:
        self.location = location
        self.strategy = strategy
        self.ahead_bytes = ahead_bytes
        self.entries = tuple(entries)
        self.source = source

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        numbers = range(len(self.entries))
        whole = WholeFiles(self.entries)
        for number, data in zip(numbers, self.fetch(whole[number] for number in numbers), strict=True):
            yield self.entries[number].key, data

    @property
    def names(self) -> list[str]:
        """The files' names, in order of their bytes."""
        return [entry.key for entry in self.entries]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {entry.key: entry.size for entry in self.entries}

    @cached_property
    def version(self) -> str:
        """What tells this state of the dataset from every other, as `runctl data plan` and the agent name it.

        A folder's files have no ETags: its version is comparable with those of folders alone.
        """
        return dataset_version(self.entries)

    @cached_property
    def layout(self) -> str:
        """What the order of samples rests on: names and sizes. The same in S3, in a cache and in a folder."""
        return dataset_version(Entry(entry.key, entry.size, 0) for entry in self.entries)

    def folder(self) -> Path:
        """The files as a folder. With a cache all of it is fetched first; its files are read-only, and stay
        until `close`. Raises ValidationError where the dataset is streamed, or does not fit into the cache.
        """
        return self.source.folder(self.entries, self.version)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """A file, or `length` bytes of it from `start` on. Raises NotFound, Conflict, CloudError."""
        entry = self._entry(name)
        left = max(0, entry.size - start)
        return self.source.start(entry, start, left if length is None else min(length, left))()

    def open(self, name: str) -> BinaryIO:
        """A file to read from and seek in. Whoever reads on finds the next pieces there; 20 MiB at most."""
        return cast("BinaryIO", io.BufferedReader(_File(self._entry(name), self.source), _BUFFER))

    def fetch(self, samples: Iterable[Sample]) -> Iterator[bytes]:
        """The bytes of samples, in this order; the next ones are read meanwhile."""
        coming: deque[tuple[Callable[[], bytes], int]] = deque()
        entries, start, booked = self.entries, self.source.start, 0
        for number, begin, length in samples:
            while coming and (len(coming) >= AHEAD or booked + length > self.ahead_bytes):
                finish, size = coming.popleft()
                booked -= size
                yield finish()
            coming.append((start(entries[number], begin, length), length))
            booked += length
        while coming:
            yield coming.popleft()[0]()

    def close(self) -> None:
        """Give back threads, files and the lease of a folder."""
        self.source.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _by_name(self) -> dict[str, Entry]:
        return {entry.key: entry for entry in self.entries}

    def _entry(self, name: str) -> Entry:
        found = self._by_name.get(name)
        if found is None:
            raise NotFound(f"There is no {name} in the dataset", why=f"at {self.location}")
        return found


class _File(io.RawIOBase):
    """A file of a dataset as Python's buffered reader takes it; who reads on finds the next pieces there."""

    def __init__(self, entry: Entry, source: Source) -> None:
        self._entry, self._source, self._at = entry, source, 0
        self._rest = memoryview(b"")
        """What is in memory from `_at` on."""
        self._coming: deque[tuple[Callable[[], bytes], int]] = deque()
        self._run = 1
        """Pieces read since the last seek; a file that was just opened is expected to be read on."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        if base + offset != self._at:
            self._rest, self._run = memoryview(b""), 0
            self._coming.clear()
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not self._rest and self._at < self._entry.size:
            self._rest = memoryview(self._next())
        length = min(len(buffer), len(self._rest))
        buffer[:length] = self._rest[:length]
        self._rest = self._rest[length:]
        self._at += length
        return length

    def _next(self) -> bytes:
        """The piece at `_at`; the ones after it are asked for."""
        if not self._coming:
            self._ask(self._at, _BUFFER)
        finish, end = self._coming.popleft()
        if self._coming:
            end = self._coming[-1][1]
        ahead = min(_MOST_AHEAD, (1 << self._run) >> 1)
        self._run = min(self._run + 1, _MOST_AHEAD)
        while len(self._coming) < ahead and end < self._entry.size:
            end = self._ask(end, _PIECE)
        return finish()

    def _ask(self, start: int, length: int) -> int:
        """Begin to read a piece; answers where it ends."""
        end = min(start + length, self._entry.size)
        self._coming.append((self._source.start(self._entry, start, end - start), end))
        return end
