"""A job as it happens: its bytes unchanged on stdout, its story on stderr."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl.events import Event, Heartbeat, LogOutput, Notice, Progress, Retried, Transition
from runctl.model import JobId, JobState
from runctl.render.follow import JsonFollower, TextFollower

Capture = pytest.CaptureFixture[bytes]
JOB = JobId("digits-1")
AT = datetime(2026, 11, 23, tzinfo=UTC)
STORY: list[Event] = [
    Transition(
        job=JOB, attempt=1, state=JobState.RUNNING, at=AT, cause="the script runs", cost=Decimal("0.5")
    ),
    Notice(text="[x] no spot capacity", warning=True),
    Retried(operation="ec2.RunInstances", error="RequestLimitExceeded", attempt=1, wait=0.25),
    Heartbeat(job=JOB, attempt=1, step=3, steps_per_second=1.5, cost=None),
]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=30), max_size=5))
def test_the_scripts_bytes_reach_stdout_unchanged(capsysbinary: Capture, pieces: list[bytes]) -> None:
    follow = TextFollower()
    for piece in pieces:
        follow(LogOutput(job=JOB, attempt=1, data=piece))
        follow(STORY[0])
    assert capsysbinary.readouterr().out == b"".join(pieces)


def test_the_story_is_on_stderr_in_lines(capsysbinary: Capture) -> None:
    follow = TextFollower()
    for event in STORY:
        follow(event)
    written = capsysbinary.readouterr()
    assert written.out == b""
    assert written.err.decode().splitlines() == [
        "[running 1] the script runs  $0.5000 so far",
        "[warning] [x] no spot capacity",
        "[retry] ec2.RunInstances: RequestLimitExceeded; again in 0.2 s",
    ]


def test_a_quiet_follower_tells_nothing(capsysbinary: Capture) -> None:
    follow = TextFollower(quiet=True)
    for event in [*STORY, LogOutput(job=JOB, attempt=1, data=b"epoch 1")]:
        follow(event)
    written = capsysbinary.readouterr()
    assert (written.out, written.err) == (b"", b"")


def test_json_lines_name_each_event_and_take_any_bytes(capsysbinary: Capture) -> None:
    follow = JsonFollower()
    for event in [*STORY, LogOutput(job=JOB, attempt=1, data=b"a\xff\n")]:
        follow(event)
    written = capsysbinary.readouterr()
    rows = [json.loads(line) for line in written.out.splitlines()]
    assert [row["event"] for row in rows] == ["Transition", "Notice", "Retried", "Heartbeat", "LogOutput"]
    assert rows[0]["state"] == "running"
    assert rows[0]["cost"] == "0.5"
    assert rows[4]["data"] == "a\ufffd\n"
    assert written.err == b""


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            Progress(
                task="upload", done=3 << 20, total=1 << 30, unit="B", rate=float(1 << 20), seconds_left=1021
            ),
            "upload: 3.0 MiB of 1.0 GiB, 1.0 MiB/s, 17 min 01 s left",
        ),
        (Progress(task="waiting for i-1", done=4.2, total=60, unit="s"), "waiting for i-1: 4 of 60 s"),
        (Progress(task="snapshot", done=5, total=None), "snapshot: 5"),
    ],
)
def test_progress_is_a_line_with_rate_and_time_left(
    event: Progress, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.render.follow._PROGRESS_SECONDS", 0)
    TextFollower()(event)
    assert line == capsys.readouterr().err.strip().removeprefix("[waiting] ")
