"""Figures as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.render import figures


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (None, "unknown"),
        (Decimal(0), "$0.00"),
        (Decimal("0.4125"), "$0.4125"),
        (Decimal("0.00016"), "$0.0002"),
        (Decimal("0.00001"), "<$0.0001"),
        (Decimal("12.345"), "$12.35"),
        (Decimal(1200), "$1200.00"),
    ],
)
def test_money(amount: Decimal | None, shown: str) -> None:
    assert figures.usd(amount) == shown


@given(st.decimals(min_value="0.0001", max_value=1_000_000, allow_nan=False, places=6))
def test_money_is_never_off_by_more_than_half_its_last_place(amount: Decimal) -> None:
    shown = Decimal(figures.usd(amount).removeprefix("$"))
    assert abs(shown - amount) <= (Decimal("0.005") if amount >= 1 else Decimal("0.00005"))
    assert shown > 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59.4, "59 s"),
        (59.9, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.6, "1 h 00 min"),
        (45_000, "12 h 30 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert figures.duration(timedelta(seconds=seconds)) == shown


def test_a_duration_that_is_not_known_says_so() -> None:
    assert figures.duration(None) == "unknown"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (5 * 1024**4, "5.0 TiB")],
)
def test_sizes(count: int, shown: str) -> None:
    assert figures.size(count) == shown


def test_a_moment_and_a_number() -> None:
    assert figures.moment(datetime(2026, 11, 23, 9, 5, 1, tzinfo=UTC)) == "2026-11-23 09:05:01"
    assert figures.moment(None) == ""
    assert figures.number(None) == "unknown"
    assert figures.number(0) == "0"
