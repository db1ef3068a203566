"""What a folder and a prefix had in common when they last met: so that what is equal is not read again.

Nothing in S3 keeps a file's time, and a checksum costs reading the file. So each pair that was seen to be
equal is remembered by two numbers of 64 bits, one for the file's state and one for the object's. What is not
remembered is compared by content: a lost memory costs time alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from array import array
from bisect import bisect_left
from collections.abc import Generator
from hashlib import blake2b
from pathlib import Path

from runctl.storage.entries import Entry

_KIND = "Q"
_AHEAD = 64
"""How many numbers may be skipped for files that changed or went."""


class Memory:
    """The pairs of one folder and one prefix; `path` is its file, which need not exist.

    Thread-safe. `save` appends what was noted to the file, so that a killed transfer is remembered up to its
    last seconds; `close` keeps only what this transfer saw.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = array(_KIND)
        self._next = 0
        self._sorted: list[array[int]] = []
        self._seen = array(_KIND)
        self._saved = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        self._known.frombytes(data[: len(data) // 8 * 8])

    def knows_file(self, key: str, size: int, modified: int) -> bool:
        """Whether the file was like this when it equalled its object."""
        return self._knows(_number(f"F{key}\0{size}\0{modified}"))

    def knows_object(self, key: str, etag: str) -> bool:
        """Whether the object was this one when it equalled its file."""
        return self._knows(_number(f"O{key}\0{etag}"))

    def recalls(self, key: str, size: int, modified: int, etag: str) -> bool:
        """Whether file and object are what they were when they were equal; then they are noted."""
        file, there = _number(f"F{key}\0{size}\0{modified}"), _number(f"O{key}\0{etag}")
        if not (self._knows(file) and self._knows(there)):
            return False
        self._seen.extend((file, there))
        return True

    def note(self, key: str, size: int, modified: int, etag: str) -> None:
        """File and object are equal now."""
        self._seen.extend((_number(f"F{key}\0{size}\0{modified}"), _number(f"O{key}\0{etag}")))

    def keep(self, entry: Entry) -> None:
        """The other side lost it: that it was there must not be forgotten."""
        self._seen.append(
            _number(f"O{entry.key}\0{entry.etag}")
            if entry.etag
            else _number(f"F{entry.key}\0{entry.size}\0{entry.modified}")
        )

    @contextlib.contextmanager
    def until_planned(self) -> Generator[None]:
        """Closes it where no plan comes of what is done meanwhile."""
        try:
            yield
        except BaseException:
            self.close(complete=False)
            raise

    def save(self) -> None:
        """Append what was noted since the last time."""
        end = len(self._seen)
        new, self._saved = self._seen[self._saved : end], end
        os.write(self._file, new.tobytes())

    def close(self, *, complete: bool) -> None:
        """`complete` says that every pair was looked at, so that all others can be forgotten."""
        if complete and (self._saved or self._seen != self._known):
            fresh = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
            with fresh.open("wb") as file:
                self._seen.tofile(file)
            fresh.replace(self._path)
        elif not complete:
            self.save()
        os.close(self._file)

    def _knows(self, number: int) -> bool:
        """Whether the number is among the known ones: mostly it is the next, for walks keep their order."""
        known, at = self._known, self._next
        if at < len(known) and known[at] == number:
            self._next = at + 1
            return True
        with contextlib.suppress(ValueError):
            self._next = known.index(number, at, at + _AHEAD) + 1
            return True
        if not self._sorted:
            self._sorted = _by_first_byte(known)
        alike = self._sorted[number >> 56]
        at = bisect_left(alike, number)
        return at < len(alike) and alike[at] == number


def memory_file(folder: Path, source: Path | str, place: str) -> Path:
    """Where the memory of this pair lies in `folder`; a text names a prefix with its endpoint."""
    whole = source.resolve() if isinstance(source, Path) else source
    name = blake2b(f"{whole}\0{place}".encode(), digest_size=12).hexdigest()
    return folder / f"{name}.known"


def _by_first_byte(numbers: array[int]) -> list[array[int]]:
    """The numbers sorted, piece by piece: a list of millions of Python's own would be ten times as big."""
    found = [array(_KIND) for _ in range(256)]
    for number in numbers:
        found[number >> 56].append(number)
    return [array(_KIND, sorted(alike)) for alike in found]


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
