"""Price changes by pool, as the cloud told them: append-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from runctl.ledger.columns import from_time, to_money, to_time, understood
from runctl.model import Market, PricePoint

if TYPE_CHECKING:
    from runctl.ledger.store import Database


def spot_pool(cloud: str, zone: str, instance_type: str) -> str:
    """The name of a spot market's price points."""
    return f"{cloud}/{zone}/{instance_type}/{Market.SPOT}"


class Prices:
    """A pool is a cloud, zone, type and market, such as `aws/us-east-1a/g5.xlarge/spot`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, pool: str, points: Iterable[PricePoint]) -> None:
        """Points that are known already are left as they are."""
        rows = [(pool, from_time(point.at), str(point.usd_per_hour), point.source) for point in points]
        with self._database.write() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO price_points (pool, at, usd_per_hour, source) VALUES (?, ?, ?, ?)",
                rows,
            )

    def in_force(self, pool: str, at: datetime) -> PricePoint | None:
        """The newest point that is not later than `at`; None where none is known."""
        rows = self._database.read(
            "SELECT * FROM price_points WHERE pool = ? AND at <= ? ORDER BY at DESC LIMIT 1",
            (pool, from_time(at)),
        )
        return next(map(read_point, rows), None)

    def points(self, pool: str) -> list[PricePoint]:
        """In order of time."""
        rows = self._database.read("SELECT * FROM price_points WHERE pool = ? ORDER BY at", (pool,))
        return list(map(read_point, rows))


@understood
def read_point(row: sqlite3.Row) -> PricePoint:
    return PricePoint(at=to_time(row["at"]), usd_per_hour=to_money(row["usd_per_hour"]), source=row["source"])
