"""The limits that a user set on a job, over all its attempts: money and hours."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from runctl.jobs import accounting
from runctl.jobs.spec import JobSpec
from runctl.ledger import Ledger
from runctl.model import JobId


class Reached(msgspec.Struct, frozen=True):
    """A limit that is reached, and the option that raises it."""

    cause: str
    option: str


def reached(ledger: Ledger, job: JobId, spec: JobSpec, now: datetime) -> Reached | None:
    """The limit that leaves nothing for another attempt."""
    if spec.budget is not None and accounting.spent(ledger, job, now).total.usd >= spec.budget:
        return _money(spec)
    if spec.max_hours is not None and time_left(ledger, job, spec.max_hours, now) <= timedelta(0):
        return _hours(spec)
    return None


def not_raised(ledger: Ledger, job: JobId, before: JobSpec, spec: JobSpec) -> Reached | None:
    """The limit that ended the last attempt and is the same in `spec`.

    The agent counts from before its launch, so that by the ledger a moment may seem to be left.
    """
    attempts = ledger.jobs.attempts(job)
    cause = attempts[-1].cause if attempts else None
    if cause == "budget" and spec.budget == before.budget:
        return _money(spec)
    if cause == "deadline" and spec.max_hours == before.max_hours:
        return _hours(spec)
    return None


def time_left(ledger: Ledger, job: JobId, max_hours: float, now: datetime) -> timedelta:
    """What the attempts so far have left of a number of hours; negative where it is overdrawn."""
    used = (
        (attempt.ended or now) - attempt.started
        for attempt in ledger.jobs.attempts(job)
        if attempt.started is not None
    )
    return timedelta(hours=max_hours) - sum(used, timedelta(0))


def _money(spec: JobSpec) -> Reached:
    return Reached(f"the budget of {spec.budget} USD is spent", "--budget USD")


def _hours(spec: JobSpec) -> Reached:
    return Reached(f"its {spec.max_hours:g} hours are over", "--max-hours HOURS")
