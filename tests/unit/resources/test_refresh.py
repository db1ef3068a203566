"""What a look at the cloud may close in the ledger, and what it may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runctl.ledger import Ledger, ResourceRecord
from runctl.resources import inventory
from runctl.resources.inventory import Inventory

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def record(seen: datetime | None, created: datetime) -> ResourceRecord:
    return ResourceRecord(
        id="vol-1",
        kind="volume",
        cloud="c",
        region="r",
        zone="ra",
        name="",
        project="",
        user="",
        job=None,
        attempt=None,
        facts=b"{}",
        created=created,
        seen=seen,
    )


@pytest.mark.parametrize(
    ("seen", "created", "ends"),
    [
        (NOW - timedelta(minutes=9), NOW - timedelta(days=1), NOW - timedelta(minutes=9)),
        (None, NOW - timedelta(days=1), NOW - timedelta(days=1)),
        (NOW + timedelta(seconds=1), NOW - timedelta(days=1), None),  # seen by another since this look began
        (None, NOW + timedelta(seconds=1), None),  # made by another since then
        # Made since then, and noted by a look that had begun before this one.
        (NOW - timedelta(seconds=1), NOW + timedelta(seconds=1), None),
        (NOW - timedelta(seconds=1), NOW - timedelta(seconds=1), None),  # EC2 may show it late
    ],
)
def test_what_vanished_is_closed_when_it_was_last_seen_and_what_is_newer_is_not(
    tmp_path: Path, seen: datetime | None, created: datetime, ends: datetime | None
) -> None:
    empty = Inventory(cloud="c", regions=("r",), taken=NOW, instances=(), volumes=(), snapshots=())
    session: Any = SimpleNamespace(
        region="r", cloud=SimpleNamespace(key="c", clock=SimpleNamespace(now=lambda: NOW))
    )
    with Ledger.open(tmp_path) as ledger:
        ledger.resources.save(record(seen, created))
        inventory.refresh(ledger, [session], empty)
        assert ledger.resources.get("vol-1").ended == ends


def test_a_region_that_did_not_answer_is_not_taken_for_empty(tmp_path: Path) -> None:
    silent = Inventory(
        cloud="c",
        regions=("r",),
        taken=NOW,
        instances=(),
        volumes=(),
        snapshots=(),
        unread=(("r", "volume"),),
    )
    session: Any = SimpleNamespace(
        region="r", cloud=SimpleNamespace(key="c", clock=SimpleNamespace(now=lambda: NOW))
    )
    with Ledger.open(tmp_path) as ledger:
        ledger.resources.save(record(None, NOW - timedelta(days=1)))
        inventory.refresh(ledger, [session], silent)
        assert ledger.resources.get("vol-1").ended is None
