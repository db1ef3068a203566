"""The cloud's time: the system's own, or what a sandbox publishes in the file named by RUNCTL_CLOCK."""

from __future__ import annotations

import json
import os
import time
from typing import Callable, Optional, Tuple

SHORTEST_WAIT = 0.05
"""Real seconds: however fast a clock runs, a poll never spins."""


_last = (0.0, 0.0, 1.0)


def _anchor() -> Tuple[float, float, float]:
    global _last  # noqa: PLW0603 (a clock that vanishes goes on as it last went)
    path = os.environ.get("RUNCTL_CLOCK")
    if path:
        try:
            with open(path, "rb") as file:
                anchor = json.load(file)
            _last = float(anchor["real"]), float(anchor["cloud"]), float(anchor["speed"])
        except (OSError, ValueError, KeyError):
            pass
    return _last


def now() -> float:
    """Seconds since the epoch on the cloud's clock."""
    real, cloud, speed = _anchor()
    return cloud + (time.time() - real) * speed


def booted() -> Optional[float]:
    """When this machine began to run; a sandbox tells its machines, for their kernel is the host's."""
    told = os.environ.get("RUNCTL_BOOTED")
    try:
        if told:
            return float(told)
        with open("/proc/uptime", "rb") as file:
            return now() - float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def real(seconds: float) -> float:
    """How long `seconds` of the cloud's time take in truth."""
    return max(SHORTEST_WAIT, seconds / _anchor()[2])


def of_cloud(seconds: float) -> float:
    """How much of the cloud's time passes in `seconds` of ours."""
    return seconds * _anchor()[2]


def wait(is_so: Callable[[], object], seconds: float, every: float = SHORTEST_WAIT) -> bool:
    """Whether it becomes so within `seconds`, looked at `every` few of them; both are real ones.

    It only sleeps. A lock or an event that is waited for with a limit waits for a moment of the system's
    clock, and for ever where that clock is another one in this process (faketime, checkpoint and restore).
    """
    until = time.monotonic() + seconds
    while not is_so():
        left = until - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(every, left))
    return True


def sleep(seconds: float) -> None:
    time.sleep(real(seconds))
