"""The meter: prices integrated over the states that a resource was in. Pure.

Rules of EC2's bill: instances by the second in billable states with 60 s at least for each run; spot at the
price in force over time; a spot instance that AWS takes back within its first hour costs nothing for
compute; disks at their rate in every state. A price that is unknown is never counted as 0: it is named.
The points of a pool are given in order of time, as the ledger keeps them. Sources: docs of EC2 on instance
lifecycle and on billing for interrupted Spot Instances.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import msgspec

from runctl.ledger.records import Interval
from runctl.model import PricePoint

MINIMUM_RUN = timedelta(seconds=60)
FREE_WHEN_INTERRUPTED_WITHIN = timedelta(hours=1)
_SECONDS_PER_HOUR = Decimal(3600)


class Stretch(msgspec.Struct, frozen=True):
    """`seconds` at one price: a line of the arithmetic. A price of None is unknown."""

    start: datetime
    seconds: Decimal
    usd_per_hour: Decimal | None
    source: str

    @property
    def usd(self) -> Decimal:
        return (
            Decimal(0) if self.usd_per_hour is None else self.seconds * self.usd_per_hour / _SECONDS_PER_HOUR
        )


class Cost(msgspec.Struct, frozen=True):
    """USD for what has a known price, and the seconds that have none."""

    usd: Decimal = Decimal(0)
    unknown_seconds: Decimal = Decimal(0)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.usd + other.usd, self.unknown_seconds + other.unknown_seconds)

    @property
    def known(self) -> Decimal | None:
        """The cost, or None where a part of it is unknown."""
        return None if self.unknown_seconds else self.usd


def instance_stretches(
    intervals: Sequence[Interval],
    now: datetime,
    *,
    points: Mapping[str, Sequence[PricePoint]],
    interrupted: bool,
) -> list[Stretch]:
    """Every stretch of an instance's bill; `interrupted` says that the cloud took a spot machine back.

    `now` ends only what has no end yet: an interval that has one counts whole, for a cloud's word on the
    end of a bill outweighs a laptop's clock. A run that has begun costs its 60 s at once.
    """
    runs = _runs(intervals)
    stretches: list[Stretch] = []
    for index, run in enumerate(runs):
        start, end = run[0].start, _end(run[-1], now)
        last = index == len(runs) - 1
        if interrupted and last and end - start < FREE_WHEN_INTERRUPTED_WITHIN:
            stretches.append(
                Stretch(start, _seconds(end - start), Decimal(0), "free: interrupted within the first hour")
            )
            continue
        for interval in run:
            stretches.extend(_priced(interval, _end(interval, now), points))
        if end - start < MINIMUM_RUN:
            missing = MINIMUM_RUN - (end - start)
            price, source = _price_at(run[-1], end, points)
            stretches.append(Stretch(end, _seconds(missing), price, f"{source}, 60 s minimum"))
    return stretches


def instance_cost(
    intervals: Sequence[Interval],
    now: datetime,
    *,
    points: Mapping[str, Sequence[PricePoint]],
    interrupted: bool = False,
) -> Cost:
    """What an instance cost up to `now`, without its disks."""
    return total(instance_stretches(intervals, now, points=points, interrupted=interrupted))


def volume_stretches(intervals: Sequence[Interval], now: datetime) -> list[Stretch]:
    """Every stretch of a disk's bill, in whatever state it was."""
    return [
        stretch for interval in intervals for stretch in _priced(interval, _end(interval, now), points={})
    ]


def volume_cost(intervals: Sequence[Interval], now: datetime) -> Cost:
    """What a disk cost up to `now`."""
    return total(volume_stretches(intervals, now))


def total(stretches: Iterable[Stretch]) -> Cost:
    cost = Cost()
    for stretch in stretches:
        cost += Cost(stretch.usd, stretch.seconds if stretch.usd_per_hour is None else Decimal(0))
    return cost


def _runs(intervals: Sequence[Interval]) -> list[list[Interval]]:
    """Billable intervals in unbroken runs: each start of a machine begins one."""
    runs: list[list[Interval]] = []
    unbroken = False
    for interval in intervals:
        if interval.billable and unbroken and runs[-1][-1].end == interval.start:
            runs[-1].append(interval)
        elif interval.billable:
            runs.append([interval])
        unbroken = interval.billable
    return runs


def _end(interval: Interval, now: datetime) -> datetime:
    return interval.end or max(now, interval.start)


def _priced(interval: Interval, end: datetime, points: Mapping[str, Sequence[PricePoint]]) -> list[Stretch]:
    changes = [point.at for point in _points_of(interval, points) if interval.start < point.at < end]
    stretches: list[Stretch] = []
    for start, stop in pairwise([interval.start, *changes, end]):
        price, source = _price_at(interval, start, points)
        stretches.append(Stretch(start, _seconds(stop - start), price, source))
    return stretches


def _price_at(
    interval: Interval, at: datetime, points: Mapping[str, Sequence[PricePoint]]
) -> tuple[Decimal | None, str]:
    """The price in force: the pool's last point at or before `at`, else the interval's own."""
    known = _points_of(interval, points)
    later = bisect_right(known, at, key=lambda point: point.at)
    if later:
        return known[later - 1].usd_per_hour, known[later - 1].source
    if interval.price is not None:
        return interval.price.usd_per_hour, interval.price.source
    return None, "unknown price"


def _points_of(interval: Interval, points: Mapping[str, Sequence[PricePoint]]) -> Sequence[PricePoint]:
    return points.get(interval.pool, ()) if interval.pool else ()


def _seconds(duration: timedelta) -> Decimal:
    return Decimal(duration // timedelta(microseconds=1)) / 1_000_000
