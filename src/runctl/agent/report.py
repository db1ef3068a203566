"""What one side of a transfer says of itself while it works: read by whoever waits for it."""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib
from typing import Any, Callable, Dict, Iterable, List, Optional, Set

from . import mac

EVERY = 1.0


class TornWord(Exception):
    """What came is not what was said."""


def sealed(told: Any, key: str, name: str) -> bytes:
    """Something that is said through an object, with what proves that it came as it was said.

    `key` is the transfer's, in hex; `name` is the object's below the staging prefix.
    """
    body = gzip.compress(json.dumps(told).encode(), 3)
    return mac.of(key, "word/" + name, body) + body


def unsealed(data: bytes, key: str, name: str, largest: int = 1 << 30) -> Any:
    """At most `largest` bytes, however much a bomb would make of it. Raises TornWord."""
    body = data[mac.LENGTH :]
    if not mac.holds(key, "word/" + name, body, data[: mac.LENGTH]):
        raise TornWord("its seal is wrong")
    try:
        told = zlib.decompressobj(wbits=31).decompress(body, largest + 1)
        if len(told) > largest:
            raise TornWord("it says more than it may")
        return json.loads(told)
    except (zlib.error, ValueError, RecursionError) as error:
        raise TornWord("it cannot be read: %s" % error) from error


class Report:
    """Counts and results; `publish` is called with the whole once a second and at the end. Thread-safe."""

    def __init__(self, publish: Callable[[Dict[str, Any]], None]) -> None:
        self._publish = publish
        self._lock = threading.Lock()
        self._moved = self._wire = self._beat = 0
        self._parcels: Set[int] = set()
        self._faults: Dict[int, str] = {}
        self._files: Set[int] = set()
        self._deleted: List[str] = []
        self._staged: Dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def parcel(self, number: int, moved: int, wire: int = 0) -> None:
        """A parcel is dealt with; `moved` bytes of files, `wire` as they travelled."""
        with self._lock:
            self._parcels.add(number)
            self._moved += moved
            self._wire += wire

    def staged(self, name: str, etag: str) -> None:
        """A piece of an object lies in the staging prefix; `etag` is what the store made of it."""
        with self._lock:
            self._staged[name] = etag

    def fault(self, file: int, why: str) -> None:
        with self._lock:
            self._faults[file] = why

    def file(self, number: int) -> None:
        """A file is whole and has its name."""
        with self._lock:
            self._files.add(number)

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
                "parcels": ranges(self._parcels),
                "faults": sorted(self._faults.items()),
                "files": ranges(self._files),
                "deleted": list(self._deleted),
                "staged": sorted(self._staged.items()),
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


def ranges(numbers: Iterable[int]) -> List[List[int]]:
    """Numbers as the first and last of each run: what is done in order stays short."""
    found: List[List[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found
