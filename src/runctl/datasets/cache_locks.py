"""Who writes into a cache: each process holds a lock that ends with it, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path


class Writer:
    """The folder in which one process writes.

    It is made under the cache's lock, so that nobody takes it for a dead one's before it holds its own.
    """

    def __init__(self, above: Path) -> None:
        self.pid = os.getpid()
        self.folder = above / secrets.token_hex(8)
        self.folder.mkdir()
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._count = 0

    def next_path(self) -> str:
        self._count += 1
        return f"{self.folder}/{self._count}"

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._lock)


def is_dead(folder: Path) -> bool:
    """Whether the process of this writer's folder has ended."""
    try:
        file = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
