"""The files of a folder in the order in which S3 lists keys, and what cannot travel, with the reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from runctl.agent.names import unfit
from runctl.errors import NotFound, TransferError
from runctl.quoting import quoted
from runctl.storage.entries import Entry
from runctl.storage.filters import Filters
from runctl.storage.objects import PARTIAL_PREFIX
from runctl.storage.secret_files import names

LONGEST_KEY = 1024
"""Bytes of UTF-8: S3 user guide, "Creating object key names"."""


class LeftOut(msgspec.Struct, frozen=True):
    """A file or object that a transfer did not carry, and why."""

    name: str
    why: str


class Walk:
    """The files under `root`, once, in the order of their keys' UTF-8 bytes.

    `left_out` fills while the walk goes on: links out of the folder or to folders, sockets and devices, names
    that are no key, and files that look like credentials unless a pattern in `secrets` names them (None: no
    file is judged by its name). `partials` are what transfers left on their way.
    """

    def __init__(self, root: Path, filters: Filters, *, secrets: Sequence[str] | None = ()) -> None:
        if not root.is_dir():
            raise NotFound(f"There is no folder {root}")
        self.root = root
        self.left_out: list[LeftOut] = []
        self.partials: list[Path] = []
        self._hidden: set[str] = set()
        self._filters = filters
        self._secrets = secrets
        self._real_root: Path | None = None
        self._base = os.path.abspath(root) + "/"  # noqa: PTH100 (a prefix for texts)

    def __iter__(self) -> Iterator[Entry]:
        return self._folder(os.fspath(self.root), "")

    def hides(self, key: str) -> bool:
        """Whether what was left out so far stands in the place of this key, or of a folder of it."""
        if not self._hidden:
            return False
        return (
            key in self._hidden
            or "" in self._hidden
            or any(key[:end] in self._hidden for end, letter in enumerate(key) if letter == "/")
        )

    def _folder(self, path: str, base: str) -> Iterator[Entry]:
        try:
            with os.scandir(path) as scan:
                found = sorted(scan, key=_order)
        except OSError as error:
            self._hidden.add(base.rstrip("/"))
            self.left_out.append(LeftOut(printable(base or path), _text(error)))
            return
        for item in found:
            key = base + item.name
            if item.is_dir(follow_symlinks=False):
                if not self._filters.leaves_out_folder(key):
                    yield from self._folder(item.path, key + "/")
            elif item.name.startswith(PARTIAL_PREFIX):
                self.partials.append(Path(item.path))
            elif self._filters.wants(key):
                entry = self._file(item, key)
                if entry is not None:
                    yield entry

    def _file(self, item: os.DirEntry[str], key: str) -> Entry | None:
        try:
            status = item.stat()
        except OSError as error:
            self._leave_out(key, "a link that leads nowhere" if item.is_symlink() else _text(error))
            return None
        why = self._why_not(item, key, status.st_mode)
        if why:
            self._leave_out(key, why)
            return None
        return Entry(key, status.st_size, status.st_mtime_ns)

    def _why_not(self, item: os.DirEntry[str], key: str, mode: int) -> str | None:
        if stat.S_ISDIR(mode):
            return "a link to a folder is not followed"
        if not stat.S_ISREG(mode):
            return "neither a file nor a folder"
        if item.is_symlink() and not self._is_inside(item.path):
            return f"a link out of {self.root}"
        why = no_key(key)
        if why or self._secrets is None:
            return why
        return secret(self._base + key, key, self._secrets) or (
            secret(os.path.realpath(item.path), key, self._secrets) if item.is_symlink() else None
        )

    def _is_inside(self, path: str) -> bool:
        if self._real_root is None:
            self._real_root = self.root.resolve()
        return Path(path).resolve().is_relative_to(self._real_root)

    def _leave_out(self, key: str, why: str) -> None:
        self._hidden.add(key)
        self.left_out.append(LeftOut(printable(key), why))


def no_key(name: str) -> str | None:
    """Why no object can have this name, or none that runctl would carry; None for a good one."""
    if why := unfit(name):
        return why
    if (length := len(name.encode())) > LONGEST_KEY:
        return f"a name of {length} bytes: a key has at most {LONGEST_KEY}"
    return None


def secret(path: str, key: str, allowed: Sequence[str]) -> str | None:
    """Why the file at the absolute `path` must not be sent: it looks like credentials, and is not allowed."""
    kind = names.by_name(key) or names.by_place(path)
    if kind is None or any(_names(pattern, key) for pattern in allowed):
        return None
    name = key.rpartition("/")[2]
    word = quoted(name)
    return f"it looks like credentials by its name ({kind}); to send it on purpose: --allow-secret {word}"


def one_file(path: Path) -> Entry:
    """A single file as an entry with its name as key. Raises NotFound, TransferError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NotFound(f"There is no {path}") from None
    except OSError as error:
        raise TransferError(f"Cannot read {path}", why=_text(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise TransferError(f"{path} is no file", why="folders go by their own name, devices not at all")
    return Entry(path.name, status.st_size, status.st_mtime_ns)


def printable(name: str) -> str:
    """A name that can be shown on one line of a terminal."""
    return name if name.isprintable() else name.encode("unicode_escape", "surrogatepass").decode()


def _names(pattern: str, key: str) -> bool:
    return fnmatchcase(key, pattern) or fnmatchcase(key.rpartition("/")[2], pattern)


def _order(item: os.DirEntry[str]) -> bytes:
    name = os.fsencode(item.name)
    return name + b"/" if item.is_dir(follow_symlinks=False) else name


def _text(error: OSError) -> str:
    return error.strerror or str(error)
