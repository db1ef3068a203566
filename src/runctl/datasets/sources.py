"""Where the bytes of a dataset come from: a folder, S3, or a cache before S3. One way to read them all."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Protocol

from runctl.datasets.cache import LocalCache, read_at
from runctl.datasets.cache_folders import Lease
from runctl.datasets.direct import PIECE, DirectS3
from runctl.datasets.items import Item
from runctl.datasets.packs import CRC, Pack
from runctl.errors import NotFound, ValidationError
from runctl.storage.entries import Entry
from runctl.storage.partial import write_at

_OPEN = 64
"""Files that a source keeps open, so that a window of a shard costs one system call."""


class Source(Protocol):
    """Reads ranges of a dataset's files. Thread-safe, and usable in forked processes.

    `start` begins to read and answers at once; what it answers waits for the bytes, and raises what went
    wrong: NotFound, Conflict where the file is not the one that was listed, CloudError, OSError.
    `folder` is where the files lie under their names. Raises ValidationError where they lie nowhere.
    """

    def start(self, entry: Entry, start: int, length: int) -> Callable[[], bytes]: ...

    def folder(self, entries: tuple[Entry, ...], version: str) -> Path: ...

    def close(self) -> None: ...


class Folder:
    """Files of a folder that is there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files = _OpenFiles()

    def start(self, entry: Entry, start: int, length: int) -> Callable[[], bytes]:
        return partial(self._read, entry, start, length)

    def folder(self, entries: tuple[Entry, ...], version: str) -> Path:  # noqa: ARG002 (all of it is there)
        return self.root

    def close(self) -> None:
        self._files.close()

    def __reduce__(self) -> tuple[object, ...]:
        return (Folder, (self.root,))

    def _read(self, entry: Entry, start: int, length: int) -> bytes:
        if length == entry.size:
            with self._open(entry.key) as file:
                return read_at(file.number, start, length)
        file = self._files.get(entry.key) or self._files.keep(entry.key, self._open(entry.key))
        return read_at(file.number, start, length)

    def _open(self, key: str) -> _OpenFile:
        try:
            return _OpenFile(os.open(f"{self.root}/{key}", os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            raise NotFound(f"There is no {key}", why=f"in {self.root}") from None


class Direct:
    """Objects of a prefix, each time from S3."""

    def __init__(self, remote: DirectS3) -> None:
        self.remote = remote

    def start(self, entry: Entry, start: int, length: int) -> Callable[[], bytes]:
        return self.remote.start(entry, start, length)

    def folder(self, entries: tuple[Entry, ...], version: str) -> Path:  # noqa: ARG002
        raise ValidationError(
            "A dataset that is streamed lies in no folder",
            why="its files are only in S3",
            next='open it with strategy="cache", or have it on a volume: runctl data stage',
        )

    def close(self) -> None:
        self.remote.close()


class Cached:
    """Objects of a prefix, from a cache; what it does not hold is fetched whole, proven and kept there.

    `verify` reads what the cache holds against its checksum each time.
    """

    def __init__(self, cache: LocalCache, remote: DirectS3, *, verify: bool = False) -> None:
        self.cache, self.remote, self.verify = cache, remote, verify
        self._place = remote.place
        self._files = _OpenFiles()
        self._coming: dict[str, Future[_OpenFile | None]] = {}
        self._lock = threading.Lock()
        self._leases: list[Lease] = []

    def __reduce__(self) -> tuple[object, ...]:
        return (_cached, (self.cache, self.remote, self.verify))

    def start(self, entry: Entry, start: int, length: int) -> Callable[[], bytes]:
        if self._files.get(entry.key) or self.cache.holds(self._item(entry)):
            return partial(self._read, entry, start, length)
        if _is_small(entry, length):
            return self.remote.submit(partial(self._read, entry, start, length)).result
        return partial(self._window, self.begin(entry), entry, start, length)

    def folder(self, entries: tuple[Entry, ...], version: str) -> Path:
        items = [(entry.key, self._item(entry)) for entry in entries]
        if (total := sum(entry.size for entry in entries)) > self.cache.max_bytes:
            raise ValidationError(
                "The dataset does not fit into the cache",
                why=f"it has {total} bytes, and the cache may hold {self.cache.max_bytes}",
                next="give the cache more room, or read the dataset without asking for a folder",
            )
        by_name = {entry.key: entry for entry in entries}
        for fetched in [self.remote.submit(partial(self._have, entry)) for entry in entries]:
            fetched.result()
        lease = self.cache.folder(
            f"{self.remote.place}/{self.remote.prefix}\0{version}",
            items,
            lambda item: self._have(by_name[item.key.removeprefix(self._above())]),
        )
        self._leases.append(lease)
        return lease.path

    def close(self) -> None:
        self._files.close()
        for lease in self._leases:
            lease.close()
        self.remote.close()

    def _above(self) -> str:
        return f"{self.remote.prefix}/" if self.remote.prefix else ""

    def _item(self, entry: Entry) -> Item:
        crc = entry.crc if isinstance(entry, Pack) else ""
        return Item(self._place, self._above() + entry.key, entry.etag, entry.size, crc)

    def _read(self, entry: Entry, start: int, length: int) -> bytes:
        if _is_small(entry, length):
            return self._small(entry)
        file = self._files.get(entry.key)
        if file is None:
            return self._window(self.begin(entry), entry, start, length)
        return read_at(file.number, start, length)

    def _window(self, fetched: Future[_OpenFile | None], entry: Entry, start: int, length: int) -> bytes:
        file = fetched.result()
        if file is None:  # there was no room for it
            return self.remote.read(entry, start, length)
        return read_at(file.number, start, length)

    def _small(self, entry: Entry) -> bytes:
        item = self._item(entry)
        found = self.cache.read(item, verify=self.verify)
        if found is not None:
            return found
        data = self.remote.read(entry)
        digest = entry.etag and hashlib.md5(data, usedforsecurity=False).hexdigest()
        file = self.cache.add(
            item,
            lambda file: write_at(file, data, 0),
            known=lambda: digest == entry.etag,
            proven=partial(self.remote.proves, entry),
        )
        if file is not None:
            os.close(file)
        return data

    def begin(self, entry: Entry) -> Future[_OpenFile | None]:
        """Have a big object fetched once, however many windows of it are asked for."""
        with self._lock:
            coming = self._coming.get(entry.key)
            if coming is None or coming.done():
                coming = self._coming[entry.key] = self.remote.submit(partial(self._open, entry))
            return coming

    def _open(self, entry: Entry) -> _OpenFile | None:
        item = self._item(entry)
        found = self.cache.find(item, verify=self.verify)
        if found is None:
            with self.cache.alone(item):
                found = self.cache.find(item, verify=self.verify)
                if found is None:
                    found = self._fetch(item, entry)
        return None if found is None else self._files.keep(entry.key, _OpenFile(found))

    def _fetch(self, item: Item, entry: Entry) -> int | None:
        """Proven while it comes, where S3 or an index has a CRC of the whole; else it is read again."""
        algorithm, expected = (CRC, item.crc) if item.crc else self.remote.crc(entry)
        came = ""

        def fill(file: int) -> int:
            nonlocal came
            size, came = self.remote.fill(entry, file, algorithm)
            return size

        return self.cache.add(
            item,
            fill,
            known=lambda: bool(expected) and came == expected,
            proven=lambda path: not item.crc and self.remote.proves(entry, path),
        )

    def _have(self, entry: Entry) -> None:
        if self.cache.holds(self._item(entry)):
            return
        if _is_small(entry, entry.size):
            self._small(entry)
        else:
            self._open(entry)


def _is_small(entry: Entry, length: int) -> bool:
    """Whether it is fetched by whoever asks: two at once cost less than waiting for each other. Not packs."""
    return length == entry.size and length <= PIECE and not isinstance(entry, Pack)


class _OpenFile:
    """A descriptor that is closed with its last user."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> _OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        self.__exit__()


class _OpenFiles:
    """The last files that were read from, open."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()

    def get(self, key: str) -> _OpenFile | None:
        return self._files.get(key)

    def keep(self, key: str, file: _OpenFile) -> _OpenFile:
        kept = self._files.setdefault(key, file)
        while len(self._files) > _OPEN:
            try:
                self._files.popitem(last=False)
            except KeyError:  # another thread was faster
                break
        return kept

    def close(self) -> None:
        self._files.clear()


def _cached(cache: LocalCache, remote: DirectS3, verify: bool) -> Cached:
    return Cached(cache, remote, verify=verify)
