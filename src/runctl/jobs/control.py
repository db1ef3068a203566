"""Asking a job to stop: its agent saves, uploads and ends; a job without a machine just ends."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta

import msgspec

from runctl.agent import seal as seals
from runctl.agent.files import to_json
from runctl.errors import CloudError, Conflict, ValidationError
from runctl.events import Emit, Progress, ignore
from runctl.jobs import launch, overdue, state
from runctl.jobs.attempt import seal_of
from runctl.jobs.place import Place
from runctl.jobs.spec import decode, encode
from runctl.ledger import AttemptRecord, JobRecord, Ledger
from runctl.model import JobId, JobState
from runctl.providers.base import MachineState
from runctl.quoting import quoted
from runctl.safety import transaction

PATIENCE = 300.0
"""Real seconds: how long a launch of another process, and a machine that boots, are waited for."""
POLL_SECONDS = 0.25
END_MARGIN = timedelta(minutes=10)
"""Beyond what an agent may take to end: for its machine to be ended from outside, and to be gone."""

_UNLAUNCHED = frozenset({JobState.PLANNED, JobState.PROVISIONING, JobState.RECOVERING})
_ALIVE = frozenset({MachineState.PENDING, MachineState.RUNNING})


def stop(ledger: Ledger, place: Place, job: JobId, *, emit: Emit = ignore) -> None:
    """Stop a job that has no machine, or ask its agent to; whoever supervises it sees it end.

    From now on no further attempt is made, whatever becomes of this one. A launch that is under way and a
    machine that boots are waited for. Raises ValidationError for a job that has ended, Conflict where the
    waiting takes too long, CloudError where the machine cannot be told.
    """
    with ledger.resources.together():
        record = ledger.jobs.get(job)
        require_unfinished(record)
        wish = msgspec.structs.replace(decode(record.spec), stop_asked=True)
        ledger.jobs.replace_spec(job, encode(wish))
    begun = time.monotonic()
    told: set[int] = set()
    while not _is_asked(ledger, place, job, emit, told):
        waited = time.monotonic() - begun
        if waited > PATIENCE:
            attempt = machine_of(ledger, ledger.jobs.get(job))
            hard = f", or runctl aws terminate {quoted(attempt.instance_id)}" if attempt else ""
            raise Conflict(
                f"Job {job} could not be asked to stop",
                why="its machine does not answer yet; no further attempt will be made",
                next=f"runctl jobs stop {quoted(job)}, in a moment{hard}",
            )
        emit(Progress(task=f"waiting for the machine of {job}", done=waited, total=None, unit="s"))
        time.sleep(POLL_SECONDS)


class StopPlan(msgspec.Struct, frozen=True):
    """What `stop` would do now; `machine` is None where there is none to ask."""

    job: JobId
    state: JobState
    machine: str | None
    what: str


def plan_stop(ledger: Ledger, job: JobId) -> StopPlan:
    """Reads the ledger alone. Raises ValidationError for a job that has ended."""
    record = ledger.jobs.get(job)
    require_unfinished(record)
    attempt = machine_of(ledger, record)
    machine = attempt.instance_id if attempt else None
    spec = decode(record.spec)
    if machine is None and is_launching(ledger, job):
        what = "its machine is being launched: it is waited for, and its agent asked to end"
    elif machine is None:
        what = "it has no machine, and just ends"
    elif record.state is JobState.ENDING:
        what = "its agent ends already; no further attempt is made"
    else:
        stays = (
            "; the machine stays" if spec.keep or spec.instance or spec.is_local else ", and its machine ends"
        )
        what = f"its agent is asked to save, upload and end{stays}"
    return StopPlan(job=job, state=record.state, machine=machine, what=what)


def patience(job: JobRecord) -> float:
    """Real seconds that the end of a job which was asked to stop is waited for: no stop waits for ever."""
    grace = timedelta(seconds=decode(job.spec).grace_seconds)
    return (grace + overdue.ENDING + END_MARGIN).total_seconds()


def require_ended(job: JobRecord, waited: float) -> None:
    """Raises Conflict for a job that was asked to stop and has not ended within so many real seconds."""
    if not job.state.final:
        raise Conflict(
            f"Job {job.id} was asked to stop, and is {job.state} still",
            why=f"its machine did not end within {waited / 60:.0f} minutes; no further attempt is made",
            next=f"runctl jobs show {quoted(job.id)}",
        )


def require_unfinished(job: JobRecord) -> None:
    """Raises ValidationError for a job that has ended."""
    if job.state.final:
        raise ValidationError(
            f"Job {job.id} is {job.state} already", next=f"runctl jobs show {quoted(job.id)}"
        )


def machine_of(ledger: Ledger, job: JobRecord) -> AttemptRecord | None:
    """The attempt that has a machine now, as far as the ledger knows."""
    if job.state in {JobState.PLANNED, JobState.RECOVERING}:
        return None
    number = ledger.jobs.events(job.id)[-1].attempt
    attempts = ledger.jobs.attempts(job.id)
    return next((one for one in attempts if one.number == number and one.instance_id is not None), None)


def is_launching(ledger: Ledger, job: JobId) -> bool:
    """Whether a machine may come of a launch that is under way, or was cut off."""
    return bool(ledger.journal.unfinished(operation=launch.OPERATION, subject=_subject(ledger, job)))


def _subject(ledger: Ledger, job: JobId) -> str:
    return f"{job}/{ledger.jobs.events(job)[-1].attempt}"


def _is_asked(ledger: Ledger, place: Place, job: JobId, emit: Emit, told: set[int]) -> bool:
    """Whether nothing is to be done but to see it end. `told` are attempts with an order in the bucket."""
    record = ledger.jobs.get(job)
    if record.state.final or record.state is JobState.ENDING:
        return True
    attempt = machine_of(ledger, record)
    if attempt is None:
        if _stop_without_machine(ledger, place, job):
            return True
        _take_up_launch(ledger, place, record, emit)
        return False
    if attempt.number not in told and _leave_order(place, record, attempt):
        told.add(attempt.number)
    return _ask(place, record, attempt, is_told=attempt.number in told)


def _leave_order(place: Place, job: JobRecord, attempt: AttemptRecord) -> bool:
    """Whether the order lies in the bucket, sealed. A machine whose disk is full takes no command."""
    key = seal_of(job, attempt)
    if place.session is None or not key:
        return False
    order = {"job": str(attempt.job), "attempt": attempt.number}
    data = to_json({**order, "seal": seals.of(key, order, seals.STOP)})
    try:
        place.store.write(f"attempt-{attempt.number}/stop", data)
    except CloudError:  # the machine is asked itself
        return False
    return True


def _ask(place: Place, job: JobRecord, attempt: AttemptRecord, *, is_told: bool) -> bool:
    """Whether the agent was told, or is not there to be told: then whoever supervises ends its machine."""
    assert attempt.instance_id is not None  # noqa: S101 (it has a machine)
    machine = place.provider.describe(attempt.instance_id)
    if machine is None or machine.state not in _ALIVE:
        return True
    if place.session is not None:
        from runctl.providers.aws import shell

        if _silence_told(place, job, attempt):
            return True
        if not shell.is_online(place.session, attempt.instance_id):
            return False
    try:
        place.provider.ask_to_stop(attempt.instance_id, attempt.job, attempt.number)
    except CloudError as error:
        if error.code == "InvalidInstanceId":
            return False  # it has just ended: the next look shows it
        if not is_told:
            raise
    return True


def _silence_told(place: Place, job: JobRecord, attempt: AttemptRecord) -> bool:
    """Whether an agent that once spoke says nothing any more: its shell may never answer either."""
    agent = place.view(attempt.number, seal_of(job, attempt)).state()
    if agent is None or agent.is_over:
        return False
    silent = place.clock.now().timestamp() - agent.last_sign
    return silent > overdue.SILENT_MARGIN.total_seconds()


def _stop_without_machine(ledger: Ledger, place: Place, job: JobId) -> bool:
    """Whether it could be: a launcher looks at the job's state once its own transaction is in the journal."""
    with ledger.resources.together():
        now = ledger.jobs.get(job)
        if now.state not in _UNLAUNCHED or is_launching(ledger, job) or machine_of(ledger, now):
            return False
        ledger.jobs.transition(
            job,
            JobState.STOPPED,
            allowed_from=state.may_come_from(JobState.STOPPED),
            at=place.clock.now(),
            attempt=ledger.jobs.events(job)[-1].attempt,
            cause="stopped by the user; it has no machine",
        )
    return True


def _take_up_launch(ledger: Ledger, place: Place, job: JobRecord, emit: Emit) -> None:
    """Find out what became of a launch whose process is dead: only a machine that is known can be ended."""
    subject = _subject(ledger, job.id)
    if not transaction.abandoned(ledger, operation=launch.OPERATION, subject=subject):
        return
    attempt = launch.attempt_of(ledger, job.id, place.clock.now())
    with contextlib.suppress(Conflict):  # another process takes it up
        launch.Launcher(ledger, place, job, decode(job.spec), emit, lambda: True).recover(attempt)
