"""What is mounted where on this machine: a file system that may hang is asked for nothing.

A folder of a tree may have another file system in it: a bucket mounted by FUSE, an NFS whose server is gone.
A `stat` of it may never return, and what lies there does not end with the machine.
"""

from __future__ import annotations

import os
import re
from typing import Dict, Iterable, NamedTuple, Optional

_TABLE = "/proc/self/mountinfo"
_DISKS = frozenset(
    [
        *(
            "ext2",
            "ext3",
            "ext4",
            "xfs",
            "btrfs",
            "zfs",
            "f2fs",
            "bcachefs",
            "jfs",
            "reiserfs",
            "tmpfs",
            "ramfs",
        ),
        *("overlay", "aufs", "squashfs", "erofs", "vfat", "exfat", "ntfs3", "iso9660", "udf"),
    ]
)
_KERNEL = frozenset(
    [
        *(
            "proc",
            "sysfs",
            "devtmpfs",
            "devpts",
            "cgroup",
            "cgroup2",
            "mqueue",
            "hugetlbfs",
            "securityfs",
            "nsfs",
        ),
        *(
            "debugfs",
            "tracefs",
            "bpf",
            "pstore",
            "configfs",
            "fusectl",
            "binfmt_misc",
            "efivarfs",
            "selinuxfs",
        ),
    ]
)
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mounts(NamedTuple):
    """Mount points of other file systems and their kinds, by path.

    `strange` are not walked into; of these, `slow` are not even asked what an entry of theirs is.
    """

    strange: Dict[str, str]
    slow: Dict[str, str]

    def below(self, root: str) -> Dict[str, str]:
        """Those inside of a folder, relative to it; `root` is its real path."""
        top = root.rstrip("/") + "/"
        return {path[len(top) :]: kind for path, kind in self.strange.items() if path.startswith(top)}

    def has(self, path: str) -> bool:
        """Whether a real path lies on one that may hang."""
        return any((path + "/").startswith(point + "/") for point in self.slow)

    def on_the_way(self, root: str, path: str) -> str:
        """The kind of the first one that may hang on the way that the links of `path` lead, else empty.

        `root` is a real path, below which `path` is. Where the root itself lies on such a one, that is none.
        """
        slow = {point: kind for point, kind in self.slow.items() if not (root + "/").startswith(point + "/")}
        if not slow:
            return ""
        here, way, links = root.rstrip("/"), path.split("/")[::-1], 0
        while way and links < 40:
            part = way.pop()
            if part in ("", "."):
                continue
            if part == "..":
                here = os.path.dirname(here).rstrip("/")
                continue
            here += "/" + part
            if here in slow:
                return slow[here]
            try:
                target = os.readlink(here)
            except OSError:  # no link
                continue
            links += 1
            here = "" if target.startswith("/") else os.path.dirname(here).rstrip("/")
            way.extend(target.split("/")[::-1])
        return ""


NONE = Mounts({}, {})


def mounts(lines: Optional[Iterable[bytes]] = None) -> Mounts:
    """What is mounted now, or by the `lines` of a table like proc(5)'s mountinfo."""
    if lines is None:
        try:
            with open(_TABLE, "rb") as file:
                lines = file.readlines()
        except OSError:  # this is no Linux
            return NONE
    strange: Dict[str, str] = {}
    slow: Dict[str, str] = {}
    for line in lines:
        place, _, about = line.partition(b" - ")
        words, kinds = place.split(b" "), about.split(b" ", 1)
        if len(words) < 5:
            continue
        path, kind = os.fsdecode(_ESCAPED.sub(_byte, words[4])), os.fsdecode(kinds[0])
        strange.pop(path, None)  # the last one mounted there is the one that is seen
        slow.pop(path, None)
        if kind not in _DISKS and path != "/":
            strange[path] = kind
            if kind not in _KERNEL:
                slow[path] = kind
    return Mounts(strange, slow)


def _byte(found: "re.Match[bytes]") -> bytes:
    return bytes([int(found[1], 8) & 255])
