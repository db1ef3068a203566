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
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

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
        return datetime.fromtimestamp(anchor.cloud + (time.time() - anchor.real) * anchor.speed, UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / self.speed)

    @property
    def speed(self) -> float:
        return self._anchor().speed
