"""Which files the processes of a script hold open for writing: what is being written is not whole."""

from __future__ import annotations

import os
from typing import Iterable, List, Optional, Sequence, Set, Tuple

from .mounts import Mounts, mounts

_PROC = "/proc"
_WRITABLE = os.O_WRONLY | os.O_RDWR


def held_for_writing(pids: Iterable[int], roots: Sequence[str]) -> Optional[Set[Tuple[int, int]]]:
    """Device and inode of each file below `roots` that one of the processes can write to: by an open file, or
    by a shared mapping. None where the system does not tell (no /proc).

    Processes that ended or are another user's are passed over.
    """
    if not os.path.isdir(_PROC + "/self/fd"):
        return None
    tops = tuple(os.path.realpath(root).rstrip("/") + "/" for root in roots)
    held: Set[Tuple[int, int]] = set()
    mounted = mounts()
    for pid in pids:
        held.update(_opened(pid, tops, mounted))
        held.update(_mapped(pid, tops, mounted))
    return held


def _opened(pid: int, tops: Tuple[str, ...], mounted: Mounts) -> List[Tuple[int, int]]:
    folder = "%s/%d/fd" % (_PROC, pid)
    try:
        numbers = os.listdir(folder)
    except OSError:
        return []
    found = []
    for number in numbers:
        path = folder + "/" + number
        try:
            target = os.readlink(path)
            if target.startswith(tops) and not mounted.has(target) and _is_writable(pid, number):
                about = os.stat(path)
                found.append((about.st_dev, about.st_ino))
        except OSError:  # closed just now
            continue
    return found


def _is_writable(pid: int, number: str) -> bool:
    with open("%s/%d/fdinfo/%s" % (_PROC, pid, number), "rb") as file:
        for line in file:
            if line.startswith(b"flags:"):
                return bool(int(line.split()[1], 8) & _WRITABLE)
    return False


def _mapped(pid: int, tops: Tuple[str, ...], mounted: Mounts) -> List[Tuple[int, int]]:
    """Lines of /proc/PID/maps: `start-end perms offset major:minor inode path`."""
    found = []
    try:
        with open("%s/%d/maps" % (_PROC, pid), "rb") as file:
            for line in file:
                parts = line.split(None, 5)
                if len(parts) < 6 or parts[1][1:2] != b"w" or parts[1][3:4] != b"s":
                    continue
                path = os.fsdecode(parts[5].rstrip(b"\n"))
                if path.startswith(tops) and not mounted.has(path):
                    about = os.stat(path)
                    found.append((about.st_dev, about.st_ino))
    except OSError:
        return found
    return found
