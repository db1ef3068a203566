"""Files that are there whole or not at all, and files of others, of which only regular ones are opened."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from typing import IO, Any, Callable, Dict, Iterator, Optional

from .failures import SourceChanged

PIECE = 256 * 1024
"""Bytes that are held of a file at a time: there are many at once."""


def write_atomically(
    path: str, data: bytes, durable: bool = True, place: Callable[[str, str], None] = os.replace
) -> None:
    """Replace a file; `durable` waits until it is on the disk, which a busy disk may take seconds for.

    `place` moves the finished file, its first argument, to its name.
    """
    temporary = "%s.%d.%d.tmp" % (path, os.getpid(), threading.get_ident())
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        place(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:  # the first error is the one to tell
            pass
        raise


def append(path: str, data: bytes) -> None:
    """Add to a file all that is given, or nothing where the disk is full. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(file).st_size
        try:
            while data:
                data = data[os.write(file, data) :]
        except OSError:
            os.ftruncate(file, before)
            raise
    finally:
        os.close(file)


def keep_last(path: str, most: int, last: int) -> None:
    """Cut a file that grows at its end to its `last` bytes if it has more than `most`. Raises OSError."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= most:
            return
        file.seek(-last, os.SEEK_END)
        data = file.read(last)
    os.truncate(path, 0)
    append(path, data)


def open_regular(path: str) -> IO[bytes]:
    """Open a file of the script to read it; anything else than a file, a pipe too, raises OSError at once."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return os.fdopen(file, "rb")


def chunks_of(file: int, start: int, length: int) -> Iterator[bytes]:
    """A stretch of an open file, piece by piece. Raises SourceChanged if it cannot be read to its end."""
    while length > 0:
        try:
            chunk = os.pread(file, min(PIECE, length), start)
        except OSError as error:  # it must not be taken for the store's
            raise SourceChanged("it cannot be read: %s" % error.strerror) from error
        if not chunk:
            raise SourceChanged("the file ended %d bytes early" % length)
        start += len(chunk)
        length -= len(chunk)
        yield chunk


def read_json(path: str) -> Optional[Dict[str, Any]]:
    """None for a file that is missing, torn, or none."""
    try:
        with open_regular(path) as file:
            value = json.load(file)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def to_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
