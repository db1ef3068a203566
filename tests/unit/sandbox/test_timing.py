"""The sandbox's clock and what is due on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.clock import FileClock
from runctl.sandbox.timing import FLOOR, CloudClock, Schedule


@pytest.fixture
def clock(tmp_path: Path) -> CloudClock:
    return CloudClock(tmp_path / "clock", 10)


@pytest.fixture
def schedule(clock: CloudClock) -> Iterator[Schedule]:
    schedule = Schedule(clock)
    yield schedule
    schedule.close()


def test_a_change_of_speed_does_not_jump(clock: CloudClock) -> None:
    before, began = clock.now(), time.monotonic()
    clock.set_speed(1000)
    after = clock.now()
    assert before <= after <= before + 1000 * (time.monotonic() - began) + 1e-3
    time.sleep(0.1)
    assert clock.now() - after >= 100
    assert clock.real(1000) == 1


def test_readers_of_the_file_see_the_same_time(clock: CloudClock) -> None:
    reader = FileClock(clock.path)
    for speed in (0.5, 60):
        clock.set_speed(speed)
        before, read, after = clock.now(), reader.now().timestamp(), clock.now()
        assert before - 1e-3 <= read <= after + 1e-3
        assert reader.speed == speed


def test_a_clock_goes_on_where_an_earlier_one_was(clock: CloudClock) -> None:
    clock.set_speed(1e6)
    time.sleep(0.01)
    clock.set_speed(1)
    assert 0 <= CloudClock(clock.path.parent, 5).now() - clock.now() < 1


def test_time_runs_forward_only(clock: CloudClock) -> None:
    for speed in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="forward"):
            clock.set_speed(speed)


def test_calls_are_made_in_order_of_their_times(clock: CloudClock, schedule: Schedule) -> None:
    made: list[int] = []
    done = threading.Event()
    started = clock.now()
    schedule.after(4, done.set)
    for seconds in (3, 1, 2):
        schedule.after(seconds, made.append, seconds)
    assert done.wait(5)
    assert made == [1, 2, 3]
    assert clock.now() - started >= 4


def test_a_wait_follows_the_clock_when_it_speeds_up(clock: CloudClock, schedule: Schedule) -> None:
    done = threading.Event()
    schedule.after(100_000, done.set)
    assert not done.wait(0.1)
    clock.set_speed(1e6)
    assert done.wait(2)


def test_a_delay_is_long_enough_to_be_seen(clock: CloudClock, schedule: Schedule) -> None:
    clock.set_speed(1e6)
    done = threading.Event()
    started = time.monotonic()
    schedule.after(1, done.set)
    assert done.wait(2)
    assert time.monotonic() - started >= FLOOR


def test_an_error_does_not_end_the_schedule(schedule: Schedule, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Event()
    schedule.after(0, {}.__getitem__, "absent")
    schedule.after(0, done.set)
    assert done.wait(2)
    assert "a scheduled call failed" in caplog.text


def test_what_is_cancelled_is_not_made(clock: CloudClock, schedule: Schedule) -> None:
    made: list[str] = []
    done = threading.Event()
    timer = schedule.after(1, made.append, "cancelled")
    schedule.after(2, done.set)
    timer.cancel()
    assert done.wait(2)
    assert made == []
    assert timer.cancelled
