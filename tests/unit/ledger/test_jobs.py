from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from runctl.errors import Conflict, NotFound, ValidationError
from runctl.ledger import AttemptRecord, JobEvent, JobRecord, Ledger
from runctl.model import JobId, JobState

BuildJob = Callable[..., JobRecord]


def test_a_job_comes_back_as_it_was_put_in(ledger: Ledger, job: BuildJob) -> None:
    ledger.jobs.add(job(), "asked for")
    assert ledger.jobs.get("digits-7f3a2c") == job()


def test_adding_a_job_twice_is_a_conflict(ledger: Ledger, job: BuildJob) -> None:
    ledger.jobs.add(job(), "asked for")
    with pytest.raises(Conflict, match="digits-7f3a2c"):
        ledger.jobs.add(job(), "asked for")
    assert len(ledger.jobs.events(JobId("digits-7f3a2c"))) == 1


def test_the_beginning_of_an_id_is_enough(ledger: Ledger, job: BuildJob) -> None:
    ledger.jobs.add(job("digits-7f3a2c"), "asked for")
    ledger.jobs.add(job("letters-000000"), "asked for")
    assert ledger.jobs.get("dig").id == "digits-7f3a2c"


def test_an_unclear_beginning_names_the_jobs(ledger: Ledger, job: BuildJob) -> None:
    for name in ("digits-aaa", "digits-aab"):
        ledger.jobs.add(job(name), "asked for")
    with pytest.raises(ValidationError) as caught:
        ledger.jobs.get("digits-a")
    assert "digits-aaa" in caught.value.why
    assert "digits-aab" in caught.value.why


def test_a_whole_id_wins_over_ids_that_it_begins(ledger: Ledger, job: BuildJob) -> None:
    for number in range(8):
        ledger.jobs.add(job(f"a{number}"), "asked for")
    ledger.jobs.add(job("a"), "asked for")
    assert ledger.jobs.get("a").id == "a"


@pytest.mark.parametrize("wild", ["%", "_igits-7f3a2c", "digits\\"])
def test_a_pattern_is_no_beginning(ledger: Ledger, job: BuildJob, wild: str) -> None:
    ledger.jobs.add(job(), "asked for")
    with pytest.raises(NotFound):
        ledger.jobs.get(wild)


def test_an_empty_reference_never_means_the_only_job(ledger: Ledger, job: BuildJob) -> None:
    """`runctl jobs stop "$JOB"` with an unset variable."""
    ledger.jobs.add(job(), "asked for")
    with pytest.raises(ValidationError):
        ledger.jobs.get("")


def test_an_unknown_job_names_the_nearest(ledger: Ledger, job: BuildJob) -> None:
    ledger.jobs.add(job("digits-7f3a2c"), "asked for")
    with pytest.raises(NotFound) as caught:
        ledger.jobs.get("digist-7f3a2c")
    assert "digits-7f3a2c" in caught.value.why


def test_last_is_the_job_that_was_added_last(ledger: Ledger, job: BuildJob) -> None:
    with pytest.raises(NotFound, match="no job"):
        ledger.jobs.get("last")
    ledger.jobs.add(job("old"), "asked for")
    ledger.jobs.add(job("new"), "asked for")
    assert ledger.jobs.get("last").id == "new"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(days=st.lists(st.integers(-20_000, 20_000), min_size=1, max_size=8))
def test_the_order_of_jobs_is_the_ledgers_own_whatever_a_clock_says(
    days: list[int], job: BuildJob, noon: datetime
) -> None:
    with TemporaryDirectory() as folder, Ledger.open(Path(folder)) as ledger:
        for number, shift in enumerate(days):
            ledger.jobs.add(job(f"job-{number}", created=noon + timedelta(days=shift)), "asked for")
        assert [found.id for found in ledger.jobs.list()] == [
            f"job-{number}" for number in reversed(range(len(days)))
        ]
        assert ledger.jobs.get("last").id == f"job-{len(days) - 1}"


def test_the_order_of_jobs_survives_a_vacuum(ledger: Ledger, job: BuildJob) -> None:
    """SQLite may give rows of such a table other numbers of its own then."""
    for name in ("first", "second", "third"):
        ledger.jobs.add(job(name), "asked for")
    ledger._connection.execute("VACUUM")
    ledger.jobs.add(job("fourth"), "asked for")
    assert [found.id for found in ledger.jobs.list()] == ["fourth", "third", "second", "first"]


def test_last_is_never_a_job_that_was_adopted(ledger: Ledger, job: BuildJob, noon: datetime) -> None:
    ledger.jobs.add(replace(job("theirs"), adopted_at=noon), "adopted")
    with pytest.raises(NotFound, match="no job"):
        ledger.jobs.get("last")
    ledger.jobs.add(job("mine"), "asked for")
    ledger.jobs.add(replace(job("theirs-too"), adopted_at=noon, seal="00"), "adopted")
    assert ledger.jobs.get("last").id == "mine"
    assert [(found.id, found.adopted_at) for found in ledger.jobs.list()] == [
        ("theirs-too", noon),
        ("mine", None),
        ("theirs", noon),
    ]
    assert ledger.jobs.get("theirs-too").seal == "00"


def test_jobs_are_listed_by_state(ledger: Ledger, job: BuildJob) -> None:
    ledger.jobs.add(job("old", state=JobState.RUNNING), "asked for")
    ledger.jobs.add(job("new"), "asked for")
    assert [found.id for found in ledger.jobs.list(states=[JobState.RUNNING])] == ["old"]
    assert [found.id for found in ledger.jobs.list(limit=1)] == ["new"]


def test_a_transition_moves_the_job_and_is_an_event(ledger: Ledger, job: BuildJob, noon: datetime) -> None:
    ledger.jobs.add(job(), "asked for")
    later = noon + timedelta(seconds=5)
    ledger.jobs.transition(
        job().id,
        JobState.PROVISIONING,
        allowed_from={JobState.PLANNED},
        at=later,
        attempt=1,
        cause="attempt 1",
        cost=Decimal("0.10"),
    )
    assert ledger.jobs.get(job().id) == replace(job(), state=JobState.PROVISIONING, updated=later)
    assert ledger.jobs.events(job().id) == [
        JobEvent(at=noon, attempt=0, state=JobState.PLANNED, cause="asked for", cost=None),
        JobEvent(at=later, attempt=1, state=JobState.PROVISIONING, cause="attempt 1", cost=Decimal("0.10")),
    ]


def test_a_transition_from_elsewhere_is_a_conflict_that_leaves_no_trace(
    ledger: Ledger, job: BuildJob, noon: datetime
) -> None:
    ledger.jobs.add(job(state=JobState.STOPPED), "asked for")
    with pytest.raises(Conflict) as caught:
        ledger.jobs.transition(
            job().id, JobState.RUNNING, allowed_from={JobState.STAGING}, at=noon, attempt=1, cause="runs"
        )
    assert "running" in caught.value.what
    assert "stopped" in caught.value.why
    assert ledger.jobs.get(job().id).state is JobState.STOPPED
    assert len(ledger.jobs.events(job().id)) == 1


def test_a_transition_of_an_unknown_job_is_refused(ledger: Ledger, noon: datetime) -> None:
    with pytest.raises(NotFound):
        ledger.jobs.transition(
            JobId("ghost"), JobState.RUNNING, allowed_from=set(JobState), at=noon, attempt=1, cause="runs"
        )


def test_an_attempt_is_replaced_by_what_is_known_of_it_later(
    ledger: Ledger, job: BuildJob, noon: datetime
) -> None:
    ledger.jobs.add(job(), "asked for")
    first = AttemptRecord(job=job().id, number=1, state="provisioning", created=noon)
    second = replace(
        first,
        state="ended",
        instance_id="i-1",
        offer=b'{"zone":"us-east-1a"}',
        started=noon,
        ended=noon + timedelta(minutes=1),
        cause="notice",
        message="spot interruption",
        resumed_from="000001-a",
        resumed_step=10,
        last_step=20,
        committed_name="000002-b",
        committed_step=19,
        committed_seconds=1.25,
        exit_code=143,
        cost=Decimal("0.0123456789012345678901234567"),
    )
    ledger.jobs.save_attempt(first)
    ledger.jobs.save_attempt(second)
    ledger.jobs.save_attempt(replace(first, number=2))
    assert ledger.jobs.attempts(job().id) == [second, replace(first, number=2)]


def test_one_process_supervises_until_its_lease_runs_out(
    ledger: Ledger, job: BuildJob, noon: datetime
) -> None:
    ledger.jobs.add(job(), "asked for")
    name, jobs = job().id, ledger.jobs
    assert jobs.supervise(name, "a", now=noon, seconds=10)
    assert not jobs.supervise(name, "b", now=noon + timedelta(seconds=9), seconds=10)
    assert jobs.supervise(name, "a", now=noon + timedelta(seconds=9), seconds=10)
    assert not jobs.supervise(name, "b", now=noon + timedelta(seconds=18), seconds=10)
    assert jobs.supervisor(name, noon + timedelta(seconds=18)) == "a"
    assert jobs.supervisor(name, noon + timedelta(seconds=19)) is None
    assert jobs.supervise(name, "b", now=noon + timedelta(seconds=19), seconds=10)


def test_only_the_holder_releases_a_lease(ledger: Ledger, job: BuildJob, noon: datetime) -> None:
    ledger.jobs.add(job(), "asked for")
    ledger.jobs.supervise(job().id, "a", now=noon, seconds=10)
    ledger.jobs.release(job().id, "b")
    assert ledger.jobs.supervisor(job().id, noon) == "a"
    ledger.jobs.release(job().id, "a")
    assert ledger.jobs.supervisor(job().id, noon) is None


def test_a_time_without_a_zone_is_refused(ledger: Ledger, job: BuildJob, noon: datetime) -> None:
    with pytest.raises(ValueError, match="zone"):
        ledger.jobs.add(job(created=noon.replace(tzinfo=None)), "asked for")
