"""Whose a file is: only files of the user's own decide anything."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def fault(path: Path, *, any_owner: bool = False) -> str:
    """Why a file is not the user's own: another's, or writable by everybody; empty if it is.

    root's count as the user's own, and for root under sudo also those of who called it. `any_owner` is for
    a file that the user named, which may be a colleague's. Raises OSError where it cannot be looked at.
    """
    about = path.stat()  # of what a link leads to: that is what will be read
    if about.st_uid not in _owners() and not any_owner:
        return f"it belongs to {_name(about.st_uid)}"
    return "everybody may write to it" if about.st_mode & stat.S_IWOTH else ""


def speaks(path: Path) -> bool:
    """Whether a file is there that says something of what lies below its folder.

    Where anybody may put files, as into /tmp, only the user's own do.
    """
    if not path.exists():
        return False
    return not path.parent.stat().st_mode & stat.S_IWOTH or path.lstat().st_uid in _owners()


def _owners() -> set[int]:
    own = os.geteuid()
    caller = os.environ.get("SUDO_UID", "") if own == 0 else ""
    return {own, 0, int(caller)} if caller.isdecimal() else {own, 0}


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
