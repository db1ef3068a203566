from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runctl.ledger import JobRecord, Ledger, ResourceRecord
from runctl.model import JobId, JobState

NOON = datetime(2026, 11, 23, 12, 0, 0, 123_456, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def noon() -> datetime:
    return NOON


@pytest.fixture
def job() -> Callable[..., JobRecord]:
    def build(
        job_id: str = "digits-7f3a2c", *, state: JobState = JobState.PLANNED, created: datetime = NOON
    ) -> JobRecord:
        return JobRecord(
            id=JobId(job_id),
            name="digits",
            spec=b"{}",
            state=state,
            target="sandbox",
            cloud="sandbox:xyz",
            folder=None,
            store=f"s3://bucket/runctl/jobs/{job_id}",
            project="digits",
            user="ada",
            created=created,
            updated=created,
        )

    return build


@pytest.fixture
def resource() -> Callable[..., ResourceRecord]:
    def build(
        resource_id: str = "i-1",
        *,
        kind: str = "instance",
        job: str | None = None,
        cloud: str = "sandbox:xyz",
    ) -> ResourceRecord:
        return ResourceRecord(
            id=resource_id,
            kind=kind,
            cloud=cloud,
            region="us-east-1",
            zone="us-east-1a",
            name="digits/1",
            project="digits",
            user="ada",
            job=job,
            attempt=1 if job else None,
            facts=b"{}",
            created=NOON,
        )

    return build
