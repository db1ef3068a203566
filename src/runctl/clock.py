"""Where time comes from: the wall clock, or a sandbox cloud's clock that may run faster.

A sandbox publishes its clock in a small JSON file, so that every process, the agent on a machine
included, reads the same time without asking a server:

    {"real": 1790000000.0, "cloud": 1790003600.0, "speed": 20.0}

means that at real time `real` (seconds since the epoch) the cloud's clock showed `cloud`, and that it has
run `speed` times as fast since.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

TOLERATED = 5.0
"""Real seconds by which this computer's clock may differ from the cloud's without being corrected."""

_behind = 0.0


def real_time() -> float:
    """Seconds since the epoch, by the clock of the cloud that this process talks to, once it was heard of.

    Machines and stores have the right time. A laptop that has not would take each of them for silent.
    """
    return time.time() + _behind


def heard(date: float, asked: float, answered: float) -> float:
    """Learn from the time that a server gave, in whole seconds, between two of `real_time`.

    Returns by how many seconds the clock is behind in all, negative where it is ahead.
    """
    global _behind  # noqa: PLW0603 (a process has one clock)
    if date > answered + TOLERATED:
        _behind += date - answered
    elif date + 1 < asked - TOLERATED:
        _behind += date + 1 - asked
    return _behind


class Clock(Protocol):
    """Time as a cloud sees it."""

    def now(self) -> datetime:
        """The present, in UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait `seconds` of this clock's time."""
        ...

    @property
    def speed(self) -> float:
        """Seconds of this clock in one real second."""
        ...


class SystemClock(msgspec.Struct, frozen=True):
    """This computer's own clock, corrected by what the cloud said."""

    def now(self) -> datetime:
        return datetime.fromtimestamp(real_time(), UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    @property
    def speed(self) -> float:
        return 1.0


class _Anchor(msgspec.Struct, frozen=True):
    """The file's contents."""

    real: float
    cloud: float
    speed: float


class FileClock(msgspec.Struct, frozen=True):
    """A clock that a sandbox publishes in a file and may speed up at any moment."""

    path: Path

    def _anchor(self) -> _Anchor:
        return msgspec.json.decode(self.path.read_bytes(), type=_Anchor)

    def now(self) -> datetime:
        anchor = self._anchor()
        return datetime.fromtimestamp(anchor.cloud + (real_time() - anchor.real) * anchor.speed, UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self.speed)

    @property
    def speed(self) -> float:
        return self._anchor().speed
