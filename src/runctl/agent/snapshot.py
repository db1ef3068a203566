"""What a snapshot is: the state of a job's trees at one moment, as its manifest tells it.

Others can write to the bucket: what a manifest says is looked at here before anything is done with it.
Whether a machine of the job wrote it is for `seal` and for whoever reads it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .names import unfit

FORMAT = 2
CHECKPOINTS, OUTPUTS, WORK = "checkpoints", "outputs", "work"
TREES = (CHECKPOINTS, OUTPUTS, WORK)
NO_CHECKPOINT = "files"
"""The second part of a snapshot's name when there is no checkpoint in it."""

LONGEST_PATH = 4096
_LONGEST_IN_KEY = 600
"""Bytes of a path that are a part of the object's key: S3 takes keys of 1024 bytes."""
_LATEST = (1 << 63) - 1
"""Nanoseconds since 1970 that a manifest can tell: file systems know years after 2262."""
_LONGEST_SHOWN = 1000
"""Characters of a path that are told where its bytes are told, too."""
_RAW = ".raw"
_NAME = re.compile(r"[0-9]{1,9}-[^/\x00-\x1f\x7f]{1,255}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DIGEST_BYTES = 32


class Entry(NamedTuple):
    """A file, a link or an empty folder of a tree.

    `path` is relative to the tree, as the file system of the machine has it (what is no UTF-8 in surrogates).
    Size in bytes, `mtime` in nanoseconds since 1970, `mode` the permission bits. With a `part` above 0,
    `sha256` is the SHA-256 of those of each so many bytes, which are `parts`, 32 bytes each. `at` is where
    the bytes lie, below the store's folder of snapshots. `link` is a link's target, relative to its folder.
    """

    tree: str
    path: str
    kind: str = "file"
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    sha256: str = ""
    part: int = 0
    parts: bytes = b""
    at: str = ""
    link: str = ""


class Manifest(NamedTuple):
    """A snapshot: `checkpoint` is the newest complete one in it, by its tree and path there.

    `code` is the SHA-256 of the code bundle that ran, empty without one.
    """

    name: str
    checkpoint: Optional[Tuple[str, str]]
    step: Optional[int]
    attempt: int
    created: str
    final: bool
    entries: List[Entry]
    code: str = ""


def can_be_named(source: str) -> bool:
    """Whether a snapshot can have the name of this checkpoint."""
    return _NAME.fullmatch("1-" + source) is not None and not unfit(source)


def is_name(name: str) -> bool:
    """Whether it can be a snapshot's."""
    return _NAME.fullmatch(name) is not None


def sequence_of(name: str) -> int:
    """The number at the beginning of a snapshot's name; 0 for what is none."""
    return int(name.split("-", 1)[0]) if is_name(name) else 0


def key_of(name: str, tree: str, path: str) -> str:
    """Where a file's bytes lie that a snapshot brings itself, below the store's folder of snapshots."""
    if _is_plain(path) and len(path.encode()) <= _LONGEST_IN_KEY:
        return "%s/%s/%s" % (name, tree, path)
    return "%s/%s/%s/%s" % (name, tree, _RAW, hashlib.sha256(os.fsencode(path)).hexdigest()[:32])


def to_dict(manifest: Manifest) -> Dict[str, Any]:
    """As it is written, without a seal."""
    checkpoint = manifest.checkpoint and {
        "tree": manifest.checkpoint[0],
        **_path_told(manifest.checkpoint[1]),
    }
    return {
        "format": FORMAT,
        "name": manifest.name,
        "checkpoint": checkpoint,
        "step": manifest.step,
        "attempt": manifest.attempt,
        "created": manifest.created,
        "final": manifest.final,
        "code": manifest.code,
        "entries": [_told(entry, manifest.name) for entry in manifest.entries],
    }


def parsed(told: Any) -> Manifest:
    """Raises ValueError, KeyError, TypeError for what is no manifest."""
    if told["format"] != FORMAT:
        raise ValueError("its format is %s, not %d" % (str(told["format"])[:20], FORMAT))
    name, step, at = _text(told["name"]), told.get("step"), told["checkpoint"]
    if not is_name(name):
        raise ValueError("%r is no snapshot's name" % name[:80])
    entries = [_entry(item, name) for item in told["entries"]]
    files = {(entry.tree, entry.path): entry.kind for entry in entries}
    if len(files) != len(entries):
        raise ValueError("it names a file twice")
    for tree, path in files:
        parts = path.split("/")
        if any(files.get((tree, "/".join(parts[:depth]))) is not None for depth in range(1, len(parts))):
            raise ValueError("%r lies below what is no folder" % path[:80])
    return Manifest(
        name=name,
        checkpoint=None if at is None else (_tree(at["tree"]), _path(at)),
        step=None if step is None else _count(step),
        attempt=_count(told["attempt"]),
        created=_text(told["created"]),
        final=bool(told["final"]),
        entries=entries,
        code=_text(told.get("code", "")),
    )


def _told(entry: Entry, name: str) -> Dict[str, Any]:
    told: Dict[str, Any] = {"tree": entry.tree, **_path_told(entry.path)}
    if entry.kind == "folder":
        return {**told, "folder": True}
    if entry.kind == "link":
        return {**told, **_text_told("link", "link_raw", entry.link)}
    mtime = max(0, min(entry.mtime, _LATEST))
    told.update(size=entry.size, mode=entry.mode, mtime=mtime, sha256=entry.sha256)
    if entry.part:
        told.update(part=entry.part, parts=base64.b64encode(entry.parts).decode())
    if entry.at != key_of(name, entry.tree, entry.path):
        told["at"] = entry.at
    return told


def _entry(told: Any, name: str) -> Entry:
    tree, path = _tree(told["tree"]), _path(told)
    if told.get("folder"):
        return Entry(tree, path, "folder")
    if "link" in told:
        return Entry(tree, path, "link", link=_target(_text_of(told, "link", "link_raw"), path))
    digest, part = _text(told["sha256"]), _count(told.get("part", 0))
    if not _DIGEST.fullmatch(digest):
        raise ValueError("%r has no SHA-256" % path[:80])
    size, parts = _count(told["size"]), base64.b64decode(_long_text(told.get("parts", "")), validate=True)
    if part and (
        len(parts) != _DIGEST_BYTES * -(-size // part) or hashlib.sha256(parts).hexdigest() != digest
    ):
        raise ValueError("the parts of %r are not those of its SHA-256" % path[:80])
    at = _text(told["at"]) if "at" in told else key_of(name, tree, path)
    if not is_name(at.split("/")[0]) or at.count("/") < 2 or not _is_relative(at):
        raise ValueError("%r lies at no place of a snapshot" % path[:80])
    mode = _count(told["mode"]) & 0o777
    return Entry(tree, path, "file", size, mode, _count(told["mtime"]), digest, part, parts, at)


def _is_plain(path: str) -> bool:
    """Whether a path can be a key of the store, and be shown, as it is."""
    return not unfit(path) and path.split("/", 1)[0] != _RAW


def _path_told(path: str) -> Dict[str, Any]:
    return _text_told("path", "raw", path)


def _text_told(name: str, raw: str, text: str) -> Dict[str, Any]:
    """Names of files: what is no text that can be shown has its bytes beside it."""
    if _is_plain(text):
        return {name: text}
    printable = text.encode("utf-8", "backslashreplace").decode()[:_LONGEST_SHOWN]
    return {name: printable, raw: base64.b64encode(os.fsencode(text)).decode()}


def _text_of(told: Any, name: str, raw: str) -> str:
    text = _text(told[name])
    if raw in told:
        text = os.fsdecode(base64.b64decode(_long_text(told[raw]), validate=True))
    return text


def _path(told: Any) -> str:
    path = _text_of(told, "path", "raw")
    if not _is_relative(path):
        raise ValueError("%r is no path in a tree" % path[:80])
    return path


def _is_relative(path: str) -> bool:
    parts = path.split("/")
    return "\0" not in path and not any(
        part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in parts
    )


def _target(link: str, path: str) -> str:
    """A link's target, which must stay inside its tree."""
    if (
        link.startswith("/")
        or os.path.normpath(os.path.join(os.path.dirname(path), link)).split("/")[0] == ".."
    ):
        raise ValueError("the link %r leads out of its tree" % path[:80])
    return link


def _tree(value: Any) -> str:
    if value not in TREES:
        raise ValueError("%r is no tree" % str(value)[:40])
    return str(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_PATH or "\0" in value:
        raise ValueError("a name is no name")
    return value


def _long_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("what should be a text is none")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError("a number is none that counts")
    return value
