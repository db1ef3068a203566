"""The job's store as the agent uses it: the job's folder on this machine, or what `bucket_store` offers."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from typing import IO, Any, Dict, List, Optional, Tuple

from .digest import file_digest
from .files import chunks_of, write_atomically
from .imds import Metadata
from .placed import Placed

_FICLONE = 0x40049409  # linux/fs.h
Listing = List[Tuple[str, int]]


class FolderStore:
    """A local job's folder. Snapshots are copies, for a script may write over its file in place."""

    mirrors = False
    checkpoints = "committed/"
    keeps = 2
    links = True

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.moved = 0.0  # on the monotonic clock, when a file or a part of one was last copied

    def _path(self, key: str) -> str:
        path = os.path.join(self._folder, key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def put(self, key: str, data: bytes) -> None:
        write_atomically(self._path(key), data)

    def get(self, key: str, limit: int = -1) -> Optional[bytes]:
        try:
            with open(os.path.join(self._folder, key), "rb") as file:
                return file.read(limit)
        except FileNotFoundError:
            return None

    def send_file(self, at: str, file: IO[bytes], size: int, base: Optional[Placed] = None) -> Placed:  # noqa: ARG002
        """Copy the first `size` bytes of an open file into a snapshot's folder. Raises OSError."""
        target = self._path(self.checkpoints + at)
        temporary = target + ".tmp"
        try:
            self._copy(file, temporary, size)
            with open(temporary, "rb+") as copy:
                os.fsync(copy.fileno())
            digest = file_digest(temporary)
            os.replace(temporary, target)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
        return Placed(at, size, digest)

    def _copy(self, source: IO[bytes], target: str, size: int) -> None:
        """A copy that shares its blocks where the file system can."""
        with open(target, "wb") as copy:
            try:
                if sys.platform == "linux":
                    fcntl.ioctl(copy, _FICLONE, source.fileno())
                    copy.truncate(size)
                    return
            except OSError:  # it cannot: the bytes are copied
                pass
            for chunk in chunks_of(source.fileno(), 0, size):
                copy.write(chunk)
                self.moved = time.monotonic()

    def link(self, at: str, new: str) -> None:
        """The same file in another snapshot's folder: each has all of its files. Raises OSError."""
        target = self._path(self.checkpoints + new)
        if os.path.lexists(target):
            os.unlink(target)
        os.link(os.path.join(self._folder, self.checkpoints + at), target)

    def get_file(self, key: str, path: str) -> bool:
        try:
            shutil.copyfile(os.path.join(self._folder, key), path)
        except FileNotFoundError:
            return False
        return True

    def get_shared(self, key: str, path: str) -> bool:
        return self.get_file(key, path)

    def list(self, prefix: str) -> Listing:
        found = []
        for parent, _, leaves in os.walk(os.path.join(self._folder, prefix)):
            for leaf in leaves:
                path = os.path.join(parent, leaf)
                if not leaf.endswith(".tmp"):
                    found.append((os.path.relpath(path, self._folder), os.path.getsize(path)))
        return sorted(found)

    def replace(self, key: str, data: bytes, expected: Optional[bytes]) -> bool:
        if self.get(key) != expected:
            return False
        self.put(key, data)
        return True

    def create(self, key: str, data: bytes) -> bool:
        try:
            with open(self._path(key), "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def keep_only(self, names: List[str]) -> None:
        """Remove all other commits, and what agents that died left of theirs."""
        folder = os.path.join(self._folder, self.checkpoints)
        for entry in os.listdir(folder):
            if entry not in names and os.path.isdir(os.path.join(folder, entry)):
                shutil.rmtree(os.path.join(folder, entry), ignore_errors=True)


def open_store(spec: Dict[str, Any], metadata: Metadata) -> Any:
    """The store that an attempt's spec names."""
    store = spec["store"]
    if store["kind"] == "folder":
        return FolderStore(store["path"])
    from .bucket_store import BucketStore  # a local job needs none of it

    return BucketStore(
        store["bucket"], store["prefix"], store["region"], metadata, str(store.get("owner") or "")
    )
