"""Bringing committed checkpoints back: only what is sealed and verifies is ever trusted.

Others can write to the bucket, and a checkpoint is code for whoever unpickles it. So a manifest counts where
it carries the job's seal, or where the spec, which the boot arguments pin, names its very digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from typing import Any, Dict, List, NamedTuple, Optional

from . import seal
from .digest import file_digest

LARGEST_MANIFEST = 64 * 1024 * 1024
_NAME = re.compile(r"[0-9]{1,9}-[^/\x00-\x1f\x7f]{1,255}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LONGEST_PATH = 1024


class CorruptCheckpoint(Exception):
    """A committed checkpoint is not what its manifest says, or not of this job's machines."""


class File(NamedTuple):
    """A file of a commit; with a `part` above 0, `sha256` is that of the digests of each so many bytes."""

    path: str
    size: int
    sha256: str
    part: int


class Manifest(NamedTuple):
    """What a commit consists of."""

    name: str
    source: str
    step: Optional[int]
    files: List[File]
    attempt: int = 0


def can_be_named(source: str) -> bool:
    """Whether a commit of a checkpoint of this name could be brought back."""
    return _NAME.fullmatch("1-" + source) is not None


def commit_names(store: Any) -> List[str]:
    """The names of all commits, the oldest first: those that have a manifest. What is no name is left out."""
    prefix = store.checkpoints
    found = [
        key[len(prefix) :].split("/")[0]
        for key, _ in store.list(prefix)
        if key.endswith("/manifest.json") and key.count("/") == prefix.count("/") + 1
    ]
    return sorted((name for name in found if _NAME.fullmatch(name)), key=sequence_of)


def sequence_of(name: str) -> int:
    return int(name.split("-", 1)[0]) if _NAME.fullmatch(name) else 0


def read_manifest(
    store: Any, name: str, key: Optional[str], trusted: Optional[Dict[str, str]] = None
) -> Manifest:
    """A commit's manifest. `key` is the job's seal, `trusted` are SHA-256 of manifests by their name.

    Raises CorruptCheckpoint, StoreAway, StoreRefused.
    """
    if not _NAME.fullmatch(name):
        raise CorruptCheckpoint("%r is no commit's name" % name[:80])
    data = store.get(store.checkpoints + name + "/manifest.json", LARGEST_MANIFEST)
    if data is None:
        raise CorruptCheckpoint("it has no manifest")
    try:
        told = json.loads(data)
        manifest = _parsed(told)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptCheckpoint("its manifest cannot be read: %s" % str(error)[:200]) from error
    if manifest.name != name:
        raise CorruptCheckpoint("its manifest is that of another commit")
    pinned = (trusted or {}).get(name)
    if key and pinned != hashlib.sha256(data).hexdigest() and not seal.holds(key, told):
        raise CorruptCheckpoint("no machine of this job committed it: its seal is missing or wrong")
    return manifest


def restore(
    store: Any,
    name: str,
    folder: str,
    key: Optional[str] = None,
    trusted: Optional[Dict[str, str]] = None,
) -> Manifest:
    """Bring a commit into the checkpoint folder under its own name.

    Raises CorruptCheckpoint, StoreAway, StoreRefused.
    """
    manifest = read_manifest(store, name, key, trusted)
    target = os.path.join(folder, manifest.source)
    if lies_in(folder, manifest.files):
        return manifest
    # A name that cannot be foretold: no link lies there that a repository brought.
    incoming = os.path.join(folder, ".incoming-%s" % os.urandom(8).hex())
    os.makedirs(incoming)
    try:
        for file in manifest.files:
            _fetch(store, store.checkpoints + name + "/", file, incoming)
        if os.path.lexists(target):
            os.replace(target, _aside(target))
        os.replace(os.path.join(incoming, manifest.source), target)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return manifest


def lies_in(folder: str, files: List[File]) -> bool:
    """Whether the original still lies in the folder, as it was committed."""
    for file in files:
        path = os.path.join(folder, file.path)
        if not os.path.isfile(path) or os.path.getsize(path) != file.size:
            return False
    return all(_is_as_committed(os.path.join(folder, file.path), file) for file in files)


def _parsed(told: Any) -> Manifest:
    """Raises ValueError, KeyError, TypeError."""
    source, step = _text(told["source"]), told.get("step")
    if not source or source.startswith(".") or "/" in source:
        raise ValueError("%r is no checkpoint's name" % source[:80])
    if step is not None:
        step = _count(step)
    files = [_file(item, source) for item in told["files"]]
    if not files:
        raise ValueError("it names no files")
    return Manifest(_text(told["name"]), source, step, files, _count(told.get("attempt", 0)))


def _file(told: Any, source: str) -> File:
    path, digest = _text(told["path"]), _text(told["sha256"])
    parts = path.split("/")
    if parts[0] != source or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise ValueError("%r is no file of %r" % (path[:80], source[:80]))
    if not _DIGEST.fullmatch(digest):
        raise ValueError("%r has no SHA-256" % path[:80])
    return File(path, _count(told["size"]), digest, _count(told.get("part", 0)))


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_PATH or "\0" in value:
        raise ValueError("a name is no name")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
        raise ValueError("a number is none that counts")
    return value


def _fetch(store: Any, prefix: str, file: File, incoming: str) -> None:
    path = os.path.join(incoming, file.path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not store.get_file(prefix + file.path, path):
        raise CorruptCheckpoint("%s is missing" % file.path)
    if os.path.getsize(path) != file.size or not _is_as_committed(path, file):
        raise CorruptCheckpoint("%s is not what was committed" % file.path)


def _is_as_committed(path: str, file: File) -> bool:
    return file_digest(path, file.part) == file.sha256


def _aside(path: str) -> str:
    number = 1
    while os.path.lexists("%s.corrupt-%d" % (path, number)):
        number += 1
    return "%s.corrupt-%d" % (path, number)
