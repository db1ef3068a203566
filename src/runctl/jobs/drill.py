"""A fire drill: one run in peace, one with a spot notice, and what the difference cost."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import msgspec

from runctl.events import Emit, Event, Transition
from runctl.jobs.place import Place
from runctl.jobs.report import report
from runctl.jobs.supervise import Supervisor
from runctl.ledger import JobRecord, Ledger
from runctl.model import JobState

_LEAST_SECONDS = 0.3
"""A notice before this is one during the start: the drill wants one during the work."""


class Interrupter(Protocol):
    """Who takes a machine away."""

    def notice(self, machine_id: str) -> None:
        """Announce the end of a machine."""
        ...

    def lift(self) -> None:
        """The machine is gone: the next one has no notice."""
        ...


class DrillReport(msgspec.Struct, frozen=True):
    """What a drill found. `same_result` is None where neither run wrote an output to compare."""

    job: str
    state: JobState
    peaceful_seconds: float
    noticed_after_seconds: float
    seconds_to_safety: float | None
    steps_lost: int | None
    resumed_step: int | None
    last_step: int | None
    same_result: bool | None
    different_files: tuple[str, ...]
    interrupted: bool

    @property
    def survived(self) -> bool:
        """It finished, and nothing shows that the interruption changed its result."""
        return self.state is JobState.SUCCEEDED and self.same_result is not False


class Run(msgspec.Struct, frozen=True):
    """A job that is ready to be run, and how its outputs are fetched when it has ended."""

    place: Place
    job: JobRecord
    outputs: Callable[[], Path]


def drill(
    ledger: Ledger, peaceful: Run, disturbed: Run, interrupter: Interrupter, *, seed: int | None, emit: Emit
) -> DrillReport:
    """Run both; the second gets its notice at a random moment of its work. Raises as the runs do."""
    calm = Supervisor(ledger, peaceful.place, peaceful.job.id, emit).run()
    length = _script_seconds(peaceful.place)
    if calm.state is not JobState.SUCCEEDED:
        return _report(ledger, peaceful, calm, length, 0.0, None, ())
    chosen = random.Random(seed)  # noqa: S311 (when to interrupt, not a secret)
    moment = max(_LEAST_SECONDS, chosen.uniform(0.25, 0.75) * length)
    watcher = _Watcher(ledger, disturbed, interrupter, moment, emit)
    final = Supervisor(ledger, disturbed.place, disturbed.job.id, watcher).run()
    watcher.stop()
    different = _different(peaceful.outputs(), disturbed.outputs())
    return _report(ledger, disturbed, final, length, moment, different is not None, different or ())


class _Watcher:
    """Listens to the disturbed run and sends the notice when its script has run for the chosen time."""

    def __init__(self, ledger: Ledger, run: Run, interrupter: Interrupter, moment: float, emit: Emit) -> None:
        self._ledger = ledger
        self._run = run
        self._interrupter = interrupter
        self._moment = moment
        self._emit = emit
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, event: Event) -> None:
        self._emit(event)
        if not isinstance(event, Transition):
            return
        if event.state is JobState.RUNNING and event.attempt == 1 and self._thread is None:
            machine = self._ledger.jobs.attempts(self._run.job.id)[0].instance_id or ""
            self._thread = threading.Thread(target=self._wait_and_notice, args=(machine,), daemon=True)
            self._thread.start()
        if event.state in {JobState.RECOVERING, JobState.PROVISIONING} and event.attempt >= 1:
            self._interrupter.lift()

    def stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _wait_and_notice(self, machine: str) -> None:
        state = self._run.place.view(1).state()
        began = (state.script_started if state else None) or self._run.place.clock.now().timestamp()
        speed = self._run.place.clock.speed
        so_far = (self._run.place.clock.now().timestamp() - began) / speed
        if not self._over.wait(max(0.0, self._moment - so_far)):
            self._interrupter.notice(machine)


def _script_seconds(place: Place) -> float:
    """How long the peaceful run's script took, in real seconds."""
    state = place.view(1).state()
    if state is None or state.script_started is None or state.ended is None:
        return 0.0
    return max(0.0, state.ended - state.script_started) / place.clock.speed


def _report(
    ledger: Ledger,
    run: Run,
    final: JobRecord,
    length: float,
    moment: float,
    compared: bool | None,
    different: tuple[str, ...],
) -> DrillReport:
    found = report(ledger, final, run.place.clock.now())
    first = found.attempts[0] if found.attempts else None
    second = found.attempts[1] if len(found.attempts) > 1 else None
    return DrillReport(
        job=final.id,
        state=final.state,
        peaceful_seconds=length,
        noticed_after_seconds=moment,
        seconds_to_safety=first.seconds_to_safety if first else None,
        steps_lost=found.steps_lost,
        resumed_step=second.resumed_step if second else None,
        last_step=first.last_step if first else None,
        same_result=(not different) if compared else None,
        different_files=different,
        interrupted=found.interruptions > 0,
    )


def _different(one: Path, other: Path) -> tuple[str, ...] | None:
    """Files that differ or are in one folder alone; None where there is nothing to compare."""
    left, right = _digests(one), _digests(other)
    if not left and not right:
        return None
    return tuple(sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name)))


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class LocalNotice:
    """A metadata service on loopback that can announce a spot interruption to local agents."""

    def __init__(self, notice_seconds: float) -> None:
        self._seconds = notice_seconds
        self._until: float | None = None
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._answer(200, "drill-token")

            def do_GET(self) -> None:
                until = service._until
                if self.path.endswith("/spot/instance-action") and until is not None:
                    time_text = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                    self._answer(200, json.dumps({"action": "terminate", "time": time_text}))
                else:
                    self._answer(404, "")

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def notice(self, machine_id: str) -> None:  # noqa: ARG002 (there is one machine)
        self._until = time.time() + self._seconds

    def lift(self) -> None:
        self._until = None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
