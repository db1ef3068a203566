"""What the script prints: read in looks of bounded size, and kept on the disk within bounds."""

from __future__ import annotations

import os
import stat
import sys
import threading
from typing import Optional, Sequence, Tuple

from .progress import StepReader

LOOK_BYTES = 1024 * 1024
"""The most that one look reads; what is further behind is passed over, for only the newest step counts."""
MOST_KEPT = 4 * 1024**3
NEWEST_KEPT = 2 * 1024**3
FIRST_KEPT = 64 * 1024**2
SHORT_OF_DISK = 1024**3
"""Where less than this is free, or a twentieth of the disk, checkpoints need it more than old output does."""
MOST_KEPT_IF_SHORT = 256 * 1024**2
NEWEST_KEPT_IF_SHORT = 64 * 1024**2
_BLOCK = 4096
_PUNCH = 0x01 | 0x02  # linux/falloc.h: FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE


class Output:
    """The log of a running script. Thread-safe; it is held open, so that nobody can take it away.

    `hole` is the part that was left out, `(first, end)` in bytes, empty at first. It begins with a line that
    says so, and `zeros` is the rest of it: what was given back to the disk.
    """

    def __init__(self, path: str, zeros: Optional[Sequence[int]] = None) -> None:
        """`zeros` are those that an agent of this very attempt made before."""
        self.steps = StepReader()
        self.hole: Tuple[int, int] = (zeros[0] - _BLOCK, zeros[1]) if zeros else (0, 0)
        self._path = path
        self._file: Optional[int] = None
        self._looked = 0
        self._lock = threading.Lock()

    def size(self) -> int:
        """In bytes, with what was left out; 0 before there is a log."""
        file = self._opened()
        return 0 if file is None else os.fstat(file).st_size

    def read(self, start: int, size: int) -> bytes:
        """Raises OSError where the disk fails."""
        file = self._opened()
        return b"" if file is None else os.pread(file, size, start)

    def look(self, end: bool = False) -> None:
        """Read steps from what is new, at most LOOK_BYTES of it, twice that at the first look.

        `end` says that nothing more comes.
        """
        with self._lock:
            size = self.size()
            self._looked = min(self._looked, size)  # somebody may have cut it
            if self._looked == 0:
                self._feed(min(size, LOOK_BYTES))
            if size - self._looked > LOOK_BYTES:
                self.steps.skip()
                self._looked = size - LOOK_BYTES
            self._feed(size - self._looked)
            if end:
                self.steps.feed(b"\n")

    def _feed(self, size: int) -> None:
        data = self.read(self._looked, size) if size else b""
        self._looked += len(data)
        if data:
            self.steps.feed(data)

    def keep_within_bounds(self) -> bool:
        """Give the middle of what is too much back to the disk; whether that was done. Raises OSError.

        The log keeps its length: a reader of it finds a line that says what was left out, then the zeros.
        """
        file = self._opened()
        if file is None:
            return False
        size = os.fstat(file).st_size
        disk = os.fstatvfs(file)
        short = disk.f_bavail * disk.f_frsize < max(SHORT_OF_DISK, disk.f_blocks * disk.f_frsize // 20)
        most, newest = (MOST_KEPT_IF_SHORT, NEWEST_KEPT_IF_SHORT) if short else (MOST_KEPT, NEWEST_KEPT)
        first = self.hole[0] or min(FIRST_KEPT, most // 2) // _BLOCK * _BLOCK
        end = (size - newest) // _BLOCK * _BLOCK
        if size - (self.hole[1] - self.hole[0]) <= most or end <= max(first + _BLOCK, self.hole[1]):
            return False
        before, self.hole = self.hole, (first, end)  # said first: nobody takes the zeros for output
        if not _give_back(file, first + _BLOCK, end - first - _BLOCK):
            self.hole = before
            return False
        os.pwrite(file, left_out(end - first).ljust(_BLOCK - 1) + b"\n", first)
        return True

    @property
    def zeros(self) -> Optional[Tuple[int, int]]:
        first, end = self.hole
        return (first + _BLOCK, end) if end else None

    def _opened(self) -> Optional[int]:
        """Only a regular file: a pipe in its place would hold up whoever opens it."""
        if self._file is None:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:  # no log yet
                return None
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                return None
            self._file = file
        return self._file


def left_out(size: int) -> bytes:
    """The line that stands in a log where something is missing."""
    return b"\n[runctl: %d bytes of output are left out here]\n" % size


def _give_back(file: int, start: int, size: int) -> bool:
    """Whether this file system could."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    punch = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    return punch is not None and punch(file, _PUNCH, ctypes.c_int64(start), ctypes.c_int64(size)) == 0
