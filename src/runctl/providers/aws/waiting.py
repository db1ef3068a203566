"""How often the cloud is asked while something is waited for: all tools of an account share its rate."""

from __future__ import annotations

from runctl.clock import Clock

FIRST, LONGEST = 1.0, 15.0
"""Seconds between two questions, on the cloud's clock: soon at first, and seldom in a long wait."""

_GROWTH = 1.5
_LEAST_REAL = 0.1
"""Real seconds: a clock that runs fast does not make the computer any faster."""


class Pause:
    """Waits that grow. EC2 gives an account some tens of questions a second, for all that ask there."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seconds = FIRST

    def take(self) -> None:
        self._clock.sleep(max(self._seconds, _LEAST_REAL * self._clock.speed))
        self._seconds = longer(self._seconds)


def longer(seconds: float) -> float:
    """The pause that follows one."""
    return min(max(seconds, FIRST) * _GROWTH, LONGEST)
