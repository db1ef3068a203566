"""How values stand in columns: times as microseconds since the epoch, money as decimal text."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

import msgspec

from runctl.errors import LedgerDamaged

T = TypeVar("T")

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


def to_money(value: str) -> Decimal:
    """Raises ValueError for what is no amount."""
    amount = Decimal(value)
    if not amount.is_finite():
        raise ValueError(f"{value} is no amount of money")
    return amount


def to_money_or_none(value: str | None) -> Decimal | None:
    return None if value is None else to_money(value)


def from_money_or_none(value: Decimal | None) -> str | None:
    return None if value is None else str(value)


def decoded(data: bytes, type: type[T], owner: str) -> T:  # noqa: A002
    """JSON of a column. Raises LedgerDamaged where it is not what the `owner` of the row needs."""
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LedgerDamaged(f"what it holds of {owner} cannot be understood: {error}") from error


def understood(decode: Callable[[sqlite3.Row], T]) -> Callable[[sqlite3.Row], T]:
    """A reader of rows that raises LedgerDamaged for one that nothing of ours can have written."""

    @functools.wraps(decode)
    def reader(row: sqlite3.Row) -> T:
        try:
            return decode(row)
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            raise LedgerDamaged(f"the row of {row[0]!r} cannot be understood: {error}") from error

    return reader
