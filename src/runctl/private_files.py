"""Files and folders that no other user of this computer may read, not even for a moment."""

from __future__ import annotations

import os
from pathlib import Path


def make_folder(path: Path) -> None:
    """A folder that this user alone may enter, made where it is missing."""
    path.mkdir(0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: the file is 0600 from its first moment, and if it was there before."""
    handle = os.open(path, flags, 0o600)
    os.fchmod(handle, 0o600)
    return handle
