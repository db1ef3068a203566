"""How long something is tried that may fail for a while or hang for ever."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Callable, List, Optional

from . import clock
from .ending import Ending
from .failures import StoreAway, StoreDenied, StoreRefused

STORE_PATIENCE = 900.0
DENIED_PATIENCE = 300.0
"""Seconds in which rights may come back, from the first time that they were missing on."""
DISK_PATIENCE = 5.0  # a full disk does not return by itself
ENDING_SECONDS = 1800.0
"""The most that uploads take after the grace of an ending that was asked for."""
LAST_WORDS_SECONDS = 20.0
"""Real seconds for the log's end and the state, however late it is."""
_TURN = 0.1


class Patience:
    """What there is time for at the end of an attempt; `turn` is called while something is waited for."""

    def __init__(
        self, store: Any, ending: Ending, note: Callable[[str], None], turn: Callable[[], None]
    ) -> None:
        self._store = store
        self._ending = ending
        self._note = note
        self._turn = turn
        self._denied_since: Optional[float] = None

    def spend(self, send: Callable[[], Any], at_least: float = 0.0) -> None:
        """Keep trying while the store is away, and leave behind what hangs.

        Ends when there is no time any more, and not before `at_least` so many real seconds.
        """
        begun = time.monotonic()
        worker = threading.Thread(target=self._try, args=(send, begun, at_least), daemon=True)
        worker.start()
        while worker.is_alive():
            self._turn()
            clock.wait(lambda: not worker.is_alive(), _TURN, every=0.02)
            if worker.is_alive() and self._is_out_of_time(begun, at_least):
                self._note("given up: there is no time left for it")
                return

    def _try(self, send: Callable[[], Any], begun: float, at_least: float) -> None:
        patience = clock.real(STORE_PATIENCE if self._store.mirrors else DISK_PATIENCE)
        wait = 0.5
        while True:
            try:
                send()
                return
            except (StoreAway, StoreDenied, OSError) as error:
                since = max(begun, self._store.moved)
                if isinstance(error, StoreDenied):
                    self._denied_since = since = self._denied_since or time.monotonic()
                    patience = clock.real(DENIED_PATIENCE)
                if self._is_out_of_time(begun, at_least) or time.monotonic() - since >= patience:
                    self._note("given up: %s" % error)
                    return
                clock.sleep(wait)
                wait = min(wait * 2, 10.0)
            except StoreRefused as error:
                self._note("refused: %s" % error)
                return
            except Exception as error:
                self._note("given up: the agent failed: %r" % error)
                return

    def left(self) -> float:
        """Real seconds until the machine goes, or until an ending that was asked for takes too long."""
        ending, left = self._ending, float("inf")
        if ending.cause is not None:
            left = ending.begun + real_time(ending.grace + ENDING_SECONDS) - time.monotonic()
        if ending.machine_goes_at is not None:
            left = min(left, (ending.machine_goes_at - clock.now()) / clock.of_cloud(1.0))
        return left

    def _is_out_of_time(self, begun: float, at_least: float) -> bool:
        """There is no time left, or nothing moves any more."""
        now = time.monotonic()
        if now < begun + at_least:
            return False
        return self.left() <= 0 or now >= max(begun, self._store.moved) + real_time(STORE_PATIENCE)


def within(seconds: float, do: Callable[[], Any]) -> bool:
    """Whether something was done in so many real seconds; what hangs is left behind."""
    done: List[bool] = []

    def work() -> None:
        try:
            do()
        except Exception as error:
            say("agent: %r\n" % error)
        done.append(True)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    clock.wait(lambda: not worker.is_alive(), seconds)
    return bool(done)


def say(text: str) -> None:
    """What goes to the agent's own log may fail: it lies on the disk that is full."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def real_time(seconds: float) -> float:
    """Real seconds for so many of the cloud's, and at least a minute: a fast clock speeds up no work."""
    return max(60.0, clock.real(seconds))
