"""What was lost is counted by what the attempts really did, whatever their checkpoints are called."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.jobs import steps
from runctl.ledger import AttemptRecord
from runctl.model import JobId

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def attempt(number: int, cause: str = "notice", **fields: Any) -> AttemptRecord:
    return AttemptRecord(
        job=JobId("walk"),
        number=number,
        state="lost" if cause == "lost" else "ended",
        created=NOW,
        cause=cause,
        exit_code=0,
        **fields,
    )


def first(last: int | None, began: int | None = 1, **fields: Any) -> AttemptRecord:
    return attempt(1, began_step=began, last_step=last, **fields)


def second(began: int | None, resumed: int | None, cause: str = "finished", **fields: Any) -> AttemptRecord:
    given = {"resumed_from": "000001-x", "last_step": began, **fields}
    return attempt(2, cause, began_step=began, resumed_step=resumed, **given)


@pytest.mark.parametrize(
    ("attempts", "lost"),
    [
        ([first(90), second(91, 90)], 0),
        ([first(90), second(81, 80)], 10),
        ([first(72), second(73, 5)], 0),  # the name counts epochs
        ([first(72), second(61, None)], 12),
        ([first(72), second(1, 5)], 72),  # it began anew
        ([first(90, 10), second(90, 85)], 5),  # each tenth is named
        ([first(149), second(145, 145, resumed_from="000009-backup")], 5),  # the log was a step further
        ([first(149), second(145, 145, resumed_from="000009-step_145.pt")], 4),  # it says where it goes on
        ([first(149), second(149, 149, resumed_from="000009-backup")], 0),
        ([first(90, 10), second(90, None)], 10),
        ([first(89, 0), second(90, 90)], 0),  # steps are counted from 0
        ([first(72), second(None, 5)], 0),  # nothing was left to do
        ([first(72), second(None, 5, "failed")], None),
        ([first(72), second(None, 60, "notice"), attempt(3, "finished", began_step=61)], 12),
        ([first(72)], None),
        ([first(None, None), second(1, None, resumed_from=None)], 0),
        ([first(None, None), second(None, None)], None),  # it never names a step
        ([first(41), second(0, 25, last_step=16, committed_step=41)], None),  # its log counts anew
    ],
)
def test_what_an_interruption_cost(attempts: list[AttemptRecord], lost: int | None) -> None:
    assert steps.lost(attempts, 0) == lost


@pytest.mark.parametrize(
    ("attempts", "anew"),
    [
        ([first(72), second(1, 60)], True),
        ([first(72), second(61, 60)], False),
        ([first(72), second(1, None, resumed_from=None)], False),  # it was offered nothing
        ([first(1), second(1, 1)], False),
        ([first(41), second(0, 25, last_step=16, committed_step=41)], False),  # XGBoost's log does
        ([first(None, None), second(1, None)], False),
    ],
)
def test_a_script_that_begins_at_its_first_step_again_began_anew(
    attempts: list[AttemptRecord], anew: bool
) -> None:
    assert steps.began_anew(attempts, 1) is anew


@given(
    st.integers(1, 200),
    st.integers(1, 20),
    st.sampled_from([1, 2, 5, 10]),
    st.sampled_from(["step", "epoch", "none"]),
    st.sampled_from(["finds it", "begins anew"]),
)
def test_what_is_counted_is_what_was_done_again(
    done: int, every: int, stride: int, names: str, script: str
) -> None:
    """A script that names every `stride`th of the `done` steps, and saves each `every` steps."""
    saved = done // every * every
    begins_at = 0 if script == "begins anew" else saved
    named = [step for step in range(1, done + 1) if step % stride == 0]
    again = [step for step in range(begins_at + 1, 1000) if step % stride == 0]
    if not named:
        return
    resumed = {"step": saved, "epoch": saved // 30, "none": None}[names] if saved else None
    attempts = [
        first(named[-1], named[0], committed_name="x" if saved else None),
        second(again[0], resumed, resumed_from="000001-x" if saved else None),
    ]
    counted, really = steps.lost(attempts, 0), done - begins_at
    assert counted is not None
    assert abs(counted - really) < 2 * stride
    if stride == 1 and not (names == "epoch" and resumed and again[0] - 1 <= resumed <= again[0]):
        assert counted == really


def test_only_what_brings_the_job_no_further_uses_up_its_attempts() -> None:
    far = {"committed_name": "000001-a", "committed_step": 10}
    further = {
        "committed_name": "000002-b",
        "committed_step": 20,
        "resumed_from": "000001-a",
        "resumed_step": 10,
    }
    assert steps.used([first(12, **far), attempt(2, "lost", began_step=11, **further)]) == 0
    assert steps.used([first(12), attempt(2, "notice", resumed_from="000001-a", resumed_step=10)]) == 2
    stuck = {**further, "committed_step": 10}
    assert steps.used([first(12, **far), attempt(2, "notice", began_step=11, **stuck)]) == 1
    anew = attempt(2, "notice", began_step=1, last_step=20, **further)
    assert steps.used([first(12, **far), anew]) == 1
    failed = attempt(2, "failed", resumed_from="000001-a")
    assert steps.used([first(12, **far), failed]) == 1
    assert steps.used([first(12, **far), failed], ["000001-a"]) == 0
