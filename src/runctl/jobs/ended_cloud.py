"""What a sandbox leaves in the ledger that ended under its jobs: closed, with the reason, at the next look.

A sandbox is a process: it may be killed, or taken down, and nothing of it comes back. AWS never ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from runctl import clouds
from runctl.errors import Conflict
from runctl.jobs import state
from runctl.ledger import JobRecord, Ledger, ResourceRecord, TransactionRecord
from runctl.model import JobId, JobState
from runctl.safety import transaction

CAUSE = "sandbox-ended"
"""Of an attempt whose machine went with its cloud."""

VOID = "void"
"""The outcome of a transaction of whose resources none is left: there is nothing to finish or to undo."""


def settle(ledger: Ledger) -> list[JobId]:
    """Close what the sandboxes left that ended since the last look; answers the jobs among it."""
    closed: list[JobId] = []
    for key in sorted(ledger.jobs.open_clouds() | ledger.resources.open_clouds()):
        if why := clouds.ended(key):
            closed += close(ledger, key, why)
    for record in transaction.abandoned(ledger):
        if clouds.ended(_cloud_of(ledger, record)):
            ledger.journal.end(record.id, VOID)
    return closed


def close(ledger: Ledger, key: str, why: str) -> list[JobId]:
    """Close the jobs and resources of a cloud that is over; bills end when the cloud was last seen to run."""
    with ledger.resources.together():
        for resource in ledger.resources.list(cloud=key, live_only=True):
            ledger.resources.close(resource.id, at=_last_known(ledger, resource), ended_by="cloud")
        return [job.id for job in ledger.jobs.unfinished(cloud=key) if _close_job(ledger, job, why)]


def _close_job(ledger: Ledger, job: JobRecord, why: str) -> bool:
    """Whether it was this process that closed it."""
    from runctl.jobs import accounting

    events, attempts = ledger.jobs.events(job.id), ledger.jobs.attempts(job.id)
    at = _latest(job, (event.at for event in events), ledger.resources.list(job=job.id))
    cause = f"its sandbox ended: {why}"
    for attempt in attempts:
        if attempt.ended is None:
            cost = accounting.spent(ledger, job.id, at, attempt=attempt.number).total.known
            ledger.jobs.save_attempt(
                msgspec.structs.replace(
                    attempt, state="lost", ended=at, cause=CAUSE, message=cause, cost=cost
                )
            )
    try:
        ledger.jobs.transition(
            job.id,
            JobState.FAILED,
            allowed_from={job.state} & state.may_come_from(JobState.FAILED),
            at=at,
            attempt=events[-1].attempt if events else 0,
            cause=cause,
            cost=accounting.spent(ledger, job.id, at).total.known,
        )
    except Conflict:  # its supervisor has just ended it
        return False
    return True


def _last_known(ledger: Ledger, resource: ResourceRecord) -> datetime:
    """The last moment at which the cloud showed a resource, by what was noted of it."""
    noted = (resource.created, resource.seen, ledger.resources.last_start(resource.id))
    return max(moment for moment in noted if moment is not None)


def _latest(job: JobRecord, moments: Iterable[datetime], resources: Iterable[ResourceRecord]) -> datetime:
    ends = [resource.ended for resource in resources if resource.ended is not None]
    return max([job.updated, *moments, *ends])


class _Payload(msgspec.Struct, frozen=True):
    """What the plan of every operation says of its place."""

    cloud: str = ""


def _cloud_of(ledger: Ledger, record: TransactionRecord) -> str:
    """The key of a transaction's cloud; empty where it names none."""
    from runctl.jobs.launch import OPERATION

    if record.operation == OPERATION:
        return ledger.jobs.get(record.subject.partition("/")[0]).cloud
    try:
        return msgspec.json.decode(record.payload, type=_Payload).cloud
    except msgspec.MsgspecError:
        return ""
