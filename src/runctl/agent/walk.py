"""What lies below a folder: regular files, links that stay inside, empty folders, and what cannot travel.

Nothing is opened. One file's trouble is its own: it is told in its place and hides no other.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Callable, List, NamedTuple, Optional

FILE, LINK, FOLDER, OTHER = "file", "link", "folder", "other"

NO_FILE = "a pipe, a socket or a device"
LEADS_NOWHERE = "a link that leads nowhere"
FOLDER_OUTSIDE = "a link to a folder outside"


class Found(NamedTuple):
    """One of a tree: `path` is relative to its root, with `/`; what is no UTF-8 in it is in surrogates.

    Size in bytes, times in nanoseconds since 1970, `mode` the permission bits; 0 for what is no file. A
    link's `target` is where it leads inside the root, relative to its folder. A `folder` is an empty one.
    `fault` says why an `other` cannot travel.
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
    fault: str = ""


Skip = Callable[[str, "os.DirEntry[str]"], bool]


def walk(root: str, skip: Optional[Skip] = None) -> List[Found]:
    """All that lies below `root`, in order of path; nothing if there is no such folder.

    `skip` is asked with each path and entry; a folder that it skips is not looked into. What vanishes
    meanwhile is left out.
    """
    found: List[Found] = []
    top = os.path.realpath(root)
    waiting = [("", root)]
    while waiting:
        inner, folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                lying = list(entries)
        except OSError as error:
            if inner and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
                found.append(Found(inner[:-1], OTHER, fault="it cannot be read: %s" % error.strerror))
            continue
        for entry in lying:
            path = inner + entry.name
            if skip is not None and skip(path, entry):
                continue
            one = _look(path, entry, top)
            if one is None:
                waiting.append((path + "/", entry.path))
            elif one.kind:
                found.append(one)
        if inner and not lying:
            found.append(Found(inner[:-1], FOLDER))
    found.sort()
    return found


def _look(path: str, entry: os.DirEntry[str], top: str) -> Optional[Found]:
    """None for a folder; without a kind if it vanished."""
    try:
        about = entry.stat(follow_symlinks=False)
    except OSError:
        return Found(path, "")
    kind = stat.S_IFMT(about.st_mode)
    if kind == stat.S_IFREG:
        return _file(path, about)
    if kind == stat.S_IFDIR:
        return None
    return _link(path, entry.path, top) if kind == stat.S_IFLNK else Found(path, OTHER, fault=NO_FILE)


def _file(path: str, about: os.stat_result) -> Found:
    return Found(
        path,
        FILE,
        about.st_size,
        about.st_mtime_ns,
        about.st_ctime_ns,
        about.st_ino,
        about.st_dev,
        stat.S_IMODE(about.st_mode),
    )


def _link(path: str, whole: str, top: str) -> Found:
    """A link that stays inside is one, even if nothing is there; to a file outside, it is that file."""
    real, about, is_loop = os.path.realpath(whole), None, False
    try:
        about = os.stat(whole)
    except OSError as error:
        is_loop = error.errno == errno.ELOOP
    if not is_loop and real.startswith(top.rstrip("/") + "/"):
        return Found(path, LINK, target=_target(path, whole, real))
    if about is None:
        return Found(path, OTHER, fault=LEADS_NOWHERE)
    if stat.S_ISREG(about.st_mode):
        return _file(path, about)
    return Found(path, OTHER, fault=FOLDER_OUTSIDE if stat.S_ISDIR(about.st_mode) else NO_FILE)


def _target(path: str, whole: str, real: str) -> str:
    """Where it leads, so said that it holds in a tree that lies elsewhere."""
    target = os.readlink(whole)
    if not os.path.isabs(target):
        lexical = os.path.normpath(os.path.join(os.path.dirname(path), target))
        if lexical != os.pardir and not lexical.startswith(os.pardir + "/"):
            return target
    return os.path.relpath(real, os.path.realpath(os.path.dirname(whole)))
