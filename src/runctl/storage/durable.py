"""Many files put on the disk at once."""

from __future__ import annotations

import os
from pathlib import Path


def sync_disk(folder: Path) -> None:
    """Wait until all that was written to this folder's file system is on the disk. Raises OSError."""
    import ctypes

    sync = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if sync is None:  # macOS has none
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if sync(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)
