"""What was staged where: rows that stay, the newest first."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from runctl.ledger import Ledger
from runctl.ledger.staged import StagedRecord

FIRST = StagedRecord(
    resource="vol-1",
    cloud="aws",
    region="us-east-1",
    location="s3://bucket/imagenet",
    version="a" * 64,
    files=3,
    bytes=2**40,
    at=datetime(2026, 11, 24, 1, 2, 3, 4, tzinfo=UTC),
)


def test_rows_come_back_as_they_were_the_newest_first(tmp_path: Path) -> None:
    second = msgspec.structs.replace(FIRST, version="b" * 64, at=FIRST.at + timedelta(hours=1))
    other = msgspec.structs.replace(FIRST, resource="vol-2", location="s3://bucket/other")
    with Ledger.open(tmp_path) as ledger:
        for row in (FIRST, second, other):
            ledger.staged.add(row)
    with Ledger.open(tmp_path) as ledger:
        assert ledger.staged.list(resource="vol-1") == [second, FIRST]
        assert ledger.staged.list(location="s3://bucket/other") == [other]
        assert ledger.staged.list() == [other, second, FIRST]


def test_rows_are_never_altered(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.staged.add(FIRST)
    connection = sqlite3.connect(tmp_path / "ledger.sqlite3")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("UPDATE staged SET version = 'c'")
    connection.close()
