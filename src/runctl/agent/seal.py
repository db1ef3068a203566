"""The seal of a job: how its machines know each other's work in a bucket that others can write to.

The key comes with a machine's boot arguments and is kept in the user's ledger. It is never in the bucket.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Any, Dict, Optional

from .files import to_json

FILE = "seal"
MANIFEST, STATE, STOP = "", "state", "stop"
"""Kinds of objects that carry a seal: what is sealed as one is none of the other."""


def read(folder: str) -> Optional[str]:
    """The job's key, as the boot arguments left it in the attempt's folder; None for a job that has none."""
    try:
        with open(os.path.join(folder, FILE), encoding="ascii") as file:
            return file.read().strip() or None
    except OSError:  # a local job: nobody else writes to its folder
        return None


def of(key: str, value: Dict[str, Any], kind: str = MANIFEST) -> str:
    """The seal of an object, whatever seal it carries."""
    plain = {name: item for name, item in value.items() if name != "seal"}
    said = b"runctl seal 1" + kind.encode() + b"\0" + to_json(plain)
    return hmac.new(bytes.fromhex(key), said, hashlib.sha256).hexdigest()


def holds(key: str, value: Dict[str, Any], kind: str = MANIFEST) -> bool:
    """Whether an object carries the seal that it should; one that cannot be sealed at all does not."""
    try:
        return hmac.compare_digest(str(value.get("seal", "")).encode(), of(key, value, kind).encode())
    except (ValueError, RecursionError):  # half a character, or too deep
        return False
