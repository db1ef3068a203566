"""What is shown while a volume is filled: rate, expected end, cost so far."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from runctl.events import Event, Progress
from runctl.resources import pace
from runctl.resources.pace import MIB, Pace
from runctl.resources.stager import State

LAUNCHED = datetime(2026, 3, 1, 12, tzinfo=UTC)


def shown(monkeypatch: pytest.MonkeyPatch, looks: list[tuple[float, int]], **request: Any) -> list[Progress]:
    """The events of looks: seconds since the launch, and the bytes that had come by then."""
    now = [0.0]
    heard: list[Event] = []
    clock = SimpleNamespace(now=lambda: LAUNCHED + timedelta(seconds=now[0]))
    session = SimpleNamespace(cloud=SimpleNamespace(clock=clock))
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pace.instances, "get", lambda *_: SimpleNamespace(launched=LAUNCHED))
    asked = {"instance": "i-1", "location": "s3://bucket/set", "volume": "vol-1", **request}
    one = Pace(SimpleNamespace(session=session, emit=heard.append), asked)  # type: ignore[arg-type]
    for seconds, done in looks:
        now[0] = seconds
        state = State(phase="copying", wanted_bytes=1000 * MIB, copied_bytes=done, coming_bytes=10 * MIB)
        one.show(state)
    return [event for event in heard if isinstance(event, Progress)]


def test_rate_end_and_cost_are_worked_out_from_look_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [(60.0, 90 * MIB), (70.0, 290 * MIB), (80.0, 490 * MIB)]
    first, _, last = shown(monkeypatch, looks, usd_per_hour="0.9")
    assert first.task == "copying s3://bucket/set to vol-1, $0.0150 so far"
    # 20 MiB a second over two looks; 500 MiB are there with what is coming; 80 s of a machine's 0.9 USD/h.
    assert last.task == "copying s3://bucket/set to vol-1, 20 MiB/s, about 25 s left, $0.0200 so far"
    assert (last.done, last.total, last.unit) == (500.0, 1000.0, "MiB")


def test_a_long_way_is_told_in_minutes_and_the_rate_is_that_of_the_last_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = [(0.0, 0), (10.0, 400 * MIB), *((10.0 + at, 400 * MIB + at * MIB) for at in range(1, 12))]
    last = shown(monkeypatch, looks)[-1]
    assert "1 MiB/s, about 10 min left" in last.task


def test_a_machine_of_ones_own_costs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = shown(monkeypatch, [(60.0, 90 * MIB)])
    assert "$" not in only.task
