"""A snapshot is committed: its manifest is written and sealed, then `latest.json` moves to it, never back."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Dict, Optional

from . import seal
from .files import to_json
from .snapshot import Manifest, sequence_of, to_dict


def commit(store: Any, manifest: Manifest, key: Optional[str]) -> None:
    """`key` is the job's seal, None where nobody else writes. Raises StoreAway, StoreRefused, OSError."""
    told = to_dict(manifest)
    if key:
        told["seal"] = seal.of(key, told)
    store.put(store.checkpoints + manifest.name + "/manifest.json", to_json(told))
    _move_latest(store, told)


def _move_latest(store: Any, told: Dict[str, Any]) -> None:
    key, name = store.checkpoints + "latest.json", str(told["name"])
    digest = hashlib.sha256(to_json(told)).hexdigest()
    latest = to_json({"name": name, "step": told["step"], "manifest_sha256": digest})
    for _ in range(5):
        current = store.get(key)
        if current is not None and _sequence_in(current) >= sequence_of(name):
            return
        if store.replace(key, latest, current):
            return


def _sequence_in(latest: bytes) -> int:
    """Of the snapshot that `latest.json` names; 0 for one that cannot be read, which is replaced."""
    try:
        return sequence_of(str(json.loads(latest)["name"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
