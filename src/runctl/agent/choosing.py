"""Of what a snapshot of one tree consists: what is sent, what the store has already, what stays as it was.

Pure: nothing is read here.
"""

from __future__ import annotations

import os
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from .sets import CheckpointSet
from .snapshot import Entry
from .trees import Stamp, stamp_of
from .walk import Found


class Known(NamedTuple):
    """A state of a file whose bytes the store has."""

    stamp: Stamp
    entry: Entry


class ToSend(NamedTuple):
    """A file that the store does not have as it is now; `base` is an earlier state of it."""

    found: Found
    base: Optional[Entry]


class Part(NamedTuple):
    """A tree's part of a snapshot. `checkpoint` is its newest complete set."""

    entries: List[Entry]
    to_send: List[ToSend]
    checkpoint: Optional[CheckpointSet]


def part_of(
    tree: str,
    found: Sequence[Found],
    sets: Sequence[CheckpointSet],
    take: Set[str],
    known: Mapping[str, Known],
    before: Mapping[str, Entry],
    mates: Mapping[str, Sequence[str]],
) -> Part:
    """`take` are the paths that are kept as they are now; `before` are the entries of the snapshot before,
    `mates` the files of the set that each of its checkpoints' files was of.

    What is not taken stays as it was in the snapshot before: the whole of a set, also what is gone of it.
    """
    entries: Dict[str, Entry] = {}
    to_send: List[ToSend] = []
    for path in sorted(_carried(found, sets, take, before, mates)):
        entries[path] = before[path]
    for one in found:
        if one.kind == "folder":
            entries[one.path] = Entry(tree, one.path, "folder")
        elif one.kind == "file" and one.path in take:
            have = known.get(one.path)
            entries.pop(one.path, None)
            if have is not None and have.stamp == stamp_of(one):
                entries[one.path] = have.entry._replace(mode=one.mode, mtime=max(0, one.mtime_ns))
            else:
                to_send.append(ToSend(one, have.entry if have else before.get(one.path)))
    _add_links(tree, found, entries, {one.found.path for one in to_send}, before)
    complete = [one for one in sets if take.issuperset(one.paths)]
    return Part(_without_conflicts(entries), to_send, complete[-1] if complete else None)


def is_of(path: str, one: CheckpointSet) -> bool:
    """Whether a path belongs to a set, also where it is gone now."""
    return path in one.paths or (bool(one.folder) and path.startswith(one.folder + "/"))


def _carried(
    found: Sequence[Found],
    sets: Sequence[CheckpointSet],
    take: Set[str],
    before: Mapping[str, Entry],
    mates: Mapping[str, Sequence[str]],
) -> Iterable[str]:
    waiting = [one for one in sets if not take.issuperset(one.paths)]
    folders = [one for one in waiting if one.folder]
    alone = {path for one in waiting for path in one.paths}
    alone.update(mate for path in tuple(alone) for mate in mates.get(path, ()))
    alone.update(one.path for one in found if one.kind == "file" and one.path not in take)
    for path in before:
        if path in alone or any(is_of(path, one) for one in folders):
            yield path


def _add_links(
    tree: str,
    found: Sequence[Found],
    entries: Dict[str, Entry],
    sent: Set[str],
    before: Mapping[str, Entry],
) -> None:
    """A link to what is not kept yet would lead nowhere: it stays as it was."""
    there = {one.path for one in found}
    kept = set(entries) | sent
    kept.update(folder for path in tuple(kept) for folder in _folders_above(path))
    for one in found:
        if one.kind != "link":
            continue
        target = os.path.normpath(os.path.join(os.path.dirname(one.path), one.target))
        if target in kept or target == "." or not _is_or_holds(target, there):
            entries[one.path] = Entry(tree, one.path, "link", link=one.target)
        elif one.path in before:
            entries[one.path] = before[one.path]


def _is_or_holds(target: str, there: Set[str]) -> bool:
    return target in there or any(path.startswith(target + "/") for path in there)


def _folders_above(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _without_conflicts(entries: Dict[str, Entry]) -> List[Entry]:
    """What was a folder before may be a file now, or the other way round: what is now counts."""
    files = {path for path, entry in entries.items() if entry.kind != "folder"}
    return [
        entry
        for path, entry in sorted(entries.items())
        if not any(above in files for above in _folders_above(path))
        and not (entry.kind == "folder" and any(other.startswith(path + "/") for other in files))
    ]


def newest_checkpoint(parts: Sequence[Tuple[str, Part]]) -> Optional[Tuple[str, CheckpointSet]]:
    """The tree and the set that a resume is given: the checkpoint folder's, else another's, as they come."""
    for tree, part in parts:
        if part.checkpoint is not None:
            return tree, part.checkpoint
    return None
