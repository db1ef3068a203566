"""A machine that does not keep what it owes is ended from outside, and only then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.jobs.attempt import AgentState
from runctl.jobs.judge import HEARTBEAT_LIMIT, Sighting
from runctl.jobs.overdue import ENDING, LEASE_MARGIN, SILENT_MARGIN, Owed, broken
from runctl.jobs.silent import twice
from runctl.ledger import AttemptRecord
from runctl.model import Market
from runctl.providers.base import Machine, MachineState

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LEASE, GRACE, SECOND = timedelta(minutes=15), timedelta(seconds=90), timedelta(seconds=1)
FRESH, SILENT = timedelta(seconds=10), HEARTBEAT_LIMIT + SECOND


def seen(
    silent: timedelta,
    *,
    spoke: bool = True,
    phase: str = "running",
    state: MachineState = MachineState.RUNNING,
    store: bool = True,
    cloud: bool = True,
) -> Sighting:
    said = AgentState(job="j", attempt=1, phase=phase, heartbeat=(NOW - silent).timestamp())
    machine = Machine("i-1", state, "g5.xlarge", "us-east-1a", "us-east-1", Market.SPOT, NOW)
    return Sighting(
        agent=said if spoke else None,
        store_answered=store,
        machine=machine,
        cloud_answered=cloud,
        launched=NOW - silent,
    )


def owed(**more: object) -> Owed:
    return Owed(**{"lease": LEASE, "grace": GRACE, **more})  # type: ignore[arg-type]


PAST = LEASE + LEASE_MARGIN + SECOND
LIMIT = {"limit": "the budget of 5 USD is spent"}


@pytest.mark.parametrize(
    ("sight", "due", "why"),
    [
        (seen(PAST), owed(), "longer than its lease of 15 minutes"),
        (seen(PAST, spoke=False), owed(), "longer than its lease"),
        (seen(PAST - 2 * SECOND), owed(), ""),
        (seen(PAST), owed(lease=None), ""),  # the user's own, or one that is kept
        (seen(PAST, store=False), owed(), ""),
        (seen(PAST, cloud=False), owed(), ""),
        (seen(PAST, state=MachineState.ENDING), owed(), ""),
        (seen(PAST, phase="ended"), owed(), ""),
        (seen(SILENT), owed(**LIMIT, limit_for=SILENT_MARGIN + SECOND), "the budget of 5 USD is spent"),
        (seen(SILENT), owed(**LIMIT, limit_for=SILENT_MARGIN), ""),
        (seen(FRESH), owed(**LIMIT, limit_for=SILENT_MARGIN + SECOND), ""),  # it ends by itself
        (seen(FRESH), owed(**LIMIT, limit_for=GRACE + ENDING + SECOND), "not at its end"),
        (seen(SILENT), owed(lease=None, **LIMIT, limit_for=PAST), ""),
        (seen(SILENT), owed(lease=None, stop_for=SILENT_MARGIN + SECOND), "it shall stop"),
        (seen(FRESH), owed(stop_for=SILENT_MARGIN + SECOND), ""),
        (seen(FRESH), owed(stop_for=GRACE + ENDING + SECOND), "it shall stop"),
    ],
)
def test_what_is_owed(sight: Sighting, due: Owed, why: str) -> None:
    found = broken(sight, due, NOW)
    assert (why in found) if why else found == ""


@given(
    silent=st.timedeltas(timedelta(0), HEARTBEAT_LIMIT),
    limit_for=st.timedeltas(timedelta(0), GRACE + ENDING),
    stop_for=st.none() | st.timedeltas(timedelta(0), GRACE + ENDING),
)
def test_an_agent_that_is_heard_has_its_grace_and_its_uploads(
    silent: timedelta, limit_for: timedelta, stop_for: timedelta | None
) -> None:
    assert broken(seen(silent), owed(**LIMIT, limit_for=limit_for, stop_for=stop_for), NOW) == ""


def attempt(number: int, cause: str) -> AttemptRecord:
    return AttemptRecord(job="j", number=number, state="lost", created=NOW, cause=cause, message="curl: (28)")


def test_two_silent_machines_in_a_row_are_the_last() -> None:
    silent = [attempt(1, "silent"), attempt(2, "silent")]
    assert "curl: (28)" in twice(silent)
    assert "2 machines in a row ended without a word of their agent" in twice(silent)
    assert twice(silent[:1]) == ""
    assert twice([attempt(1, "silent"), attempt(2, "notice")]) == ""
    assert twice([attempt(1, "silent"), attempt(2, "lost"), attempt(3, "silent")]) == ""
