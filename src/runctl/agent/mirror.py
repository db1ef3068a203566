"""What must not be lost goes to the store as it happens: the state by one thread, the log by another."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any, Callable, Optional, Tuple

from . import clock, seal
from .attempt import Attempt
from .failures import StoreAway, StoreRefused
from .output import Output, left_out

LOG_SECONDS = 5.0
STATE_SECONDS = 15.0
LONGEST_WAIT = 30.0
LARGEST_ORDER = 4096
LARGEST_PIECE = 4 * 1024 * 1024
MOST_SENT = 4 * 1024**3
"""Of an attempt's log. A script that prints more is followed by samples: storing costs, too."""
SAMPLE = 64 * 1024
LAST_WORDS = 4 * 1024 * 1024
"""What is sent of the log at the end in any case: its newest part tells most of a failure."""
SLOWEST = 1e6
_PIECE = re.compile("[0-9]{12,15}")


class Mirror:
    """Threads that keep the store's copy close behind; an outage only delays it.

    The log in the store has no gaps: what was left out is a line there, so its bytes are counted anew.
    """

    def __init__(self, attempt: Attempt, store: Any, output: Output) -> None:
        self._attempt = attempt
        self._store = store
        self._output = output
        self._prefix = "attempt-%d/" % attempt.number
        self._wakes = (threading.Event(), threading.Event())
        self._log_ends = threading.Event()
        self._log_sending, self._state_sending = threading.Lock(), threading.Lock()
        self._sent: Optional[int] = None  # bytes of the store's log; None before the store was asked
        self._at = 0  # the byte of the script's log that comes next
        self._rate = 0.0  # bytes a second, of the newest large piece
        self._events_sent = 0

    def start(self) -> None:
        if not self._store.mirrors:
            return
        never = threading.Event()
        for name, wake, send, every, over in (
            ("log", self._wakes[0], self._follow_log, LOG_SECONDS, self._log_ends),
            ("state", self._wakes[1], self.send_state, STATE_SECONDS, never),
            ("orders", threading.Event(), self._look_for_stop, STATE_SECONDS, never),
        ):
            work = (wake, send, every, over)
            threading.Thread(target=self._keep, args=work, name=name, daemon=True).start()

    def hurry(self) -> None:
        """The state changed: others should see it soon."""
        for wake in self._wakes:
            wake.set()

    def end_log(self) -> None:
        """Nothing more is printed: `send_rest` sends what there is. The state is sent to the very end."""
        self._log_ends.set()

    def _keep(
        self, wake: threading.Event, send: Callable[[], None], every: float, over: threading.Event
    ) -> None:
        wait = every
        while not over.is_set():
            try:
                send()
                wait = every
            except (StoreAway, StoreRefused, OSError):
                wait = LOG_SECONDS if every != LOG_SECONDS else min(wait * 1.5, LONGEST_WAIT)
            except Exception as error:  # no thread ends without a word, or for one bad turn
                self._attempt.note("the store's copy is held up: %r" % error)
            wake.wait(clock.real(wait))
            wake.clear()

    def _look_for_stop(self) -> None:
        """Others can write to the store: only an order with the job's seal counts."""
        key = self._attempt.seal
        if not key or self._attempt.stop_asked:
            return
        data = self._store.get(self._prefix + "stop", LARGEST_ORDER)
        try:
            told = json.loads(data or b"null")
        except (ValueError, RecursionError):
            return
        mine = {"job": self._attempt.spec["job"], "attempt": self._attempt.number}
        if isinstance(told, dict) and seal.holds(key, told, seal.STOP):
            self._attempt.stop_asked = all(told.get(name) == value for name, value in mine.items())

    def send_state(self) -> None:
        """Raises StoreAway, StoreRefused."""
        if not self._store.mirrors:
            return
        with self._state_sending:
            count = self._attempt.event_count
            if count != self._events_sent:
                self._store.put(self._prefix + "events.jsonl", self._attempt.events(), tries=1)
                self._events_sent = count
            self._store.put(self._prefix + "state.json", self._attempt.snapshot(), tries=1)

    def send_rest(self, until: float) -> None:
        """Send what the log still has, in order; when `until` is near, only its newest part.

        `until` is on the monotonic clock. Raises StoreAway, StoreRefused, OSError.
        """
        if not self._store.mirrors:
            return
        with self._log_sending:
            self._ask_what_was_sent()
            self._send(until, lambda: False)

    def _follow_log(self) -> None:
        with self._log_sending:
            self._ask_what_was_sent()
            self._send(float("inf"), self._log_ends.is_set)

    def _ask_what_was_sent(self) -> None:
        """An agent of this very attempt may have sent some before it died."""
        if self._sent is None:
            pieces = self._store.list(self._prefix + "log/")
            named = [(key.rpartition("/")[2], size) for key, size in pieces]
            sent = max((int(name) + size for name, size in named if _PIECE.fullmatch(name)), default=0)
            self._at = sent + int(self._attempt.state["log_left_out"])
            self._sent = sent

    def _send(self, until: float, is_over: Callable[[], bool]) -> None:
        """Send pieces of what is there now; without time for all of it, only the last words."""
        end = self._output.size()
        self._at = min(self._at, end)  # somebody cut the log
        while self._at < end and not is_over():
            is_late = time.monotonic() > until - LAST_WORDS / (self._rate or SLOWEST)
            piece, at = self._next(end, end - LAST_WORDS if is_late else 0)
            if not piece:  # it was cut just now
                return
            begun = time.monotonic()
            self._store.put("%slog/%012d" % (self._prefix, self._sent), piece)
            if len(piece) >= LARGEST_PIECE // 4:
                self._rate = len(piece) / max(time.monotonic() - begun, 0.001)
            self._sent = (self._sent or 0) + len(piece)
            self._at = at
            self._attempt.state["log_left_out"] = self._at - self._sent
            self._attempt.state["log_mirrored"] = self._sent

    def _next(self, end: int, not_before: int) -> Tuple[bytes, int]:
        """The next piece, and the byte of the script's log behind it."""
        while True:
            hole = self._output.hole
            begin = max(self._at, not_before)
            if (self._sent or 0) >= MOST_SENT:
                begin = max(begin, end - (SAMPLE if not self._log_ends.is_set() else LAST_WORDS))
            if hole[0] <= begin < hole[1]:
                begin = hole[1]
            stop = min(end, begin + LARGEST_PIECE)
            if begin < hole[0]:
                stop = min(stop, hole[0])
            data = self._output.read(begin, stop - begin)
            if hole == self._output.hole:  # else what was read may be zeros by now
                break
        said = left_out(begin - self._at) if begin > self._at else b""
        return said + data, begin + len(data)
