"""Snapshots as a machine makes them, in a folder that stands for the job's bucket."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from runctl.agent import packs, snapshot
from runctl.agent import seal as seals
from runctl.agent.snapshot import Entry, Manifest

KEY = "5e" * 32
"""The seal of the job."""
MTIME = 1_700_000_000_000_000_000


def file_entry(name: str, tree: str, path: str, data: bytes, *, part: int = 0, mode: int = 0o644) -> Entry:
    """A file that a snapshot brings itself; with `part`, sent in parts of so many bytes."""
    at = snapshot.key_of(name, tree, path)
    digest, parts = hashlib.sha256(data).hexdigest(), b""
    if part:
        parts = b"".join(
            hashlib.sha256(data[start : start + part]).digest() for start in range(0, len(data), part)
        )
        digest = hashlib.sha256(parts).hexdigest()
    return Entry(tree, path, "file", len(data), mode, MTIME, digest, part, parts, at)


def take(
    store: Path,
    name: str,
    files: Mapping[str, str | bytes] = {},
    *,
    more: tuple[Entry, ...] = (),
    seal: object = KEY,
    pack: bool = False,
    part: int = 0,
    mode: int = 0o644,
    under: str = "committed",
    checkpoint: tuple[str, str] | None = None,
    step: int | None = None,
    **fields: object,
) -> Manifest:
    """Write a snapshot of `files` (by `TREE/PATH`) and of `more` entries, whose bytes lie there already.

    With `pack` all are in one object. With the job's key as `seal` its manifest is sealed, else it carries
    what is given.
    """
    folder = store / under
    entries = list(more)
    packed = packs.new_place(name, sum(len(value) for value in files.values())) if pack else ""
    before = 0
    for key, value in files.items():
        tree, _, path = key.partition("/")
        data = value.encode() if isinstance(value, str) else value
        entry = file_entry(name, tree, path, data, part=part, mode=mode)
        lies = folder / (packed or entry.at)
        lies.parent.mkdir(parents=True, exist_ok=True)
        with lies.open("ab" if packed else "wb") as file:
            file.write(data)
        entries.append(entry._replace(at=packs.place_in(packed, before)) if packed else entry)
        before += len(data)
    manifest = Manifest(name, checkpoint, step, 1, "2026-11-23T00:00:00Z", False, sorted(entries))
    told = {**snapshot.to_dict(manifest), **fields}
    told["seal"] = seals.of(KEY, told) if seal == KEY else seal
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "manifest.json").write_text(json.dumps(told))
    return manifest
