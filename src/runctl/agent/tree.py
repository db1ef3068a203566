"""The files below a folder: which there are, which cannot travel, and where one may be written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .files import open_regular
from .names import unfit
from .walk import each

PARTIAL = ".runctl-partial-"
PARTS = ".parts"
_OURS = re.compile(re.escape(PARTIAL) + "[0-9a-f]{32}")
LONGEST_NAME = 255
_CHUNK = 4 * 1024 * 1024
_FORGOTTEN = 3600.0  # seconds after which a partial file without a record is nobody's


class Entry(NamedTuple):
    """A file by its key, `/` between parts; size in bytes, `modified` in nanoseconds since 1970."""

    key: str
    size: int
    modified: int
    executable: bool
    sha256: str


class Partial(NamedTuple):
    """A file that has come in part: `path` is its own key, `done` offsets and lengths."""

    path: str
    key: str
    size: int
    modified: int
    done: List[Tuple[int, int]]


class Listing(NamedTuple):
    """What lies at a path: `kind` is folder, file or none. A file has its name as its key."""

    kind: str
    files: List[Entry]
    left_out: List[Tuple[str, str]]
    partials: List[Partial]


class Refused(Exception):
    """A name that would leave its folder, or cannot be a file's."""


def name_fault(key: str) -> str:
    """Why a key cannot be a file's name in a folder; empty where it can."""
    fault = unfit(key)
    if fault:
        return fault
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "its name has an empty part, '.' or '..'"
    if any(len(part.encode()) > LONGEST_NAME for part in parts):
        return "a part of its name is longer than 255 bytes"
    if parts[-1].startswith(PARTIAL):
        return "its name is one of ours for files on their way"
    return ""


def listing(path: str, only: Optional[str] = None, checksum: bool = False) -> Listing:
    """What lies at `path`; with `only`, no more than the file of this name in it. Raises OSError."""
    if os.path.isdir(path):
        files: List[Entry] = []
        left_out: List[Tuple[str, str]] = []
        partials: List[Partial] = []
        for key, trouble in _one(path, only) if only is not None else _below(path):
            if os.path.basename(key).startswith(PARTIAL):
                partials.extend(partial_of(path, key))
                continue
            fault = trouble or name_fault(key)
            entry = None if fault else _entry(os.path.join(path, key), key, checksum)
            if entry is not None:
                files.append(entry)
            else:
                left_out.append((_printable(key), fault or "it cannot be read"))
        return Listing("folder", sorted(files), sorted(left_out), partials)
    if os.path.isfile(path):
        name = os.path.basename(path)
        entry = _entry(path, name, checksum)
        found = [] if entry is None else [entry]
        left = [] if entry else [(name, "it cannot be read")]
        return Listing("file", found, left, _partials_beside(path))
    if os.path.lexists(path):
        return Listing("other", [], [(_printable(path), "it is neither a file nor a folder")], [])
    return Listing("none", [], [], _partials_beside(path))


def place(root: str, key: str, known: Dict[str, str]) -> str:
    """Where a key lies below `root`, whose folders are made. Raises Refused, OSError.

    `known` remembers the folders that were looked at.
    """
    fault = name_fault(key)
    if fault:
        raise Refused(fault)
    folder, _, name = key.rpartition("/")
    if folder not in known:
        path = os.path.join(root, folder) if folder else root
        real, top = os.path.realpath(path), os.path.realpath(root)
        if real != top and not real.startswith(top.rstrip("/") + "/"):
            raise Refused("a link leads it out of %s" % root)
        make_folders(path)
        known[folder] = path
    return os.path.join(known[folder], name)


def partial_name(key: str, size: int, modified: int) -> str:
    """The name under which a file of this very state is on its way."""
    text = json.dumps([os.path.basename(key), size, modified]).encode()
    return PARTIAL + hashlib.sha256(text).hexdigest()[:32]


def give_to_owner_of(folder: str, path: str) -> None:
    """What root writes belongs to whom the folder belongs to."""
    if os.geteuid() == 0:
        about = os.stat(folder)
        os.lchown(path, about.st_uid, about.st_gid)


def make_folders(path: str) -> None:
    """Make a folder and those above it, each for the owner of the one that it lies in. Raises OSError."""
    missing: List[str] = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
            give_to_owner_of(os.path.dirname(folder), folder)
        except FileExistsError:
            pass  # another thread made it


def _one(path: str, only: str) -> Iterator[Tuple[str, str]]:
    whole = os.path.join(path, only)
    if os.path.isfile(whole):
        yield only, ""
    for name in os.listdir(path):
        if name.startswith(PARTIAL):
            yield name, ""


def _below(root: str) -> Iterator[Tuple[str, str]]:
    """Keys, and why one is left out. Links are followed to files inside `root` only."""
    for found in each(root):
        if found.kind == "file" and found.target:
            yield found.path, "it is a link that leads out of the folder"
        elif found.kind == "link" and not os.path.isfile(os.path.join(root, found.path)):
            yield found.path, "it is a link to no file"
        elif found.kind != "folder":
            is_kind = found.fault and not found.fault.startswith("it ")
            yield "" if found.path == "." else found.path, "it is " + found.fault if is_kind else found.fault


def _entry(path: str, key: str, checksum: bool) -> Optional[Entry]:
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            return None
        digest = _sha256(path) if checksum else ""
        if not os.access(path, os.R_OK):
            return None
    except OSError:  # it went, or is not ours to read
        return None
    return Entry(key, about.st_size, about.st_mtime_ns, bool(about.st_mode & stat.S_IXUSR), digest)


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _partials_beside(path: str) -> List[Partial]:
    folder = os.path.dirname(path)
    found: List[Partial] = []
    if os.path.isdir(folder):
        for name in os.listdir(folder):
            if name.startswith(PARTIAL):
                found.extend(partial_of(folder, name))
    return found


def partial_of(root: str, path: str) -> List[Partial]:
    """What the record beside a partial file says; a torn last line says nothing.

    A file without a record that nobody writes any more is given without a key, a younger one not at all.
    """
    if not path.endswith(PARTS):
        return _forgotten(root, path)
    try:
        with open(os.path.join(root, path), "rb") as file:
            lines = file.read().split(b"\n")[:-1]
        if not lines or not os.path.exists(os.path.join(root, path[: -len(PARTS)])):
            return []
        told: Dict[str, Any] = json.loads(lines[0])
        pieces = [json.loads(line) for line in lines[1:] if line]
        folder = path.rpartition("/")[0]
        return [
            Partial(
                path[: -len(PARTS)],
                (folder + "/" if folder else "") + str(told["name"]),
                int(told["size"]),
                int(told["modified"]),
                sorted({(int(piece[0]), int(piece[1])) for piece in pieces}),
            )
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return []


def _forgotten(root: str, path: str) -> List[Partial]:
    whole = os.path.join(root, path)
    if not _OURS.fullmatch(os.path.basename(path)):
        return []
    try:
        if os.path.exists(whole + PARTS) or os.stat(whole).st_mtime > time.time() - _FORGOTTEN:
            return []
    except OSError:  # it went
        return []
    return [Partial(path, "", 0, 0, [])]


def _printable(key: str) -> str:
    return key.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
