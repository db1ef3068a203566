"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Optional


def write_atomically(path: str, data: bytes, durable: bool = True) -> None:
    """Replace a file; `durable` waits until it is on the disk, which a busy disk may take seconds for."""
    temporary = "%s.%d.tmp" % (path, os.getpid())
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:  # the first error is the one to tell
            pass
        raise


def read_json(path: str) -> Optional[Dict[str, Any]]:
    """None for a file that is missing or torn."""
    try:
        with open(path, "rb") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def to_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
