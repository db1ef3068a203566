"""Figures as people read them; what is unknown says so."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

_LEAST = Decimal("0.0001")


def usd(amount: Decimal | None) -> str:
    """Cents for sums, four places for small ones; never 0 for what is not."""
    if amount is None:
        return "unknown"
    if 0 < amount < _LEAST:
        return f"<${_LEAST}"
    places = Decimal("0.01") if abs(amount) >= 1 or amount == 0 else Decimal("0.0001")
    return f"${amount.quantize(places, ROUND_HALF_UP)}"


def duration(value: timedelta | None) -> str:
    if value is None:
        return "unknown"
    seconds = value.total_seconds()
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def moment(value: datetime | None) -> str:
    return "" if value is None else value.strftime("%Y-%m-%d %H:%M:%S")


def count(number: int, noun: str) -> str:
    """Such as `1 volume` and `2 volumes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def number(value: int | None) -> str:
    return "unknown" if value is None else str(value)
