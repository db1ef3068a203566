"""What must not be lost goes to the store as it happens: state, log in pieces, events."""

from __future__ import annotations

import os
import re
import threading
from typing import Any, Optional

from . import clock
from .attempt import Attempt
from .failures import StoreAway, StoreRefused

LOG_SECONDS = 5.0
STATE_SECONDS = 15.0
LARGEST_PIECE = 4 * 1024 * 1024
_PIECE = re.compile("[0-9]{12,15}")


class Mirror:
    """A thread that keeps the store's copy close behind; an outage only delays it."""

    def __init__(self, attempt: Attempt, store: Any) -> None:
        self._attempt = attempt
        self._store = store
        self._prefix = "attempt-%d/" % attempt.number
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._sent: Optional[int] = None  # bytes of the log; None before the store was asked
        self._events_sent = 0
        self._state_due = 0.0
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        if self._store.mirrors:
            self._thread.start()

    def hurry(self) -> None:
        """The state changed: others should see it soon."""
        self._state_due = 0.0
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def flush(self) -> None:
        """Send all that there is, now. Raises StoreAway, StoreRefused."""
        if not self._store.mirrors:
            return
        with self._one_at_a_time:
            self._send_log()
            self._send_state()

    def _run(self) -> None:
        wait = LOG_SECONDS
        while not self._stop.is_set():
            try:
                with self._one_at_a_time:
                    self._send_log()
                    if clock.now() >= self._state_due:
                        self._state_due = clock.now() + STATE_SECONDS
                        self._send_state()
                wait = LOG_SECONDS
            except (StoreAway, StoreRefused, OSError):
                self._state_due = 0.0
                wait = min(wait * 1.5, 30.0)
            self._wake.wait(clock.real(wait))
            self._wake.clear()

    def _send_state(self) -> None:
        count = self._attempt.event_count
        if count != self._events_sent:
            self._store.put(self._prefix + "events.jsonl", self._attempt.events())
            self._events_sent = count
        self._store.put(self._prefix + "state.json", self._attempt.snapshot())

    def _sent_before(self) -> int:
        """How much of the log an agent of this very attempt sent before it died."""
        pieces = self._store.list(self._prefix + "log/")
        named = [(key.rpartition("/")[2], size) for key, size in pieces]
        return max((int(name) + size for name, size in named if _PIECE.fullmatch(name)), default=0)

    def _send_log(self) -> None:
        if self._sent is None:
            self._sent = self._sent_before()
        try:
            size = os.path.getsize(self._attempt.log)
        except OSError:  # no log yet
            return
        while self._sent < size:
            with open(self._attempt.log, "rb") as file:
                file.seek(self._sent)
                piece = file.read(LARGEST_PIECE)
            self._store.put("%slog/%012d" % (self._prefix, self._sent), piece)
            self._sent += len(piece)
            self._attempt.state["log_mirrored"] = self._sent
