"""Whose turn it is to be sent while the script runs.

What takes very long to send must keep no later checkpoint waiting: it is broken off, and comes again when as
much time has passed twice, then for twice as long. What is asked for at the end has no turns.
"""

from __future__ import annotations

import time
from typing import Callable, Dict, Iterable, Tuple

from .patience import real_time

File = Tuple[str, str]
"""A tree's name and a path in it."""

TURN_SECONDS = 300.0
"""The cloud's seconds that what is beside the newest checkpoint is sent at first."""


class Turns:
    """Thread-safe in what it is used for: one thread sends, another says `hurry`."""

    def __init__(self) -> None:
        self._hurries = 0
        self._not_before: Dict[File, float] = {}  # on the monotonic clock
        self._lengths: Dict[File, float] = {}  # real seconds of its next turn
        self._begun = self._length = 0.0

    def hurry(self) -> None:
        """The turn that has begun is over."""
        self._hurries += 1

    def has(self, file: File) -> bool:
        """Whether it may be sent now."""
        return time.monotonic() >= self._not_before.get(file, 0.0)

    def begin(self, files: Iterable[File]) -> Callable[[], bool]:
        """Begin a turn; what is returned tells whether it is over."""
        usual = real_time(TURN_SECONDS)
        hurries, self._begun = self._hurries, time.monotonic()
        self._length = max((self._lengths.get(file, usual) for file in files), default=usual)
        until = self._begun + self._length
        return lambda: hurries != self._hurries or time.monotonic() >= until

    def broken_off(self, files: Iterable[File]) -> None:
        """They did not come through in the turn that was begun last."""
        now = time.monotonic()
        for file in files:
            self._not_before[file] = now + 2 * (now - self._begun)
            self._lengths[file] = 2 * self._length
