"""Whether steps go on while no checkpoint is kept: told while there is time to do something about it.

Times are the cloud's, in seconds.
"""

from __future__ import annotations

from typing import List, Optional

USUAL_TIMES = 4.0
"""So many times the longest of the last usual intervals between two checkpoints is a silence."""
LEAST_SECONDS = 120.0
FIRST_SECONDS = 1800.0
"""Where no checkpoint was kept yet, nobody knows what is usual."""
LEAST_STEPS = 3
"""So often the log must have named another step meanwhile: who does not go on has nothing to lose."""
_REMEMBERED = 5


class Silence:
    """Told of steps and of checkpoints, knows since when there should have been one."""

    def __init__(self) -> None:
        self._since: Optional[float] = None
        self._intervals: List[float] = []
        self._step: Optional[int] = None
        self._steps = 0

    def begins(self, now: float) -> None:
        """The script was started."""
        self._since, self._steps = now, 0

    def stepped(self, step: Optional[int]) -> None:
        """The newest step in the log is this one; nothing changes if it was so before."""
        if step is not None and step != self._step:
            self._step = step
            self._steps += 1

    def kept(self, now: float) -> None:
        """A new checkpoint was committed."""
        if self._since is not None:
            self._intervals = [*self._intervals[1 - _REMEMBERED :], now - self._since]
        self._since, self._steps = now, 0

    def since(self, now: float) -> Optional[float]:
        """When the last checkpoint was kept, or the script began, if that is too long ago; else None."""
        if self._since is None or self._steps < LEAST_STEPS:
            return None
        longest = max(LEAST_SECONDS, USUAL_TIMES * max(self._intervals)) if self._intervals else FIRST_SECONDS
        return self._since if now - self._since > longest else None
