"""How far a staging is, in a file for whoever asks: replaced whole, never torn."""

from __future__ import annotations

import os
import threading
import time
from typing import Any, Dict, Tuple

from .files import to_json, write_atomically

SHOWN = 20
"""Names in the state, which travels through a shell; the file `left-out.jsonl` has them all."""

LONGEST = 200


class StagingState:
    """Figures of one staging; thread-safe. `left_out` has names, the reason, and whether it is a fault."""

    def __init__(self, folder: str, starts: int) -> None:
        self.left_out: Dict[str, Tuple[str, bool]] = {}
        self._folder = folder
        self._lock = threading.Lock()
        self._coming = 0
        self._values: Dict[str, Any] = {
            "format": 1,
            "phase": "listing",
            "starts": starts,
            "pid": os.getpid(),
            "started": time.time(),
            "left_out": [],
            "version": None,
            "engine": "",
            "code": "",
            "message": "",
        }
        counted = ("wanted", "copied", "equal", "proved", "deleted", "extra", "left_out", "failed")
        self._values.update({name + "_files": 0 for name in counted})
        self._values.update(files=0, bytes=0, wanted_bytes=0, copied_bytes=0)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def set(self, **values: Any) -> None:
        with self._lock:
            self._values.update(values)

    def add(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                self._values[name] += count

    def came(self, size: int) -> None:
        """So many bytes are here that are not in their place yet; less, where they were put there."""
        with self._lock:
            self._coming = max(0, self._coming + size)

    def count_left_out(self) -> None:
        with self._lock:
            first = sorted(self.left_out.items())[:SHOWN]
            self._values.update(
                left_out=[[name[:LONGEST], why[:LONGEST]] for name, (why, _) in first],
                left_out_files=len(self.left_out),
                failed_files=sum(fault for _, fault in self.left_out.values()),
            )

    def write(self) -> None:
        with self._lock:
            shown = {**self._values, "now": time.time(), "coming_bytes": self._coming}
            try:
                write_atomically(os.path.join(self._folder, "state.json"), to_json(shown), durable=False)
            except OSError:
                pass  # the next beat tries again; who reads an old state sees its age

    def write_left_out(self) -> None:
        self.count_left_out()
        lines = [to_json([name, why]) + b"\n" for name, (why, _) in sorted(self.left_out.items())]
        try:
            write_atomically(os.path.join(self._folder, "left-out.jsonl"), b"".join(lines))
        except OSError:
            pass  # the state has the number and the first of them
