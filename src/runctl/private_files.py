"""Files and folders that no other user of this computer may read, not even for a moment."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator
from pathlib import Path


def make_folder(path: Path) -> None:
    """A folder that this user alone may enter, made where it is missing. Raises OSError."""
    path.mkdir(0o700, parents=True, exist_ok=True)
    tighten(path)


def tighten(path: Path) -> None:
    """Take from all others what they may do with this user's file or folder; `/tmp` and its kind stay."""
    with contextlib.suppress(OSError):
        about = path.lstat()
        is_everybodys = about.st_uid != os.geteuid() or about.st_mode & stat.S_ISVTX
        if about.st_mode & 0o077 and not is_everybodys and not stat.S_ISLNK(about.st_mode):
            path.chmod(stat.S_IMODE(about.st_mode) & 0o700)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: the file is 0600 from its first moment, and if it was there before."""
    handle = os.open(path, flags, 0o600)
    os.fchmod(handle, 0o600)
    return handle


@contextlib.contextmanager
def mask() -> Generator[None]:
    """For files that others make for us: whatever this process makes meanwhile is its user's alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
