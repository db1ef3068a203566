"""The sandbox's own clock, which may run faster than the world's, and what is due on it."""

from __future__ import annotations

import heapq
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

FLOOR = 0.05
"""Real seconds that every delay takes at least, so that a state lasts long enough to be seen."""

log = logging.getLogger(__name__)


class CloudClock:
    """Cloud time: seconds since the epoch, `speed` of them in one real second.

    Published in `<folder>/clock.json`, in the format that `runctl.clock.FileClock` reads. A clock that finds
    the file of an earlier one goes on from it, so that cloud time never turns back.
    """

    def __init__(self, folder: Path, speed: float = 1.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "clock.json"
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._anchor = self._earlier() or (time.time(), time.time(), speed)
        self.set_speed(speed)

    def _earlier(self) -> tuple[float, float, float] | None:
        try:
            found = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        return float(found["real"]), float(found["cloud"]), float(found["speed"])

    def now(self) -> float:
        """The present, in seconds since the epoch of cloud time."""
        real, cloud, speed = self._anchor
        return cloud + (time.time() - real) * speed

    @property
    def speed(self) -> float:
        """Cloud seconds in one real second."""
        return self._anchor[2]

    def set_speed(self, speed: float) -> None:
        """Run at `speed` from now on; the time shown does not jump."""
        if not speed > 0:
            raise ValueError(f"a clock runs forward: speed {speed} is not above 0")
        with self._lock:
            real = time.time()
            before, cloud, old = self._anchor
            self._anchor = (real, cloud + (real - before) * old, speed)
            self._publish()
        for listener in self._listeners:
            listener()

    def real(self, seconds: float) -> float:
        """Real seconds that `seconds` of cloud time take at the present speed."""
        return seconds / self.speed

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of speed."""
        self._listeners.append(listener)

    def _publish(self) -> None:
        real, cloud, speed = self._anchor
        fresh = self.path.with_name("clock.json.new")
        fresh.write_text(json.dumps({"real": real, "cloud": cloud, "speed": speed}))
        fresh.replace(self.path)


class Timer:
    """One call that is due; `cancel` keeps it from being made."""

    __slots__ = ("_call", "due", "not_before")

    def __init__(self, due: float, not_before: float, call: Callable[[], object]) -> None:
        self.due = due
        self.not_before = not_before
        self._call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Do not make the call; too late is not an error."""
        self._call = None

    @property
    def cancelled(self) -> bool:
        """True once cancelled or made."""
        return self._call is None

    def fire(self) -> None:
        """Make the call, once."""
        call, self._call = self._call, None
        if call is None:
            return
        try:
            call()
        except Exception:
            log.exception("a scheduled call failed")


class Schedule:
    """Makes calls at cloud times, one after the other on one daemon thread: calls must not wait for long."""

    def __init__(self, clock: CloudClock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._closed = False
        clock.on_change(self._wake)
        threading.Thread(target=self._run, name="sandbox-schedule", daemon=True).start()

    def after(self, seconds: float, call: Callable[..., object], *arguments: object) -> Timer:
        """Call `call(*arguments)` after `seconds` of cloud time, if above 0 at least `FLOOR` real ones."""
        floor = FLOOR if seconds > 0 else 0.0
        timer = Timer(self._clock.now() + seconds, time.monotonic() + floor, lambda: call(*arguments))
        with self._changed:
            heapq.heappush(self._queue, (timer.due, next(self._order), timer))
            self._changed.notify()
        return timer

    def close(self) -> None:
        """Make no further call."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        while (timer := self._next()) is not None:
            timer.fire()

    def _next(self) -> Timer | None:
        with self._changed:
            while not self._closed:
                wait: float | None = None
                if self._queue:
                    timer = self._queue[0][2]
                    wait = max(
                        self._clock.real(timer.due - self._clock.now()), timer.not_before - time.monotonic()
                    )
                    if wait <= 0 or timer.cancelled:
                        heapq.heappop(self._queue)
                        return timer
                self._changed.wait(wait)
            return None
