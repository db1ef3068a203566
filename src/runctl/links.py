"""Links that a repository brought: we write through none of them, and read nothing outside through one.

A link that git tracks came with the repository, and its author chose where it leads. One that git does not
track is the user's own, such as `checkpoints -> /mnt/big`. Where no git can tell, a link that stays in its
folder is harmless, and one that leads out of it is refused.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runctl import git, owners
from runctl.errors import ValidationError
from runctl.quoting import quoted

_MOST_LINKS = 40  # as the kernel's own limit
_TRACKED_LINK = b"120000 "


def refuse_brought(path: Path, *, root: Path | None = None, reading: bool = False) -> None:
    """Make sure that writing to `path` goes through no link that a repository brought; it need not exist.

    With `reading`, such a link may lead about in its repository, and not out of it. `root` is the folder
    that came as one where there is no repository, by default the working directory. Raises ValidationError.
    """
    told = os.path.abspath(path)  # noqa: PTH100 (resolve would follow)
    if not _has_links(told):
        return  # nearly always, and much faster to find out
    root = Path(os.path.realpath(root if root is not None else Path.cwd()))
    left = list(reversed(Path(told).parts))
    here, links = Path("/"), 0
    while left:
        part = left.pop()
        if part == "..":
            here = here.parent
            continue
        here = here / part
        try:
            if not stat.S_ISLNK(here.lstat().st_mode):
                continue
            target = str(here.readlink())
        except OSError:  # it is not there, and what is not there leads nowhere
            return
        links += 1
        if links > _MOST_LINKS:
            raise ValidationError(f"{path} leads nowhere", why="its links lead round in a circle")
        _judge(here, root, reading=reading)
        left.extend(reversed(Path(target).parts))
        here = Path("/") if target.startswith("/") else here.parent


def _has_links(path: str) -> bool:
    while path != os.path.dirname(path):  # noqa: PTH120 (a download asks for each of its folders)
        if os.path.islink(path):  # noqa: PTH114
            return True
        path = os.path.dirname(path)  # noqa: PTH120
    return False


def _judge(link: Path, root: Path, *, reading: bool) -> None:
    top = _top(link)
    bounds = top or (root if link.is_relative_to(root) else None)
    if bounds is None:
        return
    target = Path(os.path.realpath(link))
    stays = target.is_relative_to(os.path.realpath(bounds))
    if reading and stays:
        return
    tracked = None if top is None else _is_tracked(top, link)
    if tracked or (tracked is None and not stays):
        own = f"make the link yours: git rm --cached {quoted(link)}" if tracked else f"make {link} a folder"
        raise ValidationError(
            f"Nothing is {'read' if reading else 'written'} through {link}",
            why=f"the link came with the project, and leads to {target}",
            next=f"name {target} itself if you mean it, or {own}",
        )


def _top(link: Path) -> Path | None:
    """The top of the repository that a link is in."""
    return next((parent for parent in link.parents if owners.speaks(parent / ".git")), None)


def _is_tracked(top: Path, link: Path) -> bool | None:
    """Whether git tracks this link; None where it cannot tell. Compared as files: some disks fold case."""
    listed = git.said(top, "ls-files", "-s", "-z")
    if listed is None:
        return None
    about = link.lstat()
    for line in listed.split(b"\0"):
        if not line.startswith(_TRACKED_LINK):
            continue
        try:
            found = (top / os.fsdecode(line.partition(b"\t")[2])).lstat()
        except OSError:  # it was removed here
            continue
        if (found.st_dev, found.st_ino) == (about.st_dev, about.st_ino):
            return True
    return False
