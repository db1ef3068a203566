"""What a sandbox leaves in the ledger that ended: closed with its reason, at the last moment known."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from runctl import clouds, processes
from runctl.clouds import SandboxRecord
from runctl.jobs import ended_cloud
from runctl.ledger import (
    AttemptRecord,
    InstanceFacts,
    JobRecord,
    Ledger,
    Owner,
    ResourceRecord,
)
from runctl.model import JobId, JobState, Market, Price

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIVING, DEAD = "sandbox:living", "sandbox:dead"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Of a home in which a sandbox is up, served by this very process."""
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path))
    _serve("living")
    with Ledger.open(tmp_path) as opened:
        yield opened


def _serve(name: str, *, process: str | None = None) -> None:
    path = clouds.sandbox_record_path()
    path.parent.mkdir(exist_ok=True)
    record = SandboxRecord(
        id=name,
        endpoint="http://127.0.0.1:1",
        s3_endpoint="http://127.0.0.1:1",
        region="us-east-1",
        account="1",
        access_key="a",
        secret_key="s",
        s3_access_key="a",
        s3_secret_key="s",
        clock="",
        pid=os.getpid(),
        process=process or processes.identity(os.getpid()) or "",
        control_token="t",
    )
    path.write_bytes(msgspec.json.encode(record))


def _job(ledger: Ledger, cloud: str, state: JobState = JobState.RUNNING) -> JobId:
    """A job with one machine that was last seen half an hour after it began to run."""
    job = JobId(f"{cloud.replace(':', '-')}-{state}")
    ledger.jobs.add(
        JobRecord(
            id=job,
            name="walk",
            spec=b"{}",
            state=state,
            target="sandbox",
            cloud=cloud,
            folder=None,
            store="s3://b/p",
            project="p",
            user="u",
            created=NOON,
            updated=NOON,
        ),
        "asked for",
    )
    machine = f"i-{job}"
    ledger.jobs.save_attempt(
        AttemptRecord(job=job, number=1, state="running", created=NOON, instance_id=machine)
    )
    ledger.resources.save(
        ResourceRecord(
            id=machine,
            kind="instance",
            cloud=cloud,
            region="us-east-1",
            zone="us-east-1a",
            name="",
            project="p",
            user="u",
            job=job,
            attempt=1,
            facts=msgspec.json.encode(
                InstanceFacts(instance_type="m7i.large", market=Market.ON_DEMAND, region="us-east-1")
            ),
            created=NOON,
        )
    )
    price = Price(usd_per_hour=Decimal(2), source="test", as_of=NOON)
    ledger.resources.observe(machine, "running", at=NOON, billable=True, price=price)
    ledger.resources.seen([machine], NOON + HOUR / 2)
    return job


@pytest.mark.parametrize("state", [state for state in JobState if not state.final], ids=str)
def test_a_job_of_an_ended_sandbox_is_closed_in_whatever_state_it_was(
    ledger: Ledger, state: JobState
) -> None:
    job, other = _job(ledger, DEAD, state), _job(ledger, LIVING, state)
    assert ended_cloud.settle(ledger) == [job]
    assert ended_cloud.settle(ledger) == [], "once"
    assert ledger.jobs.get(job).state is JobState.FAILED
    last = ledger.jobs.events(job)[-1]
    assert last.cause == "its sandbox ended: another one was started after it"
    assert last.cost == 1, "half an hour at 2 USD: not a moment more than was seen"
    assert ledger.jobs.attempts(job)[0].ended == NOON + HOUR / 2
    assert ledger.jobs.get(other).state is state
    assert [one.job for one in ledger.resources.list(live_only=True)] == [other]


def test_a_job_that_is_final_stays_what_it_was(ledger: Ledger) -> None:
    job = _job(ledger, DEAD, JobState.SUCCEEDED)
    assert ended_cloud.settle(ledger) == []
    assert ledger.jobs.get(job).state is JobState.SUCCEEDED
    assert ledger.resources.list(live_only=True) == [], "its machine went all the same"


def test_the_reason_tells_how_it_ended(ledger: Ledger) -> None:
    assert clouds.ended(LIVING) == ""
    assert clouds.ended("aws") == "", "AWS does not end"
    assert clouds.ended(DEAD) == "another one was started after it"
    _serve("living", process="1@another-boot+1")
    assert "is gone" in clouds.ended(LIVING), "its pid is another process's by now"
    clouds.sandbox_record_path().unlink()
    assert clouds.ended(LIVING) == "it was taken down"


def test_an_operation_that_a_dead_process_left_in_it_is_void(ledger: Ledger) -> None:
    gone = Owner(pid=2**22 + 1, started=1.0, host=os.uname().nodename)
    mine = Owner(pid=os.getpid(), started=processes.born(os.getpid()) or 0, host=os.uname().nodename)

    def begun(cloud: str, owner: Owner) -> str:
        return ledger.journal.begin(
            "create-volume", subject="v", payload=b'{"cloud": "%s"}' % cloud.encode(), owner=owner, at=NOON
        )

    dead, living, unplanned = begun(DEAD, gone), begun(LIVING, gone), begun("", gone)
    mine_too = begun(DEAD, mine)
    job = _job(ledger, DEAD)
    launch = ledger.journal.begin("launch-attempt", subject=f"{job}/1", payload=b"{}", owner=gone, at=NOON)
    ended_cloud.settle(ledger)
    assert ledger.journal.get(dead).outcome == ledger.journal.get(launch).outcome == ended_cloud.VOID
    assert ledger.journal.get(living).outcome is None
    assert ledger.journal.get(unplanned).outcome is None
    # This process gave it up, for it is not carried out here: nobody works on it either.
    assert ledger.journal.get(mine_too).outcome == ended_cloud.VOID
