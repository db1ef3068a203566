"""What a job came to: attempts, cost, saving, and the work that was lost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from runctl.jobs import accounting, steps
from runctl.jobs.spec import retained
from runctl.ledger import AttemptRecord, JobRecord, Ledger, decoded
from runctl.model import JobState, Offer


class AttemptReport(msgspec.Struct, frozen=True):
    """One attempt. `steps_lost` counts steps that were done again; None if nobody can know.

    `began_step` is the first step that the script itself named; `began_anew`: that was its very first one,
    although it was given `resumed_from`.
    """

    number: int
    state: str
    machine: str
    started: datetime | None
    ended: datetime | None
    cause: str
    resumed_from: str | None
    resumed_step: int | None
    began_step: int | None
    began_anew: bool
    last_step: int | None
    committed_step: int | None
    seconds_to_safety: float | None
    steps_lost: int | None
    cost: Decimal | None
    silence: str = ""
    """What was told of checkpoints that are not kept though the steps go on."""


class JobReport(msgspec.Struct, frozen=True):
    """A job as a whole; money in USD, None where a price is unknown. `saved` is against on-demand.

    `interruptions` are the cloud's, `failures` the script's. `retried` are snapshots that it failed from at
    once, in whose place an earlier one was tried. `kept_files` and `kept_bytes` are those of the newest
    snapshot that is known of.
    """

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
    failures: int
    retried: tuple[str, ...]
    keep_written: int
    kept_files: int | None
    kept_bytes: int | None
    cause: str
    retention: str = ""
    """Which checkpoints stay, in words; empty if all do."""
    user: str = ""
    adopted: bool = False


def report(ledger: Ledger, job: JobRecord, now: datetime) -> JobReport:
    """All that the ledger knows of a job."""
    attempts = ledger.jobs.attempts(job.id)
    rows = tuple(_attempt(ledger, attempts, index, now) for index in range(len(attempts)))
    spent = accounting.spent(ledger, job.id, now)
    machine = spent.compute.known
    saved = None
    if spent.on_demand is not None and machine is not None:
        saved = spent.on_demand - machine
    cut_short = [
        row for row, attempt in zip(rows, attempts, strict=True) if attempt.cause in steps.PREEMPTIONS
    ]
    # One that kept nothing went on with what those before it had kept.
    told = [one for one in attempts if one.kept_files is not None]
    kept = next((one for one in reversed(told) if one.kept_files), told[-1] if told else None)
    asked = decoded(job.spec, _Asked, job.id)
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
        steps_lost=None if any(count is None for count in lost) else sum(count or 0 for count in lost),
        interruptions=len(cut_short),
        failures=sum(attempt.cause in {"failed", "prepare-failed"} for attempt in attempts),
        retried=asked.not_from,
        keep_written=asked.keep_written,
        kept_files=kept.kept_files if kept else None,
        kept_bytes=kept.kept_bytes if kept else None,
        cause=events[-1].cause if events else "",
        retention=retained(asked.keep_last, asked.keep_every, asked.keep_best),
        user=job.user,
        adopted=job.adopted_at is not None,
    )


class _Asked(msgspec.Struct, frozen=True):
    """What of a job's spec the report tells."""

    not_from: tuple[str, ...] = ()
    keep_written: int = 0
    keep_last: int | None = None
    keep_every: int | None = None
    keep_best: str | None = None


def _attempt(ledger: Ledger, attempts: Sequence[AttemptRecord], index: int, now: datetime) -> AttemptReport:
    attempt = attempts[index]
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
        resumed_from=attempt.resumed_from,
        resumed_step=attempt.resumed_step,
        began_step=attempt.began_step,
        began_anew=steps.began_anew(attempts, index),
        last_step=attempt.last_step,
        committed_step=attempt.committed_step,
        seconds_to_safety=attempt.committed_seconds,
        steps_lost=steps.lost(attempts, index),
        cost=cost,
        silence=attempt.silence or "",
    )
