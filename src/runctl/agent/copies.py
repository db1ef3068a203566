"""Copies of files on this machine that share their blocks with the original where the file system can."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections import deque
from typing import Callable, Deque, Iterator, Sequence, Tuple, TypeVar

from .files import chunks_of

_FICLONE = 0x40049409  # linux/fs.h
_AT_ONCE = 8
"""Files that are copied at once: each waits for the disk."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def copy(file: int, size: int, target: str, moved: Callable[[], None], durable: bool) -> str:
    """Copy the first `size` bytes of an open file to a path; returns their SHA-256, as the copy has them.

    Stretches of zeros take no room in the copy. `moved` is called now and then; with `durable` the copy is on
    the disk then. Raises SourceChanged for what cannot be read, OSError for what cannot be written; then
    there is no copy.
    """
    digest = hashlib.sha256()
    try:
        with open(target, "wb+") as made:
            if _share(file, made.fileno()):
                os.ftruncate(made.fileno(), size)
                for chunk in chunks_of(made.fileno(), 0, size):
                    digest.update(chunk)
                    moved()
            else:
                for chunk in chunks_of(file, 0, size):
                    digest.update(chunk)
                    if chunk.count(0) == len(chunk):
                        made.seek(len(chunk), os.SEEK_CUR)
                    else:
                        made.write(chunk)
                    moved()
                made.truncate(size)
            made.flush()
            if durable:
                os.fsync(made.fileno())
    except BaseException:
        unlink(target)
        raise
    return digest.hexdigest()


def _share(file: int, made: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(made, _FICLONE, file)
    except OSError:  # it cannot: the bytes are copied
        return False
    return True


def unlink(path: str) -> None:
    """Remove what lies there, if something does."""
    try:
        os.unlink(path)
    except OSError:  # there is none
        pass


def at_once(do: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[Tuple[int, _Result]]:
    """Do something with several items at once: each one's index and result, in order, or what it raises."""
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting: Deque[Tuple[int, "Future[_Result]"]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, "store") as pool:
        try:
            for number, item in enumerate(items):
                waiting.append((number, pool.submit(do, item)))
                if len(waiting) > 2 * _AT_ONCE:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
