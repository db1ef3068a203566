"""A file that comes in pieces, and how any file gets its name: whole, with its rights, time and owner."""

from __future__ import annotations

import errno
import json
import os
import threading
from typing import Any, List, Optional, Tuple

from .parcel import Slice
from .proof import Proof, proves_file
from .tree import PARTS, give_to_owner_of, partial_name, partial_of


class Growing:
    """A file that comes in pieces, in any order. What has come is on the disk before it is noted."""

    def __init__(
        self,
        target: str,
        about: Any,
        done: List[Any],
        rights: Tuple[int, int],
        proof: Optional[Proof] = None,
    ) -> None:
        """Raises OSError; then nothing of a file that is new is left."""
        folder = os.path.dirname(target)
        name = partial_name(about[0], about[1], about[2])
        self._target, self._about, self._rights, self._proof = target, about, rights, proof
        self._path = os.path.join(folder, name)
        self._lock = threading.Lock()
        self._dropped = False
        self._writers = 0
        self._have = sum(int(piece[1]) for piece in done)
        if done:
            known = {piece for found in partial_of(folder, name + PARTS) for piece in found.done}
            if not {(int(piece[0]), int(piece[1])) for piece in done} <= known:
                raise OSError("what had come of it is gone")
        # The name can be foretold: no link that lies there is followed.
        anew = os.O_CREAT | os.O_NOFOLLOW | (0 if done else os.O_TRUNC)
        self._file = os.open(self._path, os.O_RDWR | anew, 0o600)
        self._notes: Optional[Any] = None
        try:
            notes = os.open(self._path + PARTS, os.O_WRONLY | os.O_APPEND | anew, 0o666)
            self._notes = open(notes, "ab" if done else "wb", buffering=0)  # noqa: SIM115
            if not done:
                told = {"name": os.path.basename(about[0]), "size": about[1], "modified": about[2]}
                self._note(json.dumps(told))
            elif not _ends_in_line(self._path + PARTS):
                self._note("")
        except OSError:
            self._close()
            if not done:
                self._unlink()
            raise

    def add(self, item: Slice, data: memoryview, checksum: str) -> bool:
        """Write a piece; True for the last. Raises OSError."""
        with self._lock:
            if self._dropped:
                return False
            self._writers += 1
        try:
            at = item.offset
            while data:
                count = os.pwrite(self._file, data, at)
                at, data = at + count, data[count:]
            os.fsync(self._file)
            with self._lock:
                if self._dropped:
                    return False
                self._note(json.dumps([item.offset, item.length, checksum]))
                self._have += item.length
                return self._have == self._about[1]
        finally:
            with self._lock:
                self._writers -= 1
                if self._dropped:
                    self._close()

    def finish(self) -> bool:
        """Give it its name; False where it is not what S3 has. Raises OSError where a piece is missing."""
        with self._lock:
            size = os.fstat(self._file).st_size
            if size != self._about[1] or self._have != size:
                raise OSError("%d of its %d bytes are there" % (self._have, self._about[1]))
            if self._proof is not None and not proves_file(self._proof, self._file, size):
                return False
            self._close()
            finish(self._path, self._target, self._about, self._rights)
            unlink(self._path + PARTS)
            sync(os.path.dirname(self._target))
            return True

    def leave(self) -> None:
        """Keep what has come for the next time."""
        with self._lock:
            self._dropped = True
            self._close()

    def drop(self) -> None:
        """Keep nothing of it."""
        with self._lock:
            self._dropped = True
            self._close()
            self._unlink()

    def _note(self, line: str) -> None:
        if self._notes is not None:
            data = line.encode() + b"\n"
            if self._notes.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._notes.fileno())

    def _close(self) -> None:
        """Whoever writes still does so to this file, and closes it: its number may be another's then."""
        if self._file >= 0 and not self._writers:
            if self._notes is not None:
                self._notes.close()
            os.close(self._file)
            self._notes, self._file = None, -1

    def _unlink(self) -> None:
        unlink(self._path)
        unlink(self._path + PARTS)


def finish(temporary: str, target: str, about: Any, rights: Tuple[int, int]) -> None:
    """Rights, time, owner, name."""
    os.chmod(temporary, rights[1] if about[3] else rights[0])
    give_to_owner_of(os.path.dirname(target), temporary)
    os.utime(temporary, ns=(about[2], about[2]))
    os.replace(temporary, target)


def _ends_in_line(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read()[-1:] == b"\n"


def sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # it is gone already
        pass
