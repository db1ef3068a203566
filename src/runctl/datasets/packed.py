"""Reading a packed dataset: ranges of packs, from wherever the packs lie."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from runctl.datasets.packs import Index, Pack, PackedFile, Torn, spans
from runctl.datasets.sources import Cached, Source
from runctl.errors import ValidationError
from runctl.storage.entries import Entry


class Packed:
    """The files of packs that `inner` reads. A file that is read whole is compared with its checksum, unless
    the packs come from a cache, which has proven them.
    """

    def __init__(self, inner: Source, packs: tuple[Pack, ...]) -> None:
        self.inner, self.packs = inner, packs
        self._proven = isinstance(inner, Cached)

    def start(self, entry: Entry, start: int, length: int) -> Callable[[], bytes]:
        assert isinstance(entry, PackedFile)  # noqa: S101
        parts = [
            self.inner.start(self.packs[pack], at, size)
            for pack, at, size in spans(self.packs, entry, start, length)
        ]
        if not self._proven and length == entry.size:
            return lambda: _checked(entry, _joined(parts))
        return parts[0] if len(parts) == 1 else lambda: _joined(parts)

    def folder(self, entries: tuple[Entry, ...], version: str) -> Path:  # noqa: ARG002
        raise ValidationError(
            "A packed dataset lies in no folder",
            why="its files are slices of packs",
            next="read it with `dataset.read` or `dataset.open`, or open the files that it was packed from",
        )

    def ahead(self, number: int) -> None:
        """Have a pack fetched, if there is somewhere to keep it."""
        if isinstance(self.inner, Cached) and number < len(self.packs):
            self.inner.begin(self.packs[number])

    def has_room(self, count: int) -> bool:
        """Whether so many packs can be kept at once."""
        largest = max((pack.size for pack in self.packs), default=0)
        return isinstance(self.inner, Cached) and self.inner.cache.max_bytes >= count * largest

    def close(self) -> None:
        self.inner.close()


def found_at(index: Index, there: Iterable[Entry], place: str) -> tuple[Pack, ...]:
    """The index's packs as they lie there, with their ETags. Raises Torn where one is missing or another."""
    by_name = {entry.key: entry for entry in there}
    packs: list[Pack] = []
    for pack in index.packs:
        found = by_name.get(pack.key)
        if found is None or found.size != pack.size:
            fault = "is missing" if found is None else f"has {found.size} of {pack.size} bytes"
            raise Torn(
                f"The packed dataset at {place} is not whole",
                why=f"{pack.key} {fault}",
                next="copy it anew, or write it anew: runctl data pack SRC DST",
            )
        packs.append(Pack(pack.key, pack.size, found.modified, found.etag, pack.crc))
    return tuple(packs)


def _joined(parts: list[Callable[[], bytes]]) -> bytes:
    return parts[0]() if len(parts) == 1 else b"".join(part() for part in parts)


def _checked(file: PackedFile, data: bytes) -> bytes:
    if zlib.crc32(data) != file.crc:
        raise Torn(
            f"{file.key} is damaged in its pack",
            why="its bytes are not those of its checksum",
            next="copy the pack anew, or write the set anew: runctl data pack SRC DST",
        )
    return data
