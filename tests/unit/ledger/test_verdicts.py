from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from runctl.ledger import Ledger, VerdictRecord


def verdict(at: datetime, **changes: Any) -> VerdictRecord:
    plain = VerdictRecord(
        at=at, action="delete", resource="vol-1", allowed=True, forced=False, findings=b"[]", user="ada"
    )
    return msgspec.structs.replace(plain, **changes)


def test_verdicts_are_listed_the_newest_first(ledger: Ledger, noon: datetime) -> None:
    first = verdict(noon, allowed=False, findings=b'[{"rule":"young"}]')
    second = verdict(noon + timedelta(minutes=1), resource="vol-2", forced=True)
    third = verdict(noon, user="bob")
    for one in (first, second, third):
        ledger.verdicts.add(one)
    assert ledger.verdicts.list() == [third, second, first]
    assert ledger.verdicts.list(limit=1) == [third]
    assert ledger.verdicts.list(resource="vol-1") == [third, first]


@pytest.mark.parametrize("change", ["UPDATE verdicts SET allowed = 1", "DELETE FROM verdicts"])
def test_a_verdict_is_never_altered(ledger: Ledger, noon: datetime, change: str) -> None:
    ledger.verdicts.add(verdict(noon, allowed=False))
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        ledger._connection.execute(change)
    assert [found.allowed for found in ledger.verdicts.list()] == [False]
