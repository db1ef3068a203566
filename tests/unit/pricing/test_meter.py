from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from runctl.ledger import Interval
from runctl.model import Price, PricePoint
from runctl.pricing import meter

START = datetime(2026, 11, 23, tzinfo=UTC)
POOL = "sandbox:xyz/us-east-1a/g5.xlarge/spot"


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def interval(
    start: float,
    end: float | None,
    usd: str | None = "3.60",
    *,
    billable: bool = True,
    pool: str | None = None,
) -> Interval:
    return Interval(
        resource="i-1",
        state="running" if billable else "stopped",
        start=at(start),
        end=None if end is None else at(end),
        billable=billable,
        price=None if usd is None else Price(Decimal(usd), "catalog", START),
        pool=pool,
    )


def point(seconds: float, usd: str) -> PricePoint:
    return PricePoint(at(seconds), Decimal(usd), "history")


def cost(
    *intervals: Interval, now: float = 10**6, points: tuple[PricePoint, ...] = (), interrupted: bool = False
) -> meter.Cost:
    return meter.instance_cost(intervals, at(now), points={POOL: points}, interrupted=interrupted)


# 3.60 USD/h is a tenth of a cent a second.


def test_a_run_is_billed_by_the_second() -> None:
    assert cost(interval(0, 100)) == meter.Cost(Decimal("0.1"))
    assert cost(interval(0, None), now=101) == meter.Cost(Decimal("0.101"))


@pytest.mark.parametrize(("seconds", "billed"), [(0, 60), (1, 60), (59.5, 60), (60, 60), (61, 61)])
def test_each_start_costs_a_minute_at_least(seconds: float, billed: int) -> None:
    assert cost(interval(0, seconds)).usd == Decimal(billed) / 1000
    assert cost(interval(0, None), now=seconds).usd == Decimal(billed) / 1000


def test_two_starts_cost_two_minutes_and_the_stop_between_nothing() -> None:
    stopped = interval(10, 5000, None, billable=False)
    assert cost(interval(0, 10), stopped, interval(5000, 5010)) == meter.Cost(Decimal("0.12"))


def test_a_stop_too_short_to_see_still_parts_two_starts() -> None:
    assert cost(interval(0, 10), interval(10, 10, None, billable=False), interval(10, 20)).usd == Decimal(
        "0.12"
    )


def test_a_change_of_price_begins_no_new_minute() -> None:
    assert cost(interval(0, 10), interval(10, 20, "7.20")).usd == Decimal("0.010") + Decimal("0.100")


def test_a_clock_behind_the_cloud_costs_the_minute_and_never_less_than_what_ended() -> None:
    assert cost(interval(100, None), now=0).usd == Decimal("0.06")
    assert cost(interval(0, 100), now=50).usd == Decimal("0.1")


def test_spot_is_billed_at_the_price_in_force() -> None:
    points = (point(-50, "7.20"), point(100, "1.80"), point(100_000, "99"))
    assert cost(interval(0, 200, pool=POOL), points=points).usd == Decimal("0.2") + Decimal("0.05")


def test_before_the_first_point_the_interval_has_its_own_price() -> None:
    assert cost(interval(0, 200, pool=POOL), points=(point(100, "7.20"),)).usd == Decimal("0.1") + Decimal(
        "0.2"
    )


def test_the_points_of_another_pool_change_nothing() -> None:
    assert cost(interval(0, 200, pool="elsewhere"), points=(point(0, "7.20"),)).usd == Decimal("0.2")
    assert cost(interval(0, 200), points=(point(0, "7.20"),)).usd == Decimal("0.2")


@pytest.mark.parametrize(("seconds", "usd"), [(3599.999999, "0"), (3600, "3.6"), (7200, "7.2")])
def test_what_aws_takes_back_within_the_first_hour_is_free(seconds: float, usd: str) -> None:
    assert cost(interval(0, seconds), interrupted=True) == meter.Cost(Decimal(usd))


def test_only_the_interrupted_run_is_free() -> None:
    runs = (interval(0, 100), interval(100, 200, None, billable=False), interval(200, 300))
    assert cost(*runs, interrupted=True).usd == Decimal("0.1")


def test_the_hour_counts_from_the_start_of_the_run_not_of_the_price() -> None:
    assert cost(interval(0, 3000), interval(3000, 4000, "7.20"), interrupted=True).usd == Decimal(5)


def test_an_unknown_price_is_unknown_and_not_nothing() -> None:
    found = cost(interval(0, 100), interval(100, 130, None))
    assert (found.usd, found.unknown_seconds, found.known) == (Decimal("0.1"), 30, None)


def test_the_minute_of_an_unknown_price_is_unknown_too() -> None:
    assert cost(interval(0, 1, None)).unknown_seconds == 60


def test_a_point_makes_an_unknown_price_known_from_its_time_on() -> None:
    found = cost(interval(0, 100, None, pool=POOL), points=(point(40, "3.60"),))
    assert (found.usd, found.unknown_seconds) == (Decimal("0.06"), 40)


def test_a_disk_is_billed_in_every_state() -> None:
    disk = (interval(0, 100), interval(100, 200, billable=False), interval(200, None))
    assert meter.volume_cost(disk, at(250)) == meter.Cost(Decimal("0.25"))
    assert meter.volume_cost((interval(0, 10, None),), at(250)) == meter.Cost(Decimal(0), Decimal(10))


def test_nothing_cost_nothing() -> None:
    assert cost() == meter.Cost()
    assert cost(interval(0, 100, billable=False)) == meter.Cost()


def test_the_arithmetic_adds_up_and_names_its_sources() -> None:
    lines = meter.instance_stretches(
        (interval(0, 40, pool=POOL),), at(99), points={POOL: (point(30, "7.20"),)}, interrupted=False
    )
    assert [(line.seconds, line.usd_per_hour, line.source) for line in lines] == [
        (30, Decimal("3.60"), "catalog"),
        (10, Decimal("7.20"), "history"),
        (20, Decimal("7.20"), "history, 60 s minimum"),
    ]
    assert meter.total(lines).usd == Decimal("0.03") + Decimal("0.06")


# The same bill by another way: look at every second for itself.

History = list[tuple[int, bool, str | None, str | None]]
"""Seconds, whether they are billed, their own price, their pool."""

prices = st.none() | st.sampled_from(["0", "0.36", "1.23", "3.60"])
histories = st.lists(
    st.tuples(
        st.integers(1, 90) | st.integers(1, 4000), st.booleans(), prices, st.sampled_from([None, POOL])
    ),
    min_size=1,
    max_size=6,
)
point_lists = st.lists(
    st.tuples(st.integers(-100, 6000), st.sampled_from(["0.18", "0.9", "2.5"])),
    max_size=5,
    unique_by=lambda pair: pair[0],
)


def intervals_of(history: History, *, open_end: bool) -> list[Interval]:
    found: list[Interval] = []
    start = 0
    for seconds, billable, usd, pool in history:
        found.append(interval(start, start + seconds, usd, billable=billable, pool=pool))
        start += seconds
    if open_end:
        found[-1] = replace(found[-1], end=None)
    return found


def by_the_second(
    history: History, points: list[tuple[int, str]], *, interrupted: bool
) -> tuple[Decimal, int]:
    """The sum of USD/h over all billed seconds, and how many of them have no price."""
    seconds = [state for length, *state in history for _ in range(length)]

    def price(second: int, usd: str | None, pool: str | None) -> str | None:
        before = [known for known in points if known[0] <= second] if pool else []
        return max(before)[1] if before else usd

    runs: list[list[int]] = []
    for second, (billable, *_) in enumerate(seconds):
        if billable and (second == 0 or not seconds[second - 1][0]):
            runs.append([])
        if billable:
            runs[-1].append(second)
    billed: list[str | None] = []
    for run in runs:
        if interrupted and run is runs[-1] and len(run) < 3600:
            continue
        billed += [price(second, *seconds[second][1:]) for second in run]
        billed += [price(run[-1] + 1, *seconds[run[-1]][1:])] * (60 - len(run))
    return sum((Decimal(usd) for usd in billed if usd is not None), Decimal(0)), billed.count(None)


@given(history=histories, points=point_lists, interrupted=st.booleans(), open_end=st.booleans())
@settings(max_examples=150)
def test_the_meter_agrees_with_a_bill_by_the_second(
    history: History,
    points: list[tuple[int, str]],
    interrupted: bool,
    open_end: bool,
) -> None:
    total = sum(length for length, *_ in history)
    found = cost(
        *intervals_of(history, open_end=open_end),
        now=total,
        points=tuple(point(moment, usd) for moment, usd in sorted(points)),
        interrupted=interrupted,
    )
    usd, unknown = by_the_second(history, points, interrupted=interrupted)
    assert found.unknown_seconds == unknown
    assert abs(found.usd * 3600 - usd) < Decimal("1e-15")
    assert found.usd >= 0
    assert (found.known is None) == bool(unknown)


@given(history=histories, points=point_lists, cut=st.integers(1, 20_000))
@settings(max_examples=100)
def test_looking_earlier_never_shows_more(history: History, points: list[tuple[int, str]], cut: int) -> None:
    intervals = intervals_of(history, open_end=True)
    known = tuple(point(moment, usd) for moment, usd in sorted(points))
    now = sum(length for length, *_ in history)
    early, late = cost(*intervals, now=now, points=known), cost(*intervals, now=now + cut, points=known)
    # Within the first minute the minimum is billed at the last price known, which may fall.
    if now - intervals[-1].start.timestamp() + START.timestamp() >= 60:
        assert early.usd <= late.usd
        assert early.unknown_seconds <= late.unknown_seconds


@given(history=histories, points=point_lists, cut=st.integers(1, 3999), interrupted=st.booleans())
@settings(max_examples=100)
def test_where_the_ledger_cuts_an_interval_does_not_change_the_bill(
    history: History, points: list[tuple[int, str]], cut: int, interrupted: bool
) -> None:
    known = tuple(point(moment, usd) for moment, usd in sorted(points))
    cut_history = [
        (part, *rest)
        for seconds, *rest in history
        for part in ((min(cut, seconds), seconds - cut) if cut < seconds else (seconds,))
    ]
    whole = cost(*intervals_of(history, open_end=False), points=known, interrupted=interrupted)
    parts = cost(*intervals_of(cut_history, open_end=False), points=known, interrupted=interrupted)
    assert whole.unknown_seconds == parts.unknown_seconds
    assert abs(whole.usd - parts.usd) < Decimal("1e-20")


def test_costs_add_up_and_the_unknown_stays_unknown() -> None:
    known, unknown = meter.Cost(Decimal("1.5")), meter.Cost(Decimal("0.5"), Decimal(7))
    assert known + unknown == meter.Cost(Decimal("2.0"), Decimal(7))
    assert (known + known).known == Decimal(3)
    assert (known + unknown).known is None
