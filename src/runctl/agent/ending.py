"""Why an attempt is ended, and how much time that leaves."""

from __future__ import annotations

import threading
import time
from typing import Any, Dict, Optional, Tuple

from . import clock

GRACE_SECONDS = 90.0
NOTICE_SECONDS = 120.0  # what EC2 promises where a notice names no time


class Ending:
    """Why and until when an attempt is being ended; the first cause stays.

    `begun` is on the monotonic clock; `machine_goes_at` on the cloud's, None without a notice.
    """

    def __init__(self, spec: Dict[str, Any]) -> None:
        self.grace = float(spec.get("grace_seconds", GRACE_SECONDS))
        self.cause: Optional[str] = None
        self.message = ""
        self.begun = 0.0
        self.machine_goes_at: Optional[float] = None
        self.came = threading.Event()
        self._lock = threading.Lock()

    def begin(self, cause: str, message: str) -> None:
        with self._lock:
            if self.cause is None:
                self.begun, self.message, self.cause = time.monotonic(), message, cause
        self.came.set()

    def notice(self, at: Optional[float]) -> None:
        """The cloud takes the machine: a second notice counts where it names a nearer end."""
        goes = at if at is not None else clock.now() + NOTICE_SECONDS
        with self._lock:
            before = self.machine_goes_at
            self.machine_goes_at = goes if before is None else min(before, goes)
        self.begin("notice", "the cloud takes the machine back")

    def seconds_for_script(self, reserve: float) -> float:
        """The cloud's seconds that are left to the script; `reserve` belongs to uploads at a notice."""
        left = self.grace - clock.of_cloud(time.monotonic() - self.begun)
        if self.machine_goes_at is None:
            return left
        to_its_end = self.machine_goes_at - clock.now() - reserve
        return to_its_end if self.cause == "notice" else min(left, to_its_end)


def reason(spec: Dict[str, Any], now: float, signalled: bool, stop_asked: bool) -> Optional[Tuple[str, str]]:
    """The cause and the sentence, if anything asks for the end.

    Nobody signals the agent of a disposable machine but its operating system, on its way down.
    """
    if signalled and is_disposable(spec):
        return "shutdown", "the machine was shut down"
    if signalled or stop_asked:
        return "stop", "stopped as asked"
    deadline = spec.get("deadline")
    if deadline and now >= deadline:
        return "deadline", "its time is over"
    budget = spec.get("budget")
    if budget and _spent(budget, now) >= float(budget["usd"]):
        sums = _usd(_spent(budget, now)), _usd(float(budget["usd"]))
        return "budget", "%s of a budget of %s are spent" % sums
    return None


def is_disposable(spec: Dict[str, Any]) -> bool:
    return bool(spec.get("machine", {}).get("disposable"))


def _spent(budget: Dict[str, Any], now: float) -> float:
    hours = max(0.0, now - float(budget["since"])) / 3600
    return float(budget.get("spent_usd") or 0) + hours * float(budget.get("usd_per_hour") or 0)


def _usd(amount: float) -> str:
    return ("$%.2f" if amount >= 1 else "$%.4f") % amount
