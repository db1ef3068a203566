"""A fire drill: one run in peace, one with a spot notice, and what the difference cost."""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from runctl.agent.progress import StepReader
from runctl.events import Emit, Event, LogOutput, Transition
from runctl.jobs.place import Place
from runctl.jobs.report import report
from runctl.jobs.supervise import Supervisor
from runctl.ledger import AttemptRecord, JobRecord, Ledger
from runctl.loopback_guard import GuardedHandler, GuardedServer
from runctl.model import JobState

_LEAST_SECONDS = 0.3
"""A notice before this is one during the start: the drill wants one during the work."""

_OF_THE_TIME = (0.25, 0.75)
_OF_THE_STEPS = (0.1, 0.5)
"""Between which parts of the peaceful run the notice comes; the script must have something left to lose."""


class Interrupter(Protocol):
    """Who takes a machine away."""

    def notice(self, machine_id: str) -> None:
        """Announce the end of a machine."""
        ...

    def lift(self) -> None:
        """The machine is gone: the next one has no notice."""
        ...


class Shortcoming(msgspec.Struct, frozen=True):
    """Why a drill was not passed, and what to do about it."""

    what: str
    why: str
    next: str


class DrillReport(msgspec.Struct, frozen=True):
    """What a drill found. `same_result` is None where neither run wrote an output to compare.

    `noticed_after_seconds` and `noticed_at_step` are None where the run was over before its notice, the step
    also where the script names none. `began_anew` is whether the next attempt named its first steps again,
    `ended_anyway` whether the first one came to the last step in spite of the notice.
    """

    job: str
    peaceful_state: JobState
    state: JobState
    peaceful_seconds: float
    noticed_after_seconds: float | None
    noticed_at_step: int | None
    seconds_to_safety: float | None
    steps_lost: int | None
    resumed_step: int | None
    last_step: int | None
    began_anew: bool
    ended_anyway: bool
    same_result: bool | None
    different_files: tuple[str, ...]
    interrupted: bool

    @property
    def survived(self) -> bool:
        """It was interrupted in the middle of its work, went on from its checkpoint and came to the same."""
        return self.shortcoming is None

    @property
    def shortcoming(self) -> Shortcoming | None:
        """The first thing that speaks against it: what the drill could not show counts, too."""
        if self.peaceful_state is not JobState.SUCCEEDED:
            return Shortcoming(
                "The script fails without any interruption",
                f"the run in peace {self.peaceful_state}",
                "let it end with exit code 0 first: runctl train SCRIPT",
            )
        example = "see examples/digits/train.py"
        if self.state is not JobState.SUCCEEDED:
            why, advice = (
                f"the job {self.state}",
                f"save on SIGTERM and resume from RUNCTL_RESUME_FROM: {example}",
            )
        elif not self.interrupted:
            return Shortcoming(
                "The drill interrupted nothing",
                f"the script was over before its notice: it takes {self.peaceful_seconds:.1f} s",
                "give it more to do, such as more epochs",
            )
        elif self.ended_anyway:
            return Shortcoming(
                "The drill interrupted nothing",
                "the script went on to its end after the notice",
                "save on SIGTERM and go, or let the machine be taken sooner: --notice 15",
            )
        elif self.began_anew:
            why, advice = "it began anew", f"start from RUNCTL_RESUME_FROM where that is set: {example}"
        elif self.same_result is None:
            why = "it wrote no output file that could show that the result is the same"
            advice = "write the result to RUNCTL_OUTPUT_DIR"
        elif not self.same_result:
            why, advice = "its result differs", f"save all that the next step depends on: {example}"
        else:
            return None
        return Shortcoming("The script does not survive an interruption", why, advice)


class Run(msgspec.Struct, frozen=True):
    """A job that is ready to be run, and how its outputs are fetched when it has ended."""

    place: Place
    job: JobRecord
    outputs: Callable[[], Path]


def drill(
    ledger: Ledger, peaceful: Run, disturbed: Run, interrupter: Interrupter, *, seed: int | None, emit: Emit
) -> DrillReport:
    """Run both; the second gets its notice at a random moment of its work. Raises as the runs do."""
    calm_steps = _Steps(emit)
    calm = Supervisor(ledger, peaceful.place, peaceful.job.id, calm_steps).run()
    length = _script_seconds(peaceful.place)
    if calm.state is not JobState.SUCCEEDED:
        return _report(ledger, peaceful, calm, calm, length, None, calm_steps, calm_steps)
    chosen = random.Random(seed)  # noqa: S311 (when to interrupt, not a secret)
    # Only what runs here shows its steps at once; another machine's log comes late.
    first, last = calm_steps.of(1) if peaceful.place.session is None else (None, None)
    seconds = max(_LEAST_SECONDS, chosen.uniform(*_OF_THE_TIME) * length)
    step = None
    if first is not None and last is not None and last > first:
        step = first + math.ceil(chosen.uniform(*_OF_THE_STEPS) * (last - first))
    steps = _Steps(emit)
    watcher = _Watcher(ledger, disturbed, interrupter, _Moment(seconds, step), steps)
    final = Supervisor(ledger, disturbed.place, disturbed.job.id, watcher).run()
    watcher.stop()
    return _report(
        ledger,
        disturbed,
        calm,
        final,
        length,
        watcher,
        calm_steps,
        steps,
        _different(peaceful.outputs(), disturbed.outputs()),
    )


class _Moment(msgspec.Struct, frozen=True):
    """When the notice comes: at a step where the script names its steps, else after real seconds."""

    seconds: float
    step: int | None


class _Steps:
    """Reads from a run's log which steps each attempt named."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._readers: defaultdict[int, StepReader] = defaultdict(StepReader)

    def __call__(self, event: Event) -> None:
        self._emit(event)
        if isinstance(event, LogOutput):
            self._readers[event.attempt].feed(event.data)

    def of(self, attempt: int) -> tuple[int | None, int | None]:
        """The first and the last step that an attempt named."""
        reader = self._readers[attempt]
        return reader.first, reader.step

    def began_anew(self, resumed: int | None) -> bool:
        """Whether the second attempt named its first step as the first had, which had come further."""
        (first, last), (again, _) = self.of(1), self.of(2)
        if first is None or last is None or again is None:
            return False
        return again <= first < last and again != resumed


class _Watcher:
    """Listens to the disturbed run and sends the notice when its moment has come."""

    def __init__(
        self, ledger: Ledger, run: Run, interrupter: Interrupter, moment: _Moment, steps: _Steps
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._interrupter = interrupter
        self._moment = moment
        self._steps = steps
        self._over = threading.Event()
        self._worker = ThreadPoolExecutor(1)
        self._waiting: Future[None] | None = None
        self._machine = ""
        self._began: float | None = None
        self.noticed_after: float | None = None
        self.noticed_at_step: int | None = None

    def __call__(self, event: Event) -> None:
        self._steps(event)
        if isinstance(event, LogOutput) and event.attempt == 1:
            self._notice_at_step()
        if not isinstance(event, Transition):
            return
        if event.state is JobState.RUNNING and event.attempt == 1 and not self._machine:
            self._machine = self._ledger.jobs.attempts(self._run.job.id)[0].instance_id or "this machine"
            if self._moment.step is None:
                self._waiting = self._worker.submit(self._wait_and_notice)
        if event.state in {JobState.RECOVERING, JobState.PROVISIONING} and event.attempt >= 1:
            self._interrupter.lift()

    def stop(self) -> None:
        """Raises what kept the notice from being sent."""
        self._over.set()
        self._worker.shutdown()
        if self._waiting is not None:
            self._waiting.result()

    def _notice_at_step(self) -> None:
        step = self._steps.of(1)[1]
        if self._moment.step is None or self.noticed_after is not None:
            return
        if step is not None and step >= self._moment.step:
            self.noticed_at_step = step
            self._notice()

    def _wait_and_notice(self) -> None:
        if not self._over.wait(max(0.0, self._moment.seconds - self._seconds())):
            self._notice()

    def _notice(self) -> None:
        self.noticed_after = self._seconds()
        self._interrupter.notice(self._machine)

    def _seconds(self) -> float:
        """Real seconds for which the script has run."""
        place = self._run.place
        if self._began is None:
            state = place.view(1).state()
            self._began = (state.script_started if state else None) or place.clock.now().timestamp()
        return (place.clock.now().timestamp() - self._began) / place.clock.speed


def _script_seconds(place: Place) -> float:
    """How long the peaceful run's script took, in real seconds."""
    state = place.view(1).state()
    if state is None or state.script_started is None or state.ended is None:
        return 0.0
    return max(0.0, state.ended - state.script_started) / place.clock.speed


def _report(
    ledger: Ledger,
    run: Run,
    calm: JobRecord,
    final: JobRecord,
    length: float,
    watcher: _Watcher | None,
    calm_steps: _Steps,
    steps: _Steps,
    different: tuple[str, ...] | None = None,
) -> DrillReport:
    found = report(ledger, final, run.place.clock.now())
    first = found.attempts[0] if found.attempts else None
    second = found.attempts[1] if len(found.attempts) > 1 else None
    resumed = second.resumed_step if second else None
    began_anew = steps.began_anew(resumed)
    lost = found.steps_lost
    if began_anew and first is not None and first.last_step is not None:
        lost = first.last_step - (first.resumed_step or 0)
    return DrillReport(
        job=final.id,
        peaceful_state=calm.state,
        state=final.state,
        peaceful_seconds=length,
        noticed_after_seconds=watcher.noticed_after if watcher else None,
        noticed_at_step=watcher.noticed_at_step if watcher else None,
        seconds_to_safety=first.seconds_to_safety if first else None,
        steps_lost=lost,
        resumed_step=resumed,
        last_step=first.last_step if first else None,
        began_anew=began_anew,
        ended_anyway=_ended_anyway(ledger.jobs.attempts(final.id), steps.of(1)[1], calm_steps.of(1)[1]),
        same_result=None if different is None else not different,
        different_files=different or (),
        interrupted=found.interruptions > 0,
    )


def _ended_anyway(attempts: list[AttemptRecord], last: int | None, goal: int | None) -> bool:
    """Whether the first attempt was told to end, and did all of its work instead."""
    told = bool(attempts) and attempts[0].cause == "notice" and attempts[0].exit_code == 0
    return told and last is not None and last == goal


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

        class Handler(GuardedHandler):
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

        self._server = GuardedServer(("127.0.0.1", 0), Handler)
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
