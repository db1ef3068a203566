"""The one walk through a folder tree: what lies there, what it is, and why something cannot travel.

Nothing is opened. Folders are read and every entry is asked for its state once, so the cost of a walk is one
system call a file.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .mounts import NONE, Mounts, mounts

Skip = Callable[[str, "os.DirEntry[str]"], bool]
"""Whether an entry, by its path below the root, is left out; of a folder, all below it."""

FILE, LINK, FOLDER, OTHER = "file", "link", "folder", "other"

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
_NO_FILE = "neither a file nor a folder"
_LEADS_NOWHERE = "a link that leads nowhere"
_FOLDER_OUTSIDE = "a link to a folder outside"
_MOUNTED = "another file system (%s) is mounted there"
_LEADS_TO_MOUNTED = "a link to another file system (%s)"


class Found(NamedTuple):
    """An entry of a tree as it stood when it was looked at.

    Sizes in bytes, times in nanoseconds since 1970, `mode` the permission bits.

    `path` is relative to the root, with `/` between its parts; bytes that are no UTF-8 are in it by
    `surrogateescape`. `kind` is "file", "link" (to something inside of the root, whether it exists or not),
    "folder" (one that holds nothing) or "other" (cannot travel, `fault` says why).
    """

    path: str
    kind: str
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    device: int = 0
    mode: int = 0
    target: str = ""
    """Of a link: relative, and inside of the root. Else where the link leads, if it is one."""
    fault: str = ""


def _nothing(_path: str, _entry: "os.DirEntry[str]") -> bool:
    return False


def walk(root: str, skip: Skip = _nothing) -> List[Found]:
    """All below `root`, sorted by path; nothing if there is no such folder. See `each`.

    What is mounted below it by another machine or a program is "other": it may hang, and it outlives us.
    """
    return sorted(each(root, skip, mounts()))


def each(root: str, skip: Skip = _nothing, mounted: Mounts = NONE) -> Iterator[Found]:
    """What lies below `root`, one after the other; an entry that vanishes is left out.

    The files come sorted by path. A link to a file outside of the root is followed: it is that file. Never
    raises for what it finds: what cannot be read is "other" (`root` itself as ".").
    """
    strange = mounted.below(os.path.realpath(root)) if mounted.strange else {}
    links = _Links(root, mounted)
    first, fault = _entries(root)
    if fault is not None:
        yield _cannot_travel(".", None, fault)
    depth: List[Tuple[str, Iterator["os.DirEntry[str]"]]] = [("", iter(first))]
    while depth:
        base, entries = depth[-1]
        for entry in entries:
            path = base + entry.name
            if path not in strange and skip is not _nothing and skip(path, entry):
                continue
            if path in strange or not _is_folder(entry):
                found = _mounted(path, strange) or _leaf(path, entry, links)
                if found is not None:
                    yield found
                continue
            inside, fault = _entries(entry.path)
            if fault is not None:
                yield _cannot_travel(path, None, fault)
            elif any(_is_seen(path + "/" + one.name, one, strange, skip) for one in inside):
                depth.append((path + "/", iter(inside)))
                break
            else:
                found = _empty(path, entry)
                if found is not None:
                    yield found
        else:
            depth.pop()


def _mounted(path: str, strange: Dict[str, str]) -> Optional[Found]:
    return _cannot_travel(path, None, _MOUNTED % strange[path]) if path in strange else None


def _is_seen(path: str, entry: "os.DirEntry[str]", strange: Dict[str, str], skip: Skip) -> bool:
    return path in strange or not skip(path, entry)


def _entries(folder: str) -> Tuple[List["os.DirEntry[str]"], Optional[str]]:
    """In the order of their paths; and why they cannot be read. None are there of a folder that vanished."""
    try:
        with os.scandir(folder) as scan:
            return sorted(scan, key=_order), None
    except (FileNotFoundError, NotADirectoryError):
        return [], None
    except OSError as error:
        return [], _unreadable(error)


def _order(entry: "os.DirEntry[str]") -> str:
    """What lies below a folder comes where its `/` puts it: after `a.txt`, though `a` is before that."""
    return entry.name + "/" if _is_folder(entry) else entry.name


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # a file system that tells no kinds, and a disk that fails
        return False


def _empty(path: str, folder: "os.DirEntry[str]") -> Optional[Found]:
    try:
        about = folder.stat(follow_symlinks=False)
    except OSError:  # it vanished
        return None
    return _found(path, FOLDER, about) if stat.S_ISDIR(about.st_mode) else None


def _leaf(path: str, entry: "os.DirEntry[str]", links: "_Links") -> Optional[Found]:
    """What an entry is that was no folder when its folder was read; None if it vanished."""
    try:
        about = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(about.st_mode)
        if kind == stat.S_IFREG:
            return _file(path, entry.path, about)
        if kind == stat.S_IFLNK:
            return links.found(path, entry.path, about)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _cannot_travel(path, None, _unreadable(error))
    if kind == stat.S_IFDIR:  # it became one a moment ago: the next walk sees what is in it
        return None
    return _cannot_travel(path, about, _KINDS.get(kind, _NO_FILE))


def _file(path: str, whole: str, about: os.stat_result, target: str = "") -> Found:
    # Of what everybody may read nothing more is asked: this runs for each of very many files.
    if about.st_mode & 0o444 != 0o444 and not os.access(whole, os.R_OK):
        return _cannot_travel(path, about, "it cannot be read")
    return _found(path, FILE, about, target)


class _Links:
    """Where the links of a tree lead; the real path of its root is looked up when the first one asks."""

    def __init__(self, root: str, mounted: Mounts) -> None:
        self._root = os.path.abspath(root)
        self._mounted = mounted
        self._real_root = ""

    def found(self, path: str, whole: str, about: os.stat_result) -> Found:
        """Raises OSError, FileNotFoundError for a link that vanished."""
        text = os.readlink(whole)
        self._real_root = self._real_root or os.path.realpath(self._root)
        slow = self._mounted.on_the_way(self._real_root, path) if self._mounted.slow else ""
        if slow:
            return _cannot_travel(path, about, _LEADS_TO_MOUNTED % slow)
        return self._asked(path, whole, text, about)

    def _asked(self, path: str, whole: str, text: str, about: os.stat_result) -> Found:
        real = os.path.realpath(whole)
        beyond = None
        try:
            beyond = os.stat(whole)
        except OSError as error:
            if error.errno == errno.ELOOP:
                return _cannot_travel(path, about, _LEADS_NOWHERE)
        if (real + "/").startswith(self._real_root.rstrip("/") + "/"):
            return _found(path, LINK, about, self._inside(path, text, real))
        if beyond is None:
            return _cannot_travel(path, about, _LEADS_NOWHERE, real)
        if stat.S_ISREG(beyond.st_mode):
            return _file(path, whole, beyond, real)
        if stat.S_ISDIR(beyond.st_mode):
            return _cannot_travel(path, about, _FOLDER_OUTSIDE, real)
        kind = _KINDS.get(stat.S_IFMT(beyond.st_mode), _NO_FILE)
        return _cannot_travel(path, about, "a link to " + kind, real)

    def _inside(self, path: str, text: str, real: str) -> str:
        """The target as it is written if that stays inside by its words, else the same place, relative."""
        folder = os.path.dirname(path)
        if not text.startswith("/"):
            if not _leaves(os.path.normpath(os.path.join(folder, text))):
                return text
        else:
            for base in (self._root, self._real_root):
                below = os.path.relpath(text, base)
                if not _leaves(below):
                    return os.path.relpath(below, folder or ".")
        return os.path.relpath(os.path.relpath(real, self._real_root), folder or ".")


def _leaves(path: str) -> bool:
    return path == ".." or path.startswith("../")


def _found(path: str, kind: str, about: os.stat_result, target: str = "", fault: str = "") -> Found:
    return tuple.__new__(  # the short way to a Found: this runs for each of very many files
        Found,
        (
            path,
            kind,
            about.st_size,
            about.st_mtime_ns,
            about.st_ctime_ns,
            about.st_ino,
            about.st_dev,
            about.st_mode & 0o7777,
            target,
            fault,
        ),
    )


def _cannot_travel(path: str, about: Optional[os.stat_result], fault: str, real: str = "") -> Found:
    """`real` is where a link leads."""
    if about is None:
        return Found(path, OTHER, target=real, fault=fault)
    return _found(path, OTHER, about, real, fault)


def _unreadable(error: OSError) -> str:
    return "it cannot be read: %s" % (error.strerror or error)
