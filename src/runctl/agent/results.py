"""What a script leaves in its output folder, sent to the store."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator, Set, Tuple

from .checkpoints import kind_of
from .failures import SourceChanged, StoreRefused


class Results:
    """The files of one folder; whoever sends again sends only what did not arrive."""

    def __init__(self, folder: str, store: Any, leave_out: Callable[[str, str], None]) -> None:
        self._folder = folder
        self._store = store
        self._leave_out = leave_out
        self._done: Set[str] = set()

    def send(self) -> None:
        """Send every regular file; what cannot be sent is told and holds up nothing else.

        Raises StoreAway.
        """
        for path, kind in self._found():
            fault = kind
            if path in self._done:
                continue
            whole = os.path.join(self._folder, path)
            try:
                if not fault:
                    key = "outputs/" + path.replace(os.sep, "/")
                    self._store.put_file(key, whole, os.path.getsize(whole))
            except (SourceChanged, StoreRefused, OSError) as error:
                fault = str(error)
            if fault:
                self._leave_out("outputs/" + path, fault)
            self._done.add(path)

    def _found(self) -> Iterator[Tuple[str, str]]:
        """Relative paths, and why one cannot be sent."""
        for parent, folders, leaves in os.walk(self._folder):
            for leaf in sorted(
                leaves + [item for item in folders if os.path.islink(os.path.join(parent, item))]
            ):
                whole = os.path.join(parent, leaf)
                path = os.path.relpath(whole, self._folder)
                try:
                    yield path, kind_of(whole)
                except OSError as error:  # it vanished
                    yield path, str(error.strerror)
