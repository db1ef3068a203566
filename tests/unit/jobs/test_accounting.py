"""From when to when a job's machine is counted: as EC2 bills it, and never too short."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runctl.jobs import accounting
from runctl.jobs.place import AwsSettings, cloud_place
from runctl.jobs.spec import JobSpec
from runctl.ledger import JobRecord, Ledger
from runctl.model import JobId, JobState, Market
from runctl.providers.base import Machine, MachineState

LAUNCHED = datetime(2026, 1, 1, 10, tzinfo=UTC)
HOURLY = Decimal("21.95764")


def after(seconds: float) -> datetime:
    return LAUNCHED + timedelta(seconds=seconds)


class Books:
    """One machine of one job, noted by hand."""

    def __init__(self, ledger: Ledger, live: Any) -> None:
        self.ledger = ledger
        spec = JobSpec(name="w", on="sandbox", root="/nowhere", workdir=".", command=("true",))
        self.place = cloud_place(live.cloud(), JobId("w-1"), spec, AwsSettings(), bucket="b")
        self.job = JobRecord(
            id=JobId("w-1"),
            name="w",
            spec=b"",
            state=JobState.RUNNING,
            target="sandbox",
            cloud=self.place.cloud_key,
            folder=None,
            store="s3://b/w-1",
            project="p",
            user="u",
            created=LAUNCHED,
            updated=LAUNCHED,
        )
        self.machine = Machine(
            id=live.name("i"),
            state=MachineState.PENDING,
            instance_type="p4d.24xlarge",
            zone="us-east-1a",
            region="us-east-1",
            market=Market.ON_DEMAND,
            launched=LAUNCHED,
        )

    def see(self, state: MachineState, asked: float, booted: float | None = None, **changes: Any) -> None:
        accounting.note_machine(
            self.ledger,
            self.place,
            self.job,
            1,
            msgspec.structs.replace(self.machine, state=state, **changes),
            asked=after(asked),
            booted=None if booted is None else after(booted),
        )

    def seconds(self, now: float) -> Decimal:
        """How many seconds are counted up to `now`."""
        spent = accounting.spent(self.ledger, self.job.id, after(now))
        return (spent.compute.usd * 3600 / HOURLY).quantize(Decimal("0.001"))


@pytest.fixture
def books(sandbox_cloud: Any, tmp_path: Path) -> Iterator[Books]:
    with Ledger.open(tmp_path / "ledger.sqlite3") as ledger:
        yield Books(ledger, sandbox_cloud)


def test_a_machine_costs_nothing_while_it_is_pending(books: Books) -> None:
    books.see(MachineState.PENDING, 0)
    books.see(MachineState.PENDING, 200)
    assert books.seconds(201) == 0


def test_it_is_billed_from_the_moment_that_it_booted(books: Books) -> None:
    books.see(MachineState.PENDING, 0)
    books.see(MachineState.RUNNING, 14)
    books.see(MachineState.RUNNING, 80, booted=11.5)
    assert books.seconds(100) == Decimal("88.5")


def test_a_machine_that_was_pending_after_it_booted_by_its_own_clock_is_billed_from_then(
    books: Books,
) -> None:
    books.see(MachineState.PENDING, 0)
    books.see(MachineState.PENDING, 20)
    books.see(MachineState.RUNNING, 80, booted=11.5)
    assert books.seconds(100) == 80


def test_one_whose_agent_never_spoke_is_billed_from_when_it_was_last_pending(books: Books) -> None:
    books.see(MachineState.PENDING, 0)
    books.see(MachineState.PENDING, 8)
    books.see(MachineState.RUNNING, 600)
    assert books.seconds(608) == 600


@pytest.mark.parametrize("booted", [None, 10.0])
def test_one_that_was_never_seen_to_run_is_billed_to_its_end(books: Books, booted: float | None) -> None:
    books.see(MachineState.PENDING, 0)
    books.see(MachineState.GONE, 500, booted=booted, ended=after(300))
    assert books.seconds(500) == 300 - (booted or 0)


def test_a_machine_that_ended_at_once_has_its_minute_and_no_time_runs_backwards(books: Books) -> None:
    books.see(MachineState.PENDING, 0)
    books.see(MachineState.GONE, 30, booted=12.0, ended=after(11))
    assert books.seconds(500) == 60
