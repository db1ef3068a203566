from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from runctl.errors import NotFound
from runctl.ledger import Ledger, Owner, StepRecord

ME = Owner(pid=7, started=100.25, host="here")


def begin(ledger: Ledger, at: datetime, operation: str = "launch", subject: str = "digits/1") -> str:
    return ledger.journal.begin(operation, subject=subject, payload=b'{"a":1}', owner=ME, at=at)


def test_a_transaction_is_unfinished_until_it_ends(ledger: Ledger, noon: datetime) -> None:
    tx = begin(ledger, noon)
    record = ledger.journal.get(tx)
    assert (record.operation, record.subject, record.payload) == ("launch", "digits/1", b'{"a":1}')
    assert (record.owner, record.begun, record.outcome, record.steps) == (ME, noon, None, ())
    assert ledger.journal.unfinished() == [record]
    ledger.journal.end(tx, "finished")
    assert ledger.journal.unfinished() == []
    assert ledger.journal.get(tx).outcome == "finished"


def test_an_unknown_transaction_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.journal.get("tx-0")


def test_steps_keep_their_intent_and_get_an_outcome(ledger: Ledger, noon: datetime) -> None:
    tx = begin(ledger, noon)
    for number, name in enumerate(("volume", "instance", "attach"), start=1):
        assert ledger.journal.intend(tx, name, token=f"{tx}-{number}", request=b"r") == number
    ledger.journal.done(tx, 1, b"vol-1")
    ledger.journal.failed(tx, 2, "CapacityError: none")
    ledger.journal.undone(tx, 1)
    assert ledger.journal.get(tx).steps == (
        StepRecord(
            number=1,
            name="volume",
            token=f"{tx}-1",
            request=b"r",
            outcome="undone",
            result=b"vol-1",
            error=None,
        ),
        StepRecord(
            number=2,
            name="instance",
            token=f"{tx}-2",
            request=b"r",
            outcome="failed",
            result=None,
            error="CapacityError: none",
        ),
        StepRecord(
            number=3, name="attach", token=f"{tx}-3", request=b"r", outcome=None, result=None, error=None
        ),
    )


def test_unfinished_transactions_come_oldest_first_and_filtered(ledger: Ledger, noon: datetime) -> None:
    young = begin(ledger, noon + timedelta(hours=1))
    old = begin(ledger, noon, subject="digits/2")
    other = begin(ledger, noon + timedelta(hours=2), operation="snapshot")
    ended = begin(ledger, noon)
    ledger.journal.end(ended, "rolled-back")

    def ids(**filters: str) -> list[str]:
        return [record.id for record in ledger.journal.unfinished(**filters)]

    assert ids() == [old, young, other]
    assert ids(operation="launch") == [old, young]
    assert ids(operation="launch", subject="digits/2") == [old]


def test_all_transactions_are_listed_newest_first(ledger: Ledger, noon: datetime) -> None:
    old, young = begin(ledger, noon), begin(ledger, noon + timedelta(hours=1))
    ledger.journal.end(old, "finished")
    assert [record.id for record in ledger.journal.list()] == [young, old]
    assert [record.id for record in ledger.journal.list(limit=1)] == [young]


def test_an_adopted_transaction_belongs_to_its_new_process(ledger: Ledger, noon: datetime) -> None:
    tx = begin(ledger, noon)
    other = Owner(pid=8, started=200.5, host="here")
    ledger.journal.adopt(tx, other)
    assert ledger.journal.get(tx).owner == other
