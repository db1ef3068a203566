"""What a job came to: attempts, cost, saving, and the work that was lost."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import msgspec

from runctl.jobs import accounting
from runctl.ledger import AttemptRecord, JobRecord, Ledger, decoded
from runctl.model import JobState, Offer


class AttemptReport(msgspec.Struct, frozen=True):
    """One attempt. `steps_lost` counts steps done and not resumed from; None where no step is known."""

    number: int
    state: str
    machine: str
    started: datetime | None
    ended: datetime | None
    cause: str
    resumed_step: int | None
    last_step: int | None
    committed_step: int | None
    seconds_to_safety: float | None
    steps_lost: int | None
    cost: Decimal | None


class JobReport(msgspec.Struct, frozen=True):
    """A job as a whole; money in USD, None where a price is unknown. `saved` is against on-demand."""

    id: str
    name: str
    state: JobState
    target: str
    store: str
    created: datetime
    attempts: tuple[AttemptReport, ...]
    compute: Decimal | None
    disks: Decimal | None
    cost: Decimal | None
    on_demand: Decimal | None
    saved: Decimal | None
    steps_lost: int | None
    interruptions: int
    cause: str
    user: str = ""
    adopted: bool = False


def report(ledger: Ledger, job: JobRecord, now: datetime) -> JobReport:
    """All that the ledger knows of a job."""
    attempts = ledger.jobs.attempts(job.id)
    rows = tuple(
        _attempt(ledger, attempt, attempts[index + 1] if index + 1 < len(attempts) else None, now)
        for index, attempt in enumerate(attempts)
    )
    spent = accounting.spent(ledger, job.id, now)
    machine = spent.compute.known
    saved = None
    if spent.on_demand is not None and machine is not None:
        saved = spent.on_demand - machine
    cut_short = [
        row
        for row, attempt in zip(rows, attempts, strict=True)
        if attempt.cause in {"notice", "lost", "shutdown"}
    ]
    lost = [row.steps_lost for row in cut_short]
    events = ledger.jobs.events(job.id)
    return JobReport(
        id=job.id,
        name=job.name,
        state=job.state,
        target=job.target,
        store=job.store,
        created=job.created,
        attempts=rows,
        compute=machine,
        disks=spent.disks.known,
        cost=spent.total.known,
        on_demand=spent.on_demand,
        saved=saved,
        steps_lost=None if any(steps is None for steps in lost) else sum(steps or 0 for steps in lost),
        interruptions=len(cut_short),
        cause=events[-1].cause if events else "",
        user=job.user,
        adopted=job.adopted_at is not None,
    )


def _attempt(
    ledger: Ledger, attempt: AttemptRecord, following: AttemptRecord | None, now: datetime
) -> AttemptReport:
    machine = "this machine"
    if attempt.offer is not None:
        offer = decoded(attempt.offer, Offer, attempt.job)
        if offer.provider != "local":
            machine = f"{offer.instance_type} {offer.market} {offer.zone}"
    cost = attempt.cost
    if cost is None:
        cost = accounting.spent(ledger, attempt.job, now, attempt=attempt.number).total.known
    return AttemptReport(
        number=attempt.number,
        state=attempt.state,
        machine=machine,
        started=attempt.started,
        ended=attempt.ended,
        cause=attempt.cause or "",
        resumed_step=attempt.resumed_step,
        last_step=attempt.last_step,
        committed_step=attempt.committed_step,
        seconds_to_safety=attempt.committed_seconds,
        steps_lost=_steps_lost(attempt, following),
        cost=cost,
    )


def _steps_lost(attempt: AttemptRecord, following: AttemptRecord | None) -> int | None:
    """Steps that were done and had to be done again."""
    if attempt.state not in {"ended", "lost"} or attempt.cause == "finished":
        return 0 if attempt.cause == "finished" else None
    if attempt.last_step is None:
        # A notice before the script began, or before the first step of one that tells its steps, cost none.
        never_began = attempt.exit_code is None
        tells_steps = following is not None and following.last_step is not None
        return 0 if attempt.cause in {"notice", "shutdown"} and (never_began or tells_steps) else None
    kept = attempt.committed_step
    if following is not None and following.resumed_step is not None:
        kept = following.resumed_step
    if kept is None:
        began = attempt.resumed_step or 0
        return attempt.last_step - began if attempt.committed_name is None else None
    return max(0, attempt.last_step - kept)
