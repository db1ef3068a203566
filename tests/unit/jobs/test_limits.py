"""A job that its limits ended goes on with higher ones alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from runctl.errors import BudgetExceeded, ValidationError
from runctl.jobs import limits, start
from runctl.jobs import spec as specs
from runctl.jobs.spec import JobSpec
from runctl.ledger import AttemptRecord, JobRecord, Ledger
from runctl.model import JobId, JobState

BEGAN = datetime(2026, 1, 1, 10, tzinfo=UTC)
JOB = JobId("walk-1")
SPEC = JobSpec(name="w", on="local", root="/r", workdir=".", command=("true",), max_hours=2.0)

Ended = Callable[..., Ledger]


def after(hours: float) -> datetime:
    return BEGAN + timedelta(hours=hours)


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[Ended]:
    """A job whose one attempt ended after so many hours."""
    with Ledger.open(tmp_path) as ledger:

        def make(hours: float, *, cause: str, spec: JobSpec = SPEC) -> Ledger:
            record = JobRecord(
                id=JOB,
                name="w",
                spec=specs.encode(spec),
                state=JobState.OVER_BUDGET,
                target="local",
                cloud="local",
                folder="/r",
                store="/r",
                project="p",
                user="u",
                created=BEGAN,
                updated=BEGAN,
            )
            ledger.jobs.add(record, "made")
            ledger.jobs.save_attempt(
                AttemptRecord(
                    job=JOB,
                    number=1,
                    state="ended",
                    created=BEGAN,
                    started=BEGAN,
                    ended=after(hours),
                    cause=cause,
                )
            )
            return ledger

        yield make


def reopen(ledger: Ledger, *, budget: Decimal | None = None, max_hours: float | None = None) -> None:
    job = ledger.jobs.get(JOB)
    spec = start.resumed(ledger, job, now=after(9), resume_from=None, budget=budget, max_hours=max_hours)
    start.reopen(ledger, job, spec, now=after(9), cause="resumed")


@pytest.mark.parametrize("hours", [1.999, 2.1])
def test_a_job_ended_by_its_deadline_needs_more_hours(ended: Ended, hours: float) -> None:
    ledger = ended(hours, cause="deadline")
    for given in ({}, {"max_hours": 2.0}, {"max_hours": 1.0}, {"budget": Decimal(7)}):
        with pytest.raises(BudgetExceeded) as refused:
            reopen(ledger, **given)
        assert refused.value.next == f"runctl jobs resume {JOB} --max-hours HOURS"
    assert ledger.jobs.get(JOB).state is JobState.OVER_BUDGET
    with pytest.raises(ValidationError):
        reopen(ledger, max_hours=-1.0)
    reopen(ledger, max_hours=3.0)
    assert specs.decode(ledger.jobs.get(JOB).spec).max_hours == 3.0
    assert limits.time_left(ledger, JOB, 3.0, after(9)) == timedelta(hours=3.0 - hours)


def test_a_job_ended_by_its_budget_needs_more_money(ended: Ended) -> None:
    spec = JobSpec(name="w", on="local", root="/r", workdir=".", command=("true",), budget=Decimal(5))
    ledger = ended(1.0, cause="budget", spec=spec)
    for given in ({}, {"budget": Decimal(5)}, {"max_hours": 9.0}):
        with pytest.raises(BudgetExceeded) as refused:
            reopen(ledger, **given)
        assert refused.value.next == f"runctl jobs resume {JOB} --budget USD"
    reopen(ledger, budget=Decimal(6))
    assert specs.decode(ledger.jobs.get(JOB).spec).budget == Decimal(6)


def test_hours_that_were_used_up_in_pieces_leave_none(ended: Ended) -> None:
    ledger = ended(2.5, cause="stop")
    with pytest.raises(BudgetExceeded, match="nothing left"):
        reopen(ledger)


def test_a_stop_is_forgotten_where_the_user_goes_on(ended: Ended) -> None:
    ledger = ended(1.0, cause="stop")
    ledger.jobs.replace_spec(
        JOB, specs.encode(JobSpec(name="w", on="local", root="/r", workdir=".", command=(), stop_asked=True))
    )
    reopen(ledger)
    assert not specs.decode(ledger.jobs.get(JOB).spec).stop_asked


def test_a_step_back_is_of_the_attempt_that_makes_it(ended: Ended) -> None:
    """Those after it go on from what was committed since, and the next resumption from the newest."""
    ledger = ended(0.5, cause="stop")
    job = ledger.jobs.get(JOB)
    back = start.resumed(ledger, job, now=after(1), resume_from="000001-a")
    assert (back.resume_from, back.resume_since) == ("000001-a", 2)
    start.reopen(ledger, job, back, now=after(1), cause="resumed")
    ledger.jobs.transition(
        JOB,
        JobState.FAILED,
        allowed_from={JobState.RECOVERING},
        at=after(2),
        attempt=1,
        cause="crash",
    )
    newest = start.resumed(ledger, ledger.jobs.get(JOB), now=after(2), resume_from=None)
    assert (newest.resume_from, newest.resume_since) == (None, 0)
