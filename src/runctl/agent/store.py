"""The job's store as the agent uses it: the job's folder on this machine, or what `bucket_store` offers."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from .copies import at_once, copy, unlink
from .failures import OutOfTime, SourceChanged
from .files import open_regular, write_atomically
from .imds import Metadata
from .placed import CHANGED, MISSING, Fault, Outcome, Placed, ToFetch, ToPut

_SENDING = ".sending-"
Listing = List[Tuple[str, int]]


class FolderStore:
    """A local job's folder. Snapshots are copies, for a script may write over its file in place."""

    mirrors = False
    checkpoints = "committed/"
    keeps = 2
    links = True
    """Whether `link` gives a file of a snapshot a place in a later one."""

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

    def send_files(
        self, items: Sequence[ToPut], is_over: Callable[[], bool] = lambda: False
    ) -> Iterator[Outcome]:
        """Copy files to places below `checkpoints`; what comes of each, in their order.

        What has not changed since its base becomes a link to it. The trouble of reading a file (OSError,
        SourceChanged) is its own. Once `is_over`, what is not there yet is broken off: OutOfTime. Raises
        OSError where the copies cannot be written.
        """
        return at_once(partial(self._send, is_over), items)

    def _send(self, is_over: Callable[[], bool], item: ToPut) -> Union[Placed, Exception]:
        def note() -> None:
            self._note()
            if is_over():
                raise OutOfTime("there was no time left to send it")

        try:
            file, size = item.open()
        except (OSError, SourceChanged) as error:
            return error
        key = self.checkpoints + item.at
        came, target = self._beside(key), self._path(key)
        try:
            try:
                note()
                digest = copy(file.fileno(), size, came, note, durable=True)
                item.done()
            except (SourceChanged, OutOfTime) as error:
                return error
            base = item.base
            if base is not None and (base.size, base.sha256) == (size, digest) and base.at != item.at:
                self._link(base.at, target)
            else:
                os.replace(came, target)
        finally:
            unlink(came)
        return Placed(item.at, size, digest)

    def fetch_files(self, items: Sequence[ToFetch]) -> Optional[Fault]:
        """Copy files from below `checkpoints`; None once all is there and proven, else what is wrong.

        Raises OSError.
        """
        came = at_once(self._fetch, items)
        return next((Fault(number, why) for number, why in came if why), None)

    def _fetch(self, item: ToFetch) -> str:
        placed = item.placed
        try:
            with open_regular(os.path.join(self._folder, self.checkpoints, placed.at)) as file:
                size = os.fstat(file.fileno()).st_size
                if size != placed.size:
                    return CHANGED
                digest = copy(file.fileno(), size, item.path, self._note, durable=False)
        except FileNotFoundError:
            return MISSING
        return "" if digest == placed.sha256 else CHANGED

    def link(self, at: str, new: str) -> None:
        """The same file in another snapshot's folder: each has all of its files. Raises OSError."""
        self._link(at, self._path(self.checkpoints + new))

    def _link(self, at: str, target: str) -> None:
        """Where the file system has no links, or no more of this file, it is a copy."""
        lies, came = os.path.join(self._folder, self.checkpoints, at), self._beside(target)
        try:
            try:
                os.link(lies, came)
            except OSError:
                with open_regular(lies) as file:
                    copy(file.fileno(), os.fstat(file.fileno()).st_size, came, self._note, durable=True)
            os.replace(came, target)
        finally:
            unlink(came)

    def _beside(self, key: str) -> str:
        """A path in the folder of a key that nothing else has; what is left there goes with the snapshot."""
        return os.path.join(os.path.dirname(self._path(key)), _SENDING + os.urandom(8).hex())

    def _note(self) -> None:
        self.moved = time.monotonic()

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
                if not leaf.endswith(".tmp") and not leaf.startswith(_SENDING):
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
        store["bucket"],
        store["prefix"],
        store["region"],
        metadata,
        str(store.get("owner") or ""),
        str(store.get("host") or ""),
    )
