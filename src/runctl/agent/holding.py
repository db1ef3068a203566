"""Files held open from the moment they are chosen for a snapshot: rotating them away takes nothing from us.

What is written to a file meanwhile shows in its size and modification time; then it is given up for this
snapshot. A plain file that grows, such as a log, is copied first: then it has the state of one moment.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from functools import partial
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .choosing import Known, ToSend
from .failures import OutOfTime, SourceChanged, StoreDenied
from .files import PIECE, open_regular
from .placed import Placed, ToPut
from .snapshot import Entry, key_of
from .trees import Stamp, Tree

MOST_HELD = 512
"""Files that are held open at once; of more, the others are opened when it is their turn."""
LARGEST_COPY = 16 * 1024**2
"""Bytes of a plain file that is copied before it is sent."""
_RACY_SECONDS = 0.02
"""A file that was written to so lately may be written to again without its modification time telling it:
the kernel's clock for files turns every 4 to 10 ms."""


class Held:
    """A chosen file; `why` tells what was wrong with it, None while nothing is."""

    def __init__(self, tree: Tree, chosen: ToSend, plain: bool) -> None:
        self.tree = tree
        self.chosen = chosen
        self.path = chosen.found.path
        self.stamp = Stamp(0, 0, 0, 0)
        self._plain = plain
        self._file: Optional[IO[bytes]] = None
        self._copy: Optional[IO[bytes]] = None
        self.why: Optional[str] = None

    @property
    def size(self) -> int:
        return self.stamp.size

    def open(self, folder: str) -> IO[bytes]:
        """The file as it was when it was chosen; copies lie in `folder`. Raises OSError, SourceChanged."""
        if self._copy is not None:
            return self._copy
        if self._file is None:
            self._open(folder)
        assert self._copy is not None or self._file is not None  # noqa: S101 (it was opened just now)
        return self._copy or self._file  # type: ignore[return-value]

    def _open(self, folder: str) -> None:
        found = self.chosen.found
        path = os.path.join(self.tree.root, self.path)
        age = time.time() - found.mtime_ns / 1e9
        if 0 <= age < _RACY_SECONDS:
            time.sleep(_RACY_SECONDS)
        self._file = open_regular(path)
        self.stamp = _stamp(self._file)
        if self._plain and self.stamp.size <= LARGEST_COPY and self._take_copy(folder):
            return
        if (self.stamp.size, self.stamp.mtime_ns) != (found.size, found.mtime_ns):
            raise SourceChanged("it was written to")

    def _take_copy(self, folder: str) -> bool:
        """Whether the disk has room for one: a full disk keeps nothing from being sent as it is."""
        assert self._file is not None  # noqa: S101 (opened by its only caller)
        for _ in range(5):
            self.stamp = _stamp(self._file)
            try:
                copy = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115 (see close)
            except OSError:
                return False
            try:
                self._file.seek(0)
                if not _copied(self._file, copy, self.stamp.size):
                    copy.close()
                    return False
                now = _stamp(self._file)
                if (
                    (now.size, now.mtime_ns)
                    == (self.stamp.size, self.stamp.mtime_ns)
                    == (
                        copy.tell(),
                        now.mtime_ns,
                    )
                ):
                    self._copy = copy
                    return True
            except BaseException:
                copy.close()
                raise
            copy.close()
        raise SourceChanged("it is written to all the time")

    def is_unchanged(self) -> bool:
        """Whether what was sent is the state of the moment in which it was opened."""
        if self._copy is not None or self._file is None:
            return True
        now = _stamp(self._file)
        return (now.size, now.mtime_ns) == (self.stamp.size, self.stamp.mtime_ns)

    def begin(self, folder: str) -> Tuple[IO[bytes], int]:
        """The file to be sent, and how many bytes it has. Raises OSError, SourceChanged."""
        return self.open(folder), self.size

    def end(self) -> None:
        """All of it was read. Raises SourceChanged if that is the state of no one moment."""
        unchanged = self.is_unchanged()
        self.close()
        if not unchanged:
            raise SourceChanged("it was written to while it was sent")

    def close(self) -> None:
        for file in (self._file, self._copy):
            if file is not None:
                file.close()
        self._file = self._copy = None


class Sent(NamedTuple):
    """What came of sending: bytes that the store has now, and what was given up, with why.

    `denied` says why the store does not take some of it now, empty where it does; `late` had no time.
    """

    size: int
    failed: Dict[Tuple[str, str], str]
    denied: str
    late: List[Tuple[str, str]]


def hold(items: Sequence[Held], folder: str) -> None:
    """Open as many as may be open at once; what cannot be opened is told by its `why`."""
    for item in list(items)[: _most_held()]:
        try:
            item.open(folder)
        except (OSError, SourceChanged) as error:
            item.why = _reason(error)


def send(
    store: Any,
    name: str,
    items: Sequence[Held],
    folder: str,
    came: Callable[[str, Known], None],
    is_over: Callable[[], bool],
) -> Sent:
    """Send what is held, until `is_over`. One file's trouble is its own.

    `came` is told of each file that the store has, by its tree. Raises StoreAway, OSError for the store's.
    """
    good = [item for item in items if item.why is None]
    failed = {(item.tree.name, item.path): str(item.why) for item in items if item.why is not None}

    def done(item: Held, placed: Placed) -> None:
        found = item.chosen.found
        entry = Entry(
            item.tree.name,
            item.path,
            "file",
            item.size,
            found.mode,
            max(0, item.stamp.mtime_ns),
            placed.sha256,
            placed.part,
            placed.parts,
            placed.at,
        )
        came(item.tree.name, Known(item.stamp, entry))

    to_put = [
        ToPut(
            key_of(name, item.tree.name, item.path),
            partial(item.begin, folder),
            item.end,
            _base(item.chosen.base),
        )
        for item in good
    ]
    size, denied = 0, ""
    late: List[Tuple[str, str]] = []
    for number, outcome in store.send_files(to_put, is_over):
        item = good[number]
        item.close()
        if isinstance(outcome, Placed):
            size += outcome.size
            done(item, outcome)
        else:
            failed[item.tree.name, item.path] = _reason(outcome)
            if isinstance(outcome, StoreDenied):
                denied = str(outcome)
            if isinstance(outcome, OutOfTime):
                late.append((item.tree.name, item.path))
    return Sent(size, failed, denied, late)


def _base(entry: Optional[Entry]) -> Optional[Placed]:
    if entry is None:
        return None
    return Placed(entry.at, entry.size, entry.sha256, entry.part, entry.parts)


def _copied(file: IO[bytes], copy: IO[bytes], size: int) -> bool:
    """Whether it could be written; what cannot be read raises OSError. Of a file that grows without end not
    much more than `size` bytes are read.
    """
    while copy.tell() <= size:
        chunk = file.read(PIECE)
        if not chunk:
            break
        try:
            while chunk:
                chunk = chunk[copy.write(chunk) :]
        except OSError:
            return False
    return True


def _stamp(file: IO[bytes]) -> Stamp:
    about = os.fstat(file.fileno())
    return Stamp(about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)


def _most_held() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_HELD if soft == resource.RLIM_INFINITY else max(0, min(MOST_HELD, (soft - 256) // 2))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
