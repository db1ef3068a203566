"""What one side of a transfer says of itself while it works: read by whoever waits for it."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, List, Optional

EVERY = 1.0


class Report:
    """Counts and results; `publish` is called with the whole once a second and at the end. Thread-safe."""

    def __init__(self, publish: Callable[[Dict[str, Any]], None]) -> None:
        self._publish = publish
        self._lock = threading.Lock()
        self._moved = self._wire = self._beat = 0
        self._parcels: Dict[int, str] = {}
        self._faults: Dict[int, str] = {}
        self._files: List[int] = []
        self._deleted: List[str] = []
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def parcel(self, number: int, moved: int, wire: int = 0, etag: str = "") -> None:
        """A parcel is dealt with; `moved` bytes of files, `wire` as they travelled."""
        with self._lock:
            self._parcels[number] = etag
            self._moved += moved
            self._wire += wire

    def fault(self, file: int, why: str) -> None:
        with self._lock:
            self._faults[file] = why

    def file(self, number: int) -> None:
        """A file is whole and has its name."""
        with self._lock:
            self._files.append(number)

    def deleted(self, key: str) -> None:
        with self._lock:
            self._deleted.append(key)

    def snapshot(self, state: str = "working", why: str = "") -> Dict[str, Any]:
        with self._lock:
            self._beat += 1
            return {
                "state": state,
                "why": why,
                "beat": self._beat,
                "moved": self._moved,
                "wire": self._wire,
                "parcels": sorted(self._parcels.items()),
                "faults": sorted(self._faults.items()),
                "files": list(self._files),
                "deleted": list(self._deleted),
            }

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)
        self._thread.start()

    def end(self, state: str, why: str = "") -> None:
        """Say the last word. Raises what `publish` raises."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._publish(self.snapshot(state, why))

    def _run(self) -> None:
        slower = 1.0
        while not self._stop.wait(EVERY * slower):
            begun = time.monotonic()
            try:
                self._publish(self.snapshot())
            except Exception:  # noqa: S110 (the next one may come through)
                pass
            slower = max(1.0, 10 * (time.monotonic() - begun))  # a long report must not be all that is sent
