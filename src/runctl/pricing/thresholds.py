"""When spending deserves a word: per hour, in a day, in all. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from runctl.pricing.meter import Cost, Stretch

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """USD from which on a warning is given; None gives none."""

    per_hour: Decimal | None = Decimal(50)
    per_day: Decimal | None = Decimal(100)
    accumulated: Decimal | None = Decimal(500)


@dataclass(frozen=True, slots=True)
class Spending:
    """What runs now in USD/h, what the last day cost, what everything cost; unknown parts apart."""

    per_hour: Cost
    last_day: Cost
    accumulated: Cost


def within(stretches: Iterable[Stretch], since: datetime, until: datetime) -> Cost:
    """The part of a bill that falls between two moments."""
    cost = Cost()
    for stretch in stretches:
        end = stretch.start + timedelta(microseconds=int(stretch.seconds * 1_000_000))
        overlap = min(end, until) - max(stretch.start, since)
        if overlap <= timedelta(0):
            continue
        seconds = Decimal(overlap // timedelta(microseconds=1)) / 1_000_000
        if stretch.usd_per_hour is None:
            cost += Cost(unknown_seconds=seconds)
        else:
            cost += Cost(stretch.usd_per_hour * seconds / 3600)
    return cost


def warnings(spending: Spending, thresholds: Thresholds) -> list[str]:
    """A sentence for each threshold that is reached; it says where an unknown price may hide more."""
    looked_at = (
        (spending.per_hour, thresholds.per_hour, "running machines and disks cost {} USD/h"),
        (spending.last_day, thresholds.per_day, "the last 24 hours cost {} USD"),
        (spending.accumulated, thresholds.accumulated, "everything so far cost {} USD"),
    )
    return [
        sentence.format(f"{cost.usd:.2f}")
        + (", and more at prices that are not known" if cost.known is None else "")
        + f" (you asked to be told from {limit} on)"
        for cost, limit, sentence in looked_at
        if limit is not None and cost.usd >= limit
    ]
