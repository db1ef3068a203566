"""The meter: prices integrated over the states that a resource was in. Pure.

Rules of EC2's bill: instances by the second in billable states with 60 s at least for each run; spot at the
price in force over time; a spot instance that AWS takes back within its first hour costs nothing for
compute; disks at their rate in every state. A price that is unknown is never counted as 0: it is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from runctl.ledger.records import Interval
from runctl.model import PricePoint

MINIMUM_RUN = timedelta(seconds=60)
FREE_WHEN_INTERRUPTED_WITHIN = timedelta(hours=1)
_SECONDS_PER_HOUR = Decimal(3600)


@dataclass(frozen=True, slots=True)
class Stretch:
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


@dataclass(frozen=True, slots=True)
class Cost:
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
    """Every stretch of an instance's bill; `interrupted` says that the cloud took a spot machine back."""
    runs = _runs(intervals, now)
    stretches: list[Stretch] = []
    for index, run in enumerate(runs):
        start, end = run[0].start, run[-1].end or now
        last = index == len(runs) - 1
        if interrupted and last and end - start < FREE_WHEN_INTERRUPTED_WITHIN:
            stretches.append(
                Stretch(start, _seconds(end - start), Decimal(0), "free: interrupted within the first hour")
            )
            continue
        for interval in run:
            stretches.extend(_priced(interval, interval.end or now, points))
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


def volume_cost(intervals: Sequence[Interval], now: datetime) -> Cost:
    """What a disk cost up to `now`, in whatever state it was."""
    return total(
        stretch for interval in intervals for stretch in _priced(interval, interval.end or now, points={})
    )


def total(stretches: Iterable[Stretch]) -> Cost:
    cost = Cost()
    for stretch in stretches:
        cost += Cost(stretch.usd, stretch.seconds if stretch.usd_per_hour is None else Decimal(0))
    return cost


def _runs(intervals: Sequence[Interval], now: datetime) -> list[list[Interval]]:
    """Billable intervals in unbroken runs: each start of a machine begins one."""
    runs: list[list[Interval]] = []
    for interval in intervals:
        if not interval.billable or (interval.end or now) < interval.start:
            continue
        if runs and runs[-1][-1].end == interval.start:
            runs[-1].append(interval)
        else:
            runs.append([interval])
    return runs


def _priced(interval: Interval, end: datetime, points: Mapping[str, Sequence[PricePoint]]) -> list[Stretch]:
    changes = [point.at for point in points.get(interval.pool or "", ()) if interval.start < point.at < end]
    bounds = [interval.start, *sorted(changes), end]
    stretches: list[Stretch] = []
    for start, stop in pairwise(bounds):
        price, source = _price_at(interval, start, points)
        stretches.append(Stretch(start, _seconds(stop - start), price, source))
    return stretches


def _price_at(
    interval: Interval, at: datetime, points: Mapping[str, Sequence[PricePoint]]
) -> tuple[Decimal | None, str]:
    """The price in force: the pool's last point at or before `at`, else the interval's own."""
    in_force = max(
        (point for point in points.get(interval.pool or "", ()) if point.at <= at),
        key=lambda point: point.at,
        default=None,
    )
    if in_force is not None:
        return in_force.usd_per_hour, in_force.source
    if interval.price is not None:
        return interval.price.usd_per_hour, interval.price.source
    return None, "unknown price"


def _seconds(duration: timedelta) -> Decimal:
    return Decimal(duration // timedelta(microseconds=1)) / 1_000_000
