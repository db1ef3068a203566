"""How values stand in columns: times as microseconds since the epoch, money as decimal text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_time(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def to_time_or_none(value: int | None) -> datetime | None:
    return None if value is None else to_time(value)


def from_time(value: datetime) -> int:
    """Raises ValueError for a time without a zone."""
    if value.tzinfo is None:
        raise ValueError("a time in the ledger needs its zone")
    return (value - _EPOCH) // timedelta(microseconds=1)


def from_time_or_none(value: datetime | None) -> int | None:
    return None if value is None else from_time(value)


def to_money_or_none(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def from_money_or_none(value: Decimal | None) -> str | None:
    return None if value is None else str(value)
