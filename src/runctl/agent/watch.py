"""What goes on whatever the work does: the heartbeat, the lease, and the reasons to end."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, Callable, Optional

from . import clock
from .attempt import Attempt
from .ending import Ending, reason
from .files import keep_last
from .machine import DeadMan

HEARTBEAT_SECONDS = 5.0
TICK = 0.25
STILL_SECONDS = 180.0
"""Real seconds without a turn of the work, after which it is given up: it turns every quarter of a second."""
_LOG_MOST, _LOG_KEPT = 16 * 1024**2, 1024**2


class Watch:
    """The main thread's part. It reads and sends nothing, so nothing that a script does holds it up.

    The files and the system, which may, have a thread each: one writes the state, one renews the lease.
    """

    def __init__(self, attempt: Attempt, ending: Ending, dead_man: DeadMan) -> None:
        self._attempt = attempt
        self._ending = ending
        self._dead_man = dead_man
        self._next_beat = 0.0
        self._watched = self._turned = time.monotonic()
        self.was_signalled = False

    def start(self) -> None:
        """Hear signals from now on; only the main thread may."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._hear)
        self._keep("beat", self._write_state)
        self._keep("lease", self._renew_lease)

    def over(self, work: threading.Thread) -> bool:
        """Watch over the work until it ends; False where it stands still."""
        while work.is_alive():
            try:
                self._watched = time.monotonic()
                if self._watched >= self._next_beat:
                    self._next_beat = self._watched + clock.real(HEARTBEAT_SECONDS)
                    self._attempt.heartbeat()
                self.ask()
            except Exception as error:
                self._attempt.note("the watch: %r" % error)
            clock.wait(lambda: not work.is_alive(), tick())
            if time.monotonic() - self._turned > STILL_SECONDS:
                return False
        return True

    def turned(self) -> None:
        """The work is not stuck: `looked` tells it to whoever reads the state."""
        self._turned = time.monotonic()
        if self._attempt.state["phase"] != "ended":
            self._attempt.state["looked"] = clock.now()

    def ask(self) -> None:
        """Begin the ending if anything asks for it now."""
        if self._ending.cause is None:
            stop_asked = self._attempt.stop_asked or os.path.exists(self._attempt.path("stop"))
            why = reason(self._attempt.spec, clock.now(), self.was_signalled, stop_asked)
            if why is not None:
                self._ending.begin(*why)

    def noticed(self, action: str, at: Optional[float]) -> None:
        """The cloud takes the machine."""
        now = clock.now()
        if self._attempt.state["notice_at"] is None:
            self._attempt.state["notice_at"] = now
        self._ending.notice(at)
        self._attempt.event("notice", action=action, time=at)

    def _hear(self, *_: Any) -> None:
        self.was_signalled = True

    def _keep(self, name: str, turn: Callable[[], None]) -> None:
        """A thread that takes a turn with every beat; one that fails is told of, and the next one comes."""

        def keep() -> None:
            while True:
                try:
                    turn()
                except Exception as error:
                    self._attempt.note("%s: %r" % (name, error))
                clock.sleep(HEARTBEAT_SECONDS)

        threading.Thread(target=keep, name=name, daemon=True).start()

    def _write_state(self) -> None:
        self._attempt.write()
        try:
            keep_last(self._attempt.path("agent.log"), _LOG_MOST, _LOG_KEPT)
        except OSError:  # there is none
            pass

    def _renew_lease(self) -> None:
        """An agent that does not watch any more must not keep its machine alive."""
        if time.monotonic() - self._watched < STILL_SECONDS:
            self._dead_man.put_off()


def tick() -> float:
    """Real seconds between two looks."""
    return TICK if clock.real(1.0) >= 1.0 else clock.SHORTEST_WAIT
