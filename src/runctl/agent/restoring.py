"""Bringing snapshots back: only what is sealed and verifies is ever trusted.

Others can write to the bucket, and a checkpoint is code for whoever unpickles it. So a manifest counts where
it carries the job's seal, or where the spec, which the boot arguments pin, names its very digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from . import seal
from .digest import file_digest
from .placed import Placed, ToFetch
from .sets import checkpoint_sets
from .snapshot import CHECKPOINTS, WORK, Entry, Manifest, is_name, parsed, sequence_of
from .trees import INCOMING, Tree
from .walk import Found

LARGEST_MANIFEST = 64 * 1024 * 1024
APART_SECONDS = 0.012
"""Scripts look for the newest file by its change time, which cannot be set: files get their names in the
order of their modification times, the last ones so far apart that the kernel's clock for files tells them."""
_APART = 50


class CorruptSnapshot(Exception):
    """A committed snapshot is not what its manifest says, or not of this job's machines."""


class Restored(NamedTuple):
    """What of a snapshot lies here now as it was, and what of it was not brought back, with the reason."""

    lying: List[Entry]
    left: List[Tuple[str, str]]


def snapshot_names(store: Any) -> List[str]:
    """The names of all snapshots that have a manifest, the oldest first. What is no name is left out."""
    prefix = store.checkpoints
    found = [
        key[len(prefix) :].split("/")[0]
        for key, _ in store.list(prefix)
        if key.endswith("/manifest.json") and key.count("/") == prefix.count("/") + 1
    ]
    return sorted((name for name in found if is_name(name)), key=sequence_of)


def read_manifest(
    store: Any, name: str, key: Optional[str], trusted: Optional[Mapping[str, str]] = None
) -> Manifest:
    """A snapshot's manifest. `key` is the job's seal, `trusted` are SHA-256 of manifests by their name.

    Raises CorruptSnapshot, StoreAway, StoreRefused.
    """
    if not is_name(name):
        raise CorruptSnapshot("%r is no snapshot's name" % name[:80])
    data = store.get(store.checkpoints + name + "/manifest.json", LARGEST_MANIFEST)
    if data is None:
        raise CorruptSnapshot("it has no manifest")
    try:
        told = json.loads(data)
        manifest = parsed(told)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptSnapshot("its manifest cannot be read: %s" % str(error)[:200]) from error
    if manifest.name != name:
        raise CorruptSnapshot("its manifest is that of another snapshot")
    pinned = (trusted or {}).get(name)
    if key and pinned != hashlib.sha256(data).hexdigest() and not seal.holds(key, told):
        raise CorruptSnapshot("no machine of this job committed it: its seal is missing or wrong")
    return manifest


def bring_back(
    store: Any, manifest: Manifest, trees: Sequence[Tree], exact: bool = False, code: str = ""
) -> Restored:
    """Bring the trees of a snapshot back. What is missing comes; of what lies here and differs, the
    checkpoint that is resumed from gives way, and with `exact` all of the checkpoints. `code` is the digest
    of the code here: a file that came with other code is not written over.

    Raises CorruptSnapshot, StoreAway, StoreRefused, OSError; then nothing has changed.
    """
    lying: List[Entry] = []
    left: List[Tuple[str, str]] = []
    incoming: List[Tuple[Tree, str, List[Entry]]] = []
    resumed = _resumed(manifest)
    try:
        for tree in trees:
            wanted = []
            for entry in manifest.entries:
                if entry.tree != tree.name:
                    continue
                why = _refused(
                    tree, entry, exact or (entry.tree, entry.path) in resumed, code == manifest.code
                )
                if why:
                    left.append((tree.name + "/" + entry.path, why))
                elif entry.kind == "file" and _lies(tree, entry):
                    lying.append(entry)
                else:
                    wanted.append(entry)
            folder = os.path.join(tree.root, INCOMING + os.urandom(8).hex())  # a name that nobody foretells
            incoming.append((tree, folder, wanted))
            files = [entry for entry in wanted if entry.kind == "file"]
            if files:
                os.makedirs(folder)
                _fetch(store, files, folder)
        for tree, folder, wanted in incoming:
            _place(tree, folder, wanted)
            lying.extend(entry for entry in wanted if entry.kind == "file")
    finally:
        for _, folder, _ in incoming:
            shutil.rmtree(folder, ignore_errors=True)
    return Restored(lying, left)


def lying_of(manifest: Manifest, trees: Sequence[Tree]) -> List[Entry]:
    """The files of a snapshot that lie here as they were."""
    return [
        entry
        for tree in trees
        for entry in manifest.entries
        if entry.tree == tree.name and entry.kind == "file" and _lies(tree, entry)
    ]


def _resumed(manifest: Manifest) -> Set[Tuple[str, str]]:
    """The files of the checkpoint that is resumed from."""
    if manifest.checkpoint is None:
        return set()
    tree, path = manifest.checkpoint
    found = [_found(entry) for entry in manifest.entries if entry.tree == tree]
    own = {one.path for one in found if one.path == path or one.path.startswith(path + "/")}
    for one in checkpoint_sets(found):
        if own & set(one.paths):
            own.update(one.paths)
    return {(tree, one) for one in own}


def _found(entry: Entry) -> Found:
    return Found(
        entry.path, entry.kind, entry.size, entry.mtime, entry.mtime, 0, 0, entry.mode, entry.link, ""
    )


def _refused(tree: Tree, entry: Entry, gives_way: bool, same_code: bool) -> str:
    """Why an entry is not brought to its place; empty where it is."""
    path = os.path.join(tree.root, entry.path)
    top = os.path.realpath(tree.root)
    real = os.path.realpath(os.path.dirname(path))
    if real != top and not real.startswith(top.rstrip("/") + "/"):
        return "a link leads it out of its folder"
    if not os.path.lexists(path) or (entry.kind == "file" and _lies(tree, entry)):
        return ""
    if tree.name == CHECKPOINTS and gives_way:
        return ""
    if tree.name == WORK and tree.is_others(entry.path):
        return "" if same_code else "it came with the code, which is other code now"
    return "" if _is_there(path, entry) else "another one lies here already"


def _is_there(path: str, entry: Entry) -> bool:
    if entry.kind == "folder":
        return os.path.isdir(path)
    return entry.kind == "link" and os.path.islink(path) and os.readlink(path) == entry.link


def _lies(tree: Tree, entry: Entry) -> bool:
    path = os.path.join(tree.root, entry.path)
    try:
        if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) != entry.size:
            return False
        return file_digest(path, entry.part) == entry.sha256
    except OSError:  # it cannot be read
        return False


def _fetch(store: Any, files: Sequence[Entry], folder: str) -> None:
    """Each file under its number, proven."""
    fault = store.fetch_files(
        [
            ToFetch(
                Placed(entry.at, entry.size, entry.sha256, entry.part, entry.parts),
                os.path.join(folder, str(number)),
            )
            for number, entry in enumerate(files)
        ]
    )
    if fault is not None:
        raise CorruptSnapshot("%s %s" % (files[fault.number].path, fault.why))


def _place(tree: Tree, folder: str, wanted: Sequence[Entry]) -> None:
    """Folders, then files from the oldest to the newest, then links."""
    files = [entry for entry in wanted if entry.kind == "file"]
    numbers = {entry.path: str(number) for number, entry in enumerate(files)}
    for entry in wanted:
        if entry.kind == "folder":
            os.makedirs(os.path.join(tree.root, entry.path), exist_ok=True)
    files.sort(key=lambda entry: (entry.mtime, entry.path))
    for place, entry in enumerate(files):
        came = os.path.join(folder, numbers[entry.path])
        os.chmod(came, entry.mode | 0o600)
        os.utime(came, ns=(entry.mtime, entry.mtime))
        if place >= len(files) - _APART:
            time.sleep(APART_SECONDS)
        _give_name(came, os.path.join(tree.root, entry.path))
    for entry in wanted:
        if entry.kind == "link":
            came = os.path.join(tree.root, INCOMING + os.urandom(8).hex())
            os.symlink(entry.link, came)
            _give_name(came, os.path.join(tree.root, entry.path))


def _give_name(came: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path) and not os.path.islink(path):
        os.replace(path, _aside(path))
    os.replace(came, path)


def _aside(path: str) -> str:
    number = 1
    while os.path.lexists("%s.corrupt-%d" % (path, number)):
        number += 1
    return "%s.corrupt-%d" % (path, number)
