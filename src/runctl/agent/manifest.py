"""What was put on a volume: a list of its files that survives a crash at any moment.

`.runctl/dataset.jsonl` is replaced whole at the end of a staging; `.runctl/dataset.journal` grows while one
goes on. A file is in one of them before it appears under its name: what is in neither, others put there.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

from .objects import OWN

FORMAT = 1


class Known(NamedTuple):
    """A file that we put there: size in bytes, ETag, modification time in nanoseconds."""

    size: int
    etag: str
    modified: int


class Manifest:
    """The files that were put on the volume whose root is `folder`; a context manager.

    `is_mine` is false while another staging of this machine works on the volume.
    """

    def __init__(self, folder: str) -> None:
        self.own = os.path.join(folder, OWN)
        self.parts = os.path.join(self.own, "parts")
        self.header: Dict[str, Any] = {}
        self.files: Dict[str, Known] = {}
        self._path = os.path.join(self.own, "dataset.jsonl")
        self._journal_path = os.path.join(self.own, "dataset.journal")
        self._journal: Any = None
        _own_folder(self.own)
        _own_folder(self.parts)
        self._lock = os.open(os.path.join(self.own, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.is_mine = _locked(self._lock)
        self._read(self._path)
        self._read(self._journal_path)

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        os.close(self._lock)

    def begin(self, location: str) -> None:
        """From now on files of this dataset come; until `complete` the volume holds no state of it."""
        whole = _ends_whole(self._journal_path)
        if self._journal is None:
            self._journal = open(self._journal_path, "ab")  # noqa: SIM115 (see close)
        self._append(([] if whole else [b"\n"]) + [_line(_header(location, None))])
        self.header = _header(location, None)

    @property
    def is_open(self) -> bool:
        """Whether something was begun that is not complete."""
        return self._journal is not None

    def put(self, files: List[Tuple[str, Known]]) -> None:
        """These are about to appear under their names."""
        self._append([_line([key, *known]) for key, known in files])
        self.files.update(files)

    def gone(self, keys: Iterable[str]) -> None:
        """These were removed."""
        gone = list(keys)
        self._append([_line([key]) for key in gone])
        for key in gone:
            self.files.pop(key, None)

    def complete(self, location: str, version: str) -> None:
        """The volume holds this state of the dataset now."""
        self.header = _header(location, version)
        temporary = self._path + ".new"
        with open(temporary, "wb") as file:
            file.write(_line(self.header))
            for key, known in sorted(self.files.items()):
                file.write(_line([key, *known]))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        sync(self.own)
        self.close()
        if os.path.exists(self._journal_path):
            os.unlink(self._journal_path)
            sync(self.own)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _append(self, lines: List[bytes]) -> None:
        self._journal.write(b"".join(lines))
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def _read(self, path: str) -> None:
        """Torn lines are those that a crash cut: nothing relied on them."""
        if not os.path.exists(path):
            return
        with open(path, "rb") as file:
            for line in file:
                value = _value(line)
                if isinstance(value, dict):
                    self.header = value
                elif isinstance(value, list) and len(value) == 4:
                    self.files[str(value[0])] = Known(int(value[1]), str(value[2]), int(value[3]))
                elif isinstance(value, list) and len(value) == 1:
                    self.files.pop(str(value[0]), None)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync(path: str) -> None:
    """Everything that was written to the file system of a path is on its disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if call is None:
            os.sync()
        elif call(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(handle)


def _own_folder(path: str) -> None:
    if os.path.islink(path):
        raise NotADirectoryError(20, "%s is a link" % path, path)
    os.makedirs(path, mode=0o755, exist_ok=True)


def _header(location: str, version: Optional[str]) -> Dict[str, Any]:
    return {"format": FORMAT, "location": location, "version": version}


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _ends_whole(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return True
