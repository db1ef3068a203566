"""How a long step of an operation goes: its rate, its end, its cost; and that Ctrl-C ends it early."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from types import FrameType
from typing import Any

from runctl.events import Progress
from runctl.providers.aws import instances
from runctl.resources.stager import State
from runctl.resources.steps import Surroundings

MIB = 1024 * 1024


class Pace:
    """How fast it goes, when it will end, and what it has cost, from one look to the next."""

    def __init__(self, around: Surroundings, request: Mapping[str, Any]) -> None:
        self._around = around
        self._request = request
        self._begun = time.monotonic()
        found = instances.get(around.session, request["instance"])
        self._since = found.launched if found else around.session.cloud.clock.now()
        self._seen: list[tuple[float, int]] = []

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def show(self, state: State) -> None:
        done = state.copied_bytes + state.coming_bytes
        self._seen = [*self._seen[-9:], (time.monotonic(), done)]
        rate = _rate(self._seen)
        parts = [f"{self._request['location']} to {self._request['volume']}"]
        if rate > 0:
            left = max(0, state.wanted_bytes - done) / rate
            parts.append(f"{rate / MIB:.0f} MiB/s, about {_minutes(left)} left")
        if (cost := self.cost()) is not None:
            parts.append(f"${cost:.4f} so far")
        task = f"{state.phase} {', '.join(parts)}"
        self._around.emit(
            Progress(task=task, done=done / MIB, total=round(state.wanted_bytes / MIB, 1), unit="MiB")
        )

    def cost(self) -> Decimal | None:
        """USD from the launch of a temporary machine on; None where it is another's, or not known."""
        rate = self._request.get("usd_per_hour")
        if rate is None:
            return None
        hours = (self._around.session.cloud.clock.now() - self._since).total_seconds() / 3600
        return Decimal(rate) * Decimal(hours)


def _rate(seen: list[tuple[float, int]]) -> float:
    (begun, first), (now, last) = seen[0], seen[-1]
    return (last - first) / (now - begun) if now > begun else 0.0


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def hearing(stopping: threading.Event) -> Generator[None]:
    """The first Ctrl-C ends a long step early; whoever listened before hears it, too."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def hear(number: int, frame: FrameType | None) -> None:
        stopping.set()
        if before is not signal.default_int_handler:
            before(number, frame)  # it sets what the next one does

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is hear:
            signal.signal(signal.SIGINT, before)
