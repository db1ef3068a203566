"""An attempt's folder and its state: on disk at each change, in memory while the disk is full."""

from __future__ import annotations

import json
import os
import threading
from typing import Any, Dict, List

from . import clock, seal
from .files import read_json, to_json, write_atomically

RESERVE_BYTES = 64 * 1024


class Attempt:
    """The spec, the state and the events of one attempt. Thread-safe."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        self.job_folder = os.path.dirname(self.folder)
        spec = read_json(os.path.join(self.folder, "spec.json"))
        if spec is None:
            raise ValueError("there is no readable spec.json in %s" % self.folder)
        self.spec: Dict[str, Any] = spec
        self.number = int(spec["attempt"])
        self.seal = seal.read(self.folder)
        self.ran_before = os.path.exists(self.path("state.json"))
        self._lock = threading.RLock()
        self._events: List[Dict[str, Any]] = []
        self._disk_trouble = ""
        self.state: Dict[str, Any] = {
            "format": 1,
            "job": spec["job"],
            "attempt": self.number,
            "phase": "preparing",
            "step_name": "spec",
            "cause": None,
            "message": None,
            "exit_code": None,
            "signalled": False,
            "booted": clock.booted(),
            "started": clock.now(),
            "script_started": None,
            "notice_at": None,
            "ended": None,
            "pid": None,
            "agent_pid": os.getpid(),
            "step": None,
            "steps_per_second": None,
            "log_bytes": 0,
            "log_mirrored": 0,
            "resumed_from": None,
            "resumed_step": None,
            "committed": None,
            "checkpoints_skipped": [],
        }

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def in_job(self, path: str) -> str:
        """A path of the spec: relative ones lie in the job's folder."""
        return os.path.join(self.job_folder, path)

    @property
    def job_began(self) -> float:
        """When the job's first spec was written, by this machine's file system."""
        try:
            return os.path.getmtime(os.path.join(self.job_folder, "attempt-1", "spec.json"))
        except OSError:  # a job without a first attempt here
            return 0.0

    @property
    def log(self) -> str:
        return self.path("output.log")

    def keep_reserve(self) -> None:
        """Hold some of the disk, so that its end can be told where the script fills the rest."""
        try:
            write_atomically(self.path("reserve"), b"." * RESERVE_BYTES, durable=False)
        except OSError as error:
            self._disk_trouble = "the disk is full: %s" % error

    def spend_reserve(self) -> None:
        """Nobody else writes any more: what is held is for the last words."""
        try:
            os.unlink(self.path("reserve"))
        except OSError:  # none is held
            pass

    def update(self, **changes: Any) -> None:
        """Change the state and write it. A full disk is told of in the state and harms nothing else."""
        with self._lock:
            self.state.update(changes)
            self.beat(durable="phase" in changes)

    def beat(self, durable: bool = False) -> None:
        with self._lock:
            self.state["heartbeat"] = clock.now()
            try:
                write_atomically(self.path("state.json"), self.snapshot(), durable)
                self._disk_trouble = ""
            except OSError as error:
                self._disk_trouble = "the state could not be written: %s" % error

    def event(self, kind: str, **details: Any) -> None:
        with self._lock:
            self._events.append({"at": clock.now(), "kind": kind, **details})
            try:
                with open(self.path("events.jsonl"), "ab") as file:
                    file.write(to_json(self._events[-1]) + b"\n")
            except OSError as error:
                self._disk_trouble = "an event could not be written: %s" % error

    def snapshot(self) -> bytes:
        with self._lock:
            said = [self.state["message"], self._disk_trouble]
            return to_json({**self.state, "message": "; ".join(part for part in said if part) or None})

    @property
    def event_count(self) -> int:
        return len(self._events)

    def events(self) -> bytes:
        with self._lock:
            return b"".join(json.dumps(event, sort_keys=True).encode() + b"\n" for event in self._events)
