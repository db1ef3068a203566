"""A big file on its way down: its bytes beside their place, and which of its parts are there.

Both files lie beside the target and survive a kill. A part is recorded after its bytes were written; what a
power cut tore is found by the proof at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import msgspec

from runctl.errors import Conflict
from runctl.storage import digests
from runctl.storage.objects import PARTIAL_PREFIX, sync

# Their names can be foretold: whoever made the folder may have put links there.
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
_RECORD = 4 + 32  # a part's number, its digest


class Header(msgspec.Struct, frozen=True):
    """Which object the parts are of, and how many bytes each but the last has."""

    etag: str
    size: int
    part_size: int
    algorithm: str


class PartialFile:
    """`header` of what is fetched now; `digests` by number of the parts that are there already.

    Raises Conflict where another process fetches the same file, OSError.
    """

    def __init__(self, target: Path, header: Header) -> None:
        self.target = target
        self.header = header
        self.digests: dict[int, bytes] = {}
        self.began_anew = False
        name = PARTIAL_PREFIX + blake2b(os.fsencode(target.name), digest_size=8).hexdigest()
        self._data_path = target.parent / f"{name}.data"
        self._record_path = target.parent / f"{name}.parts"
        self._lock = threading.Lock()
        self._record = os.open(self._record_path, _OPEN | os.O_APPEND, 0o666)
        try:
            self._claim()
            self.file = os.open(self._data_path, _OPEN, 0o666)
        except BaseException:
            os.close(self._record)
            raise
        self._go_on_or_begin()

    def is_there(self, number: int) -> bool:
        return number in self.digests

    def note(self, number: int, digest: bytes) -> None:
        """The part's bytes are in the file."""
        with self._lock:
            self.digests[number] = digest
            os.write(self._record, number.to_bytes(4) + digest.ljust(32, b"\0"))

    def begin(self, header: Header) -> None:
        """Forget all parts: another object, or a damaged one."""
        with self._lock:
            self.header = header
            self.digests = {}
            os.ftruncate(self._record, 0)
            os.write(self._record, msgspec.json.encode(header) + b"\n")
            os.ftruncate(self.file, header.size)

    @property
    def data_path(self) -> Path:
        return self._data_path

    def finish(self, modified: int, *, check: Callable[[], None] = lambda: None) -> None:
        """Give the file its name and the object's time, in nanoseconds; `check` may raise just before."""
        os.fsync(self.file)
        os.utime(self.file, ns=(modified, modified))
        check()
        self._data_path.replace(self.target)
        sync(self.target.parent)
        self._record_path.unlink(missing_ok=True)
        self.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):
            self._data_path.unlink(missing_ok=True)
            self._record_path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave what is there for the next time."""
        for descriptor in (self.file, self._record):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _claim(self) -> None:
        try:
            fcntl.flock(self._record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"{self.target} is being fetched by another process", next="wait for it to end"
            ) from None

    def _go_on_or_begin(self) -> None:
        data = os.pread(self._record, os.fstat(self._record).st_size, 0)
        line, found, records = data.partition(b"\n")
        if not found:
            self.begin(self.header)
            return
        try:
            before = msgspec.json.decode(line, type=Header)
        except msgspec.DecodeError:
            before = None
        if before != self.header or os.fstat(self.file).st_size != self.header.size:
            self.began_anew = True
            self.begin(self.header)
            return
        length = digests.length(self.header.algorithm) if self.header.algorithm else 0
        whole = len(records) // _RECORD * _RECORD
        for start in range(0, whole, _RECORD):
            record = records[start : start + _RECORD]
            self.digests[int.from_bytes(record[:4])] = record[4 : 4 + length]
        os.ftruncate(self._record, len(line) + 1 + whole)


def write_at(file: int, data: bytes | memoryview, start: int) -> int:
    """Write all of it at its place; answers how many bytes that were. Raises OSError."""
    done = 0
    view = memoryview(data)
    while done < len(data):
        done += os.pwrite(file, view[done:], start + done)
    return done
