"""When spending deserves a word: per hour, in a day, in all. Pure; the limits are settings."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from runctl.config import Thresholds
from runctl.pricing.meter import Cost, Stretch


class Spending(msgspec.Struct, frozen=True):
    """What runs now in USD/h, what the last 24 hours and everything cost in USD.

    `unknown` says that there is more of it, at prices that are not known.
    """

    usd_per_hour: Decimal
    usd_last_day: Decimal
    usd_total: Decimal
    unknown: bool


def warnings(spending: Spending, limits: Thresholds) -> list[str]:
    """A sentence for each limit that is reached."""
    looked_at = (
        (spending.usd_per_hour, limits.usd_per_hour, "what runs now costs {} USD an hour"),
        (spending.usd_last_day, limits.usd_per_day, "the last 24 hours cost {} USD"),
        (spending.usd_total, limits.usd_total, "everything so far cost {} USD"),
    )
    more = ", and more at unknown prices" if spending.unknown else ""
    return [
        f"{sentence.format(f'{usd:.2f}')}{more}; the limit for this warning is {limit} USD"
        for usd, limit, sentence in looked_at
        if usd >= limit
    ]


def cost_between(stretches: Iterable[Stretch], since: datetime, until: datetime) -> Cost:
    """The part of a bill that falls between two moments: a stretch counts by its share of time."""
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
