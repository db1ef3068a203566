"""Threads that carry out the pieces of a transfer, count what moved and keep what failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from runctl.errors import ConfigError, Interrupted, TrainctlError
from runctl.events import Emit, Progress
from runctl.storage.entries import Entry
from runctl.storage.listing import LeftOut, printable

Piece = Callable[[], None]

_TOLD_EVERY = 0.2
_DENIED_IN_A_ROW = 20
_ENDING = 10.0
"""Seconds that a Ctrl-C gives to the pieces in flight."""


class Stopped(Exception):
    """The transfer was told to end: what is in flight stays as it is."""


class Crew:
    """Workers of one transfer. `bandwidth` is in bytes per second over all of them, None for no limit."""

    def __init__(
        self, workers: int, *, emit: Emit, task: str, total: int, bandwidth: int | None = None
    ) -> None:
        self.moved_bytes = 0
        self.moved_files = 0
        self.equal_files = 0
        self.failed: list[LeftOut] = []
        self._workers = workers
        self._emit, self._task, self._total = emit, task, total
        self._bandwidth = bandwidth
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._pull = threading.Lock()
        self._ending = threading.Event()
        self._denied = 0
        self._fatal: BaseException | None = None

    def run(self, pieces: Iterator[Piece], *, now_and_then: Callable[[], None] = lambda: None) -> None:
        """Carry out all pieces. Raises Interrupted after a Ctrl-C, and what makes every piece fail."""
        threads = [
            threading.Thread(target=self._work, args=(pieces,), name=f"transfer-{number}", daemon=True)
            for number in range(self._workers)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(_TOLD_EVERY)
                    self._tell()
                    now_and_then()
        except KeyboardInterrupt:
            self._end(threads)
            raise Interrupted(
                "The transfer was interrupted",
                why=f"{self.moved_files} files are complete",
                next="give the same command again: it goes on where it stopped",
            ) from None
        if self._fatal is not None:
            raise self._fatal

    def moved(self, size: int) -> None:
        """Count bytes that went over, and slow down to the bandwidth. Raises Stopped."""
        with self._lock:
            self.moved_bytes += size
            ahead = (
                self.moved_bytes / self._bandwidth - (time.monotonic() - self._began)
                if self._bandwidth
                else 0.0
            )
        if ahead > 0:
            self._ending.wait(ahead)
        self.check()

    def done(self) -> None:
        with self._lock:
            self.moved_files += 1

    def equal(self) -> None:
        with self._lock:
            self.equal_files += 1

    def check(self) -> None:
        """Raises Stopped where the transfer ends."""
        if self._ending.is_set():
            raise Stopped

    def guarded(self, entry: Entry, work: Callable[[Entry], None]) -> Piece:
        """A piece whose failure is that of its file."""

        def piece() -> None:
            try:
                work(entry)
            except Exception as error:
                self.fail(entry.key, error)

        return piece

    def fail(self, name: str, error: Exception) -> None:
        """Note that a file did not go over. An error that every other file will meet ends the transfer."""
        if isinstance(error, Stopped):
            return
        if isinstance(error, ConfigError) or getattr(error, "ends_all", False) or self._all_are_denied(error):
            self._fatal = self._fatal or error
            self._ending.set()
            return
        self.failed.append(LeftOut(printable(name), reason(error)))

    def _all_are_denied(self, error: Exception) -> bool:
        """One object may have a key or rights of its own; if nothing can be read, the rights are missing."""
        if getattr(error, "code", "") != "AccessDenied" or self.moved_files:
            return False
        self._denied += 1
        return self._denied >= _DENIED_IN_A_ROW

    def _work(self, pieces: Iterator[Piece]) -> None:
        while not self._ending.is_set():
            try:
                with self._pull:
                    piece = next(pieces, None)
                if piece is None:
                    return
                piece()
            except Stopped:
                return
            except BaseException as error:  # a fault of ours must not look like a finished transfer
                self._fatal = self._fatal or error
                self._ending.set()
                return

    def _end(self, threads: list[threading.Thread]) -> None:
        self._ending.set()
        deadline = time.monotonic() + _ENDING
        for thread in threads:
            if thread.ident is not None:  # a Ctrl-C may come before all have begun
                thread.join(max(0.0, deadline - time.monotonic()))

    def _tell(self) -> None:
        done = self.moved_bytes
        rate = done / max(time.monotonic() - self._began, 1e-3)
        left = max(0, self._total - done) / rate if rate else None
        self._emit(
            Progress(task=self._task, done=done, total=self._total, unit="B", rate=rate, seconds_left=left)
        )


def reason(error: Exception) -> str:
    """Why a file did not go over, in one line."""
    if isinstance(error, TrainctlError):
        text = f"{error.what}: {error.why}" if error.why else error.what
    elif isinstance(error, OSError):
        text = error.strerror or str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return printable(" ".join(text.split()))
