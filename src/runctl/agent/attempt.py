"""An attempt's folder and its state: on disk at each change, in memory while the disk is full or hangs."""

from __future__ import annotations

import os
import threading
from typing import Any, Dict, List

from . import clock, seal
from .files import append, read_json, to_json, write_atomically

RESERVE_BYTES = 64 * 1024
FIRST_EVENTS, LAST_EVENTS = 500, 1500
"""How many are kept in memory and sent to the store; the file on this machine has them all."""

MOST_LEFT_OUT = 20
"""How many files that could not be kept are named; the others are counted."""
LONGEST_MESSAGE = 4000
_OF_THE_WORK = (
    "started",
    "script_started",
    "notice_at",
    "step",
    "began_at_step",
    "resumed_from",
    "resumed_step",
    "committed",
    "kept",
    "checkpoints_skipped",
    "left_out",
    "left_out_count",
)
LONGEST_TOLD = 1000
"""Characters of a path, of a reason: whoever reads the state takes none that is much longer."""


class Attempt:
    """The spec, the state and the events of one attempt. Thread-safe.

    Memory and files have a lock each: whoever only reads or changes the state never waits for the disk.
    """

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
        before = self._before = read_json(self.path("state.json")) or {}
        self.stop_asked = False
        """Whether a stop came through the store: on a full disk no file can be made that asks for one."""
        self._lock = threading.RLock()
        self._placing = threading.Lock()
        self._writing_events = threading.Lock()
        self._events: List[Dict[str, Any]] = []
        self._unwritten: List[bytes] = []
        self._last_note = ""
        self._event_count = 0
        self._snapshots = self._placed = 0
        self._state_trouble = self._event_trouble = ""
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
            "began_at_step": None,
            "steps_per_second": None,
            "silence": None,
            "log_bytes": 0,
            "log_mirrored": 0,
            "log_hole": before.get("log_hole"),
            "log_left_out": int(before.get("log_left_out") or 0),
            "looked": clock.now(),
            "heartbeat": None,
            "resumed_from": None,
            "resumed_step": None,
            "committed": None,
            "kept": None,
            "checkpoints_skipped": [],
            "left_out": [],
            "left_out_count": 0,
        }

    def take_over(self) -> None:
        """Say what the agent before us said of the work, as far as its last word can be read."""
        with self._lock:
            self.state.update({name: self._before[name] for name in _OF_THE_WORK if name in self._before})

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def in_job(self, path: str) -> str:
        """A path of the spec: relative ones lie in the job's folder."""
        return os.path.join(self.job_folder, path)

    def is_outside(self, path: str) -> bool:
        """Whether a folder is not the job's, but one of the user's own."""
        return os.path.relpath(path, self.job_folder).split(os.sep)[0] == os.pardir

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
            self._state_trouble = "the disk is full: %s" % error

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
        self.heartbeat()
        self.write(durable="phase" in changes)

    def heartbeat(self) -> None:
        """Note that the agent lives; nothing beats after the end."""
        with self._lock:
            if self.state["phase"] != "ended":
                self.state["heartbeat"] = clock.now()

    def write(self, durable: bool = False) -> None:
        """Write the state to its file, unless a newer one came there first."""
        with self._lock:
            self._snapshots += 1
            number, data = self._snapshots, self.snapshot()

        def place(temporary: str, path: str) -> None:
            with self._placing:
                if number < self._placed:
                    os.unlink(temporary)
                    return
                os.replace(temporary, path)
                self._placed = number

        try:
            write_atomically(self.path("state.json"), data, durable, place)
            self._state_trouble = ""
        except OSError as error:
            self._state_trouble = "the state could not be written: %s" % error
        self._write_events()

    def event(self, kind: str, **details: Any) -> None:
        event = {"at": clock.now(), "kind": kind, **details}
        with self._lock:
            self._event_count += 1
            self._events.append(event)
            if len(self._events) > FIRST_EVENTS + LAST_EVENTS:
                del self._events[FIRST_EVENTS]
            self._unwritten.append(to_json(event) + b"\n")
            del self._unwritten[:-LAST_EVENTS]
        self._write_events()

    def leave_out(self, path: str, reason: str) -> None:
        """Tell of a file of the script that cannot be kept; `path` is relative to the job's folder."""
        printable = _shortened(path.encode("utf-8", "backslashreplace").decode())
        reason = _shortened(reason)
        with self._lock:
            self.state["left_out_count"] += 1
            if self.state["left_out_count"] > MOST_LEFT_OUT:
                return
            self.state["left_out"] = [*self.state["left_out"], {"path": printable, "reason": reason}]
        self.event("left-out", path=printable, reason=reason)

    def note(self, text: str) -> None:
        """An event that tells something once, however often it comes in a row."""
        with self._lock:
            if text == self._last_note:
                return
            self._last_note = text
        self.event("note", text=text)

    def _write_events(self) -> None:
        """Append what is not in the file yet; nobody waits for another who does it."""
        while self._unwritten and self._writing_events.acquire(blocking=False):
            try:
                with self._lock:
                    lines, self._unwritten = self._unwritten, []
                try:
                    append(self.path("events.jsonl"), b"".join(lines))
                    self._event_trouble = ""
                except OSError as error:
                    self._event_trouble = "an event could not be written: %s" % error
                    with self._lock:
                        self._unwritten = [*lines, *self._unwritten][-LAST_EVENTS:]
                    return
            finally:
                self._writing_events.release()

    def snapshot(self) -> bytes:
        with self._lock:
            said = [self.state["message"], self._state_trouble or self._event_trouble]
            message = "; ".join(part for part in said if part)
            told = {**self.state, "message": message[:LONGEST_MESSAGE] or None}
            if self.seal:
                told["seal"] = seal.of(self.seal, told, seal.STATE)
            return to_json(told)

    @property
    def event_count(self) -> int:
        return self._event_count

    def events(self) -> bytes:
        """Those that are kept in memory, a line each."""
        with self._lock:
            events = list(self._events)
        return b"".join(to_json(event) + b"\n" for event in events)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TOLD else text[: LONGEST_TOLD - 3] + "..."
