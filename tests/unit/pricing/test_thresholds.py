from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.config import Thresholds
from runctl.pricing.meter import Cost, Stretch, total
from runctl.pricing.thresholds import Spending, cost_between, warnings

START = datetime(2026, 11, 23, tzinfo=UTC)


def spending(hour: str = "0", day: str = "0", everything: str = "0", *, unknown: bool = False) -> Spending:
    return Spending(Decimal(hour), Decimal(day), Decimal(everything), unknown)


@pytest.mark.parametrize(
    ("spent", "word"),
    [
        (spending(hour="50"), "an hour"),
        (spending(day="100"), "last 24 hours"),
        (spending(everything="500"), "everything"),
    ],
)
def test_a_warning_comes_where_its_limit_is_reached(spent: Spending, word: str) -> None:
    (warning,) = warnings(spent, Thresholds())
    assert word in warning


def test_below_all_limits_nothing_is_said() -> None:
    assert warnings(spending("49.99", "99.99", "499.99"), Thresholds()) == []


def test_limits_are_settings() -> None:
    assert len(warnings(spending("1", "1", "1"), Thresholds(usd_per_hour=Decimal(1)))) == 1


def test_a_warning_says_that_there_is_more_at_unknown_prices() -> None:
    (warning,) = warnings(spending("61.239", unknown=True), Thresholds())
    assert "61.24 USD" in warning
    assert "unknown prices" in warning


def stretch(start: int, seconds: int, usd: str | None = "3.60") -> Stretch:
    usd_per_hour = None if usd is None else Decimal(usd)
    return Stretch(START + timedelta(seconds=start), Decimal(seconds), usd_per_hour, "test")


def between(stretches: list[Stretch], since: int, until: int) -> Cost:
    return cost_between(stretches, START + timedelta(seconds=since), START + timedelta(seconds=until))


def test_only_what_falls_between_counts() -> None:
    bill = [stretch(0, 100), stretch(100, 50, None), stretch(150, 100)]
    assert between(bill, 90, 160) == Cost(Decimal("0.02"), Decimal(50))
    assert between(bill, 300, 400) == Cost()


@given(
    bill=st.lists(
        st.builds(stretch, st.integers(0, 500), st.integers(0, 500), st.sampled_from([None, "1.2", "7"]))
    ),
    cut=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_two_neighbouring_spans_are_the_whole_bill(bill: list[Stretch], cut: int) -> None:
    parts = between(bill, 0, cut) + between(bill, cut, 1000)
    assert parts.unknown_seconds == total(bill).unknown_seconds
    assert abs(parts.usd - total(bill).usd) < Decimal("1e-20")
