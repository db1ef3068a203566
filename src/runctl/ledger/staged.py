"""Which state of which dataset was put on which volume or snapshot: append-only."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from runctl.ledger.columns import from_time, to_time, understood

if TYPE_CHECKING:
    from runctl.ledger.store import Database


class StagedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """At a moment, a resource held a dataset: its version is `storage.entries.dataset_version`."""

    resource: str
    cloud: str
    region: str
    location: str
    version: str
    files: int
    bytes: int
    at: datetime


class Staged:
    """A resource may be staged to again and again: the newest row says what it holds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, staged: StagedRecord) -> None:
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO staged (resource, cloud, region, location, version, files, bytes, at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    staged.resource,
                    staged.cloud,
                    staged.region,
                    staged.location,
                    staged.version,
                    staged.files,
                    staged.bytes,
                    from_time(staged.at),
                ),
            )

    def list(self, *, resource: str | None = None, location: str | None = None) -> list[StagedRecord]:
        """The newest first."""
        rows = self._database.read(
            "SELECT * FROM staged WHERE resource = COALESCE(?, resource)"
            " AND location = COALESCE(?, location) ORDER BY number DESC",
            (resource, location),
        )
        return list(map(read_staged, rows))


@understood
def read_staged(row: sqlite3.Row) -> StagedRecord:
    return StagedRecord(
        resource=row["resource"],
        cloud=row["cloud"],
        region=row["region"],
        location=row["location"],
        version=row["version"],
        files=row["files"],
        bytes=row["bytes"],
        at=to_time(row["at"]),
    )
