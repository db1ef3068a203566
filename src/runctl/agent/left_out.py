"""What of the trees is not kept, and why; the reasons are read by people."""

from __future__ import annotations

from typing import Iterator, Mapping, Optional, Sequence, Tuple

from .choosing import Known
from .looking import View
from .snapshot import Entry
from .trees import stamp_of
from .walk import FILE, Found

Left = Tuple[str, str, str]
"""A tree's name, a path in it, the reason."""

BEING_WRITTEN = "it was still being written"
NO_TIME = "there was no time left to send it"
_EARLIER = "only an earlier state of it is kept: "


def never_kept(view: View, beyond: Mapping[str, Sequence[Found]]) -> Iterator[Left]:
    """What no snapshot takes: what is no file, and what exceeds the bound."""
    for tree, found in view.others:
        yield tree, found.path, found.fault
    for tree, files in beyond.items():
        for found in files:
            yield tree, found.path, "%d bytes, beyond what --keep-written keeps" % found.size


def not_kept(
    view: View,
    beyond: Mapping[str, Sequence[Found]],
    known: Mapping[str, Mapping[str, Known]],
    kept: Mapping[str, Mapping[str, Entry]],
    fates: Mapping[Tuple[str, str], str],
    usual: str,
) -> Iterator[Left]:
    """What lies there at the end and is not in the newest snapshot as it is.

    `known` are the states of files that the store has, `kept` the entries of the newest snapshot, by tree.
    `fates` say why files were given up, `usual` of all others.
    """
    for tree, found in view.found.items():
        too_much = {one.path for one in beyond.get(tree, ())}
        for one in found:
            if one.kind != FILE or one.path in too_much:
                continue
            have, entry = known[tree].get(one.path), kept[tree].get(one.path)
            if _is_state(one, have, entry):
                continue
            why = fates.get((tree, one.path), usual)
            yield tree, one.path, why if entry is None else _EARLIER + why


def _is_state(one: Found, have: Optional[Known], entry: Optional[Entry]) -> bool:
    """Whether the snapshot's entry is the file as it is now."""
    if have is None or entry is None or have.stamp != stamp_of(one):
        return False
    return (have.entry.size, have.entry.sha256) == (entry.size, entry.sha256)
