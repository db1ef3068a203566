"""What protection said before each destructive act, and whether it was forced: append-only."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from runctl.ledger.columns import from_time, to_time, understood
from runctl.ledger.records import VerdictRecord

if TYPE_CHECKING:
    from runctl.ledger.store import Database


class Verdicts:
    """One row for each action that was asked for, whether it was allowed or not."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, verdict: VerdictRecord) -> None:
        """On disk when this returns: what is destroyed afterwards has its reason on record."""
        with self._database.write(durable=True) as connection:
            connection.execute(
                "INSERT INTO verdicts (at, action, resource, allowed, forced, findings, user)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    from_time(verdict.at),
                    verdict.action,
                    verdict.resource,
                    verdict.allowed,
                    verdict.forced,
                    verdict.findings,
                    verdict.user,
                ),
            )

    def list(self, *, resource: str | None = None, limit: int = 50) -> list[VerdictRecord]:
        """The newest first."""
        rows = self._database.read(
            "SELECT * FROM verdicts WHERE resource = COALESCE(?, resource) ORDER BY id DESC LIMIT ?",
            (resource, limit),
        )
        return list(map(read_verdict, rows))


@understood
def read_verdict(row: sqlite3.Row) -> VerdictRecord:
    return VerdictRecord(
        at=to_time(row["at"]),
        action=row["action"],
        resource=row["resource"],
        allowed=bool(row["allowed"]),
        forced=bool(row["forced"]),
        findings=row["findings"],
        user=row["user"],
    )
