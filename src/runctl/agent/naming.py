"""The names of an attempt's snapshots: a number that was claimed, and what the snapshot is named after."""

from __future__ import annotations

from typing import Any, Optional, Tuple

from .files import to_json
from .restoring import snapshot_names
from .snapshot import can_be_named, sequence_of

TOO_HIGH = 10**8
"""No job has as many snapshots; names have room for nine times as many above it."""


class Naming:
    """A name is claimed before the first byte: an agent that was given up for lost may still be writing."""

    def __init__(self, store: Any, attempt: int) -> None:
        self._store = store
        self._attempt = attempt
        self._sequence: Optional[int] = None
        self._claimed: Optional[Tuple[str, str]] = None  # a source, the name that is ours

    def claim(self, source: str) -> str:
        """A name that is ours alone. Raises StoreAway, StoreRefused."""
        if not can_be_named(source):
            source = "checkpoint"
        if self._claimed is not None and self._claimed[0] == source:
            return self._claimed[1]  # an upload that was broken off goes on under its name
        if self._sequence is None:
            found = (sequence_of(name) for name in snapshot_names(self._store))
            # Others can write there: a number from which none could be counted on is not counted on from.
            self._sequence = max((number for number in found if number < TOO_HIGH), default=0)
        while True:
            self._sequence += 1
            name = "%06d-%s" % (self._sequence, source)
            if self._store.create(self._store.checkpoints + name + "/.claim", to_json(self._attempt)):
                self._claimed = (source, name)
                return name

    def named(self, name: str, source: str) -> str:
        """What could not be sent may have been the newest checkpoint: the snapshot is named after another."""
        if name and (name.split("-", 1)[1] == source or not can_be_named(source)):
            return name
        return self.claim(source)

    def used(self) -> None:
        """The claimed name is that of a snapshot now."""
        self._claimed = None
