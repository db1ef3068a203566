"""Resources and the states that they were in, with the price of each stretch: append-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from runctl.errors import NotFound, ValidationError
from runctl.ledger.columns import from_time, from_time_or_none, to_money, to_time, to_time_or_none, understood
from runctl.ledger.records import Interval, ResourceRecord
from runctl.model import Price

if TYPE_CHECKING:
    from runctl.ledger.store import Database

_COLUMNS = ResourceRecord.__struct_fields__
_TIMES = frozenset({"created", "ended", "seen"})


class Resources:
    """What costs money. Accumulated cost is computed from intervals, never stored."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, resource: ResourceRecord) -> None:
        """Add it; of one that is known, only what may change is replaced."""
        with self._database.write() as connection:
            connection.execute(
                f"INSERT INTO resources ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 (our own names)
                " ON CONFLICT (id) DO UPDATE SET name = excluded.name, facts = excluded.facts,"
                " job = excluded.job, attempt = excluded.attempt,"
                " seen = CASE WHEN excluded.seen > COALESCE(seen, 0) THEN excluded.seen ELSE seen END",
                (
                    resource.id,
                    resource.kind,
                    resource.cloud,
                    resource.region,
                    resource.zone,
                    resource.name,
                    resource.project,
                    resource.user,
                    resource.job,
                    resource.attempt,
                    resource.facts,
                    from_time(resource.created),
                    from_time_or_none(resource.ended),
                    resource.ended_by,
                    from_time_or_none(resource.seen),
                ),
            )

    @contextmanager
    def together(self) -> Generator[None]:
        """Everything that is noted in the block is committed at its end: ten thousand notes cost one wait."""
        with self._database.write():
            yield

    def seen(self, ids: Collection[str], at: datetime) -> None:
        """Note that the cloud showed these resources."""
        with self._database.write() as connection:
            connection.executemany(
                "UPDATE resources SET seen = MAX(COALESCE(seen, 0), ?) WHERE id = ?",
                [(from_time(at), resource_id) for resource_id in ids],
            )

    def get(self, resource_id: str) -> ResourceRecord:
        """Raises NotFound."""
        rows = self._database.read("SELECT * FROM resources WHERE id = ?", (resource_id,))
        if not rows:
            raise NotFound(f"The ledger knows no {resource_id}")
        return read_resource(rows[0])

    def list(
        self,
        *,
        kind: str | None = None,
        job: str | None = None,
        cloud: str | None = None,
        live_only: bool = False,
    ) -> list[ResourceRecord]:
        wanted = {"kind": kind, "job": job, "cloud": cloud}
        conditions = [f"{name} = ?" for name, value in wanted.items() if value is not None]
        if live_only:
            conditions.append("ended IS NULL")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = self._database.read(
            f"SELECT * FROM resources {where} ORDER BY created, id",  # noqa: S608 (our own names)
            tuple(value for value in wanted.values() if value is not None),
        )
        return [read_resource(row) for row in rows]

    def open_clouds(self) -> set[str]:
        """The keys of the clouds that have a resource which has not ended."""
        rows = self._database.read("SELECT DISTINCT cloud FROM resources WHERE ended IS NULL")
        return {row["cloud"] for row in rows}

    def observe(
        self,
        resource_id: str,
        state: str,
        *,
        at: datetime,
        billable: bool,
        price: Price | None,
        pool: str | None = None,
    ) -> None:
        """Note that a resource is in a state since `at`; nothing happens where nothing changed.

        Raises ValidationError for a time before the stretch that it would end. A resource that has ended
        stays ended: late news of its former life is dropped.
        """
        with self._database.write() as connection:
            ended = connection.execute("SELECT ended FROM resources WHERE id = ?", (resource_id,)).fetchone()
            if ended is None:
                raise NotFound(f"The ledger knows no {resource_id}")
            if ended["ended"] is not None:
                return
            usd = None if price is None else str(price.usd_per_hour)
            if last := _open(connection, resource_id):
                if (last["state"], bool(last["billable"]), last["usd_per_hour"], last["pool"]) == (
                    state,
                    billable,
                    usd,
                    pool,
                ):
                    return
                _end(connection, last, at)
            connection.execute(
                "INSERT INTO intervals (resource, state, start, billable, usd_per_hour, price_source,"
                " price_as_of, pool) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    resource_id,
                    state,
                    from_time(at),
                    billable,
                    usd,
                    price.source if price else None,
                    from_time(price.as_of) if price else None,
                    pool,
                ),
            )

    def close(self, resource_id: str, *, at: datetime, ended_by: str | None) -> None:
        """Note that a resource has ended; idempotent. Raises as `observe`."""
        with self._database.write() as connection:
            if not connection.execute("SELECT 1 FROM resources WHERE id = ?", (resource_id,)).fetchone():
                raise NotFound(f"The ledger knows no {resource_id}")
            if last := _open(connection, resource_id):
                _end(connection, last, at)
            connection.execute(
                "UPDATE resources SET ended = ?, ended_by = ? WHERE id = ? AND ended IS NULL",
                (from_time(at), ended_by, resource_id),
            )

    def last_start(self, resource_id: str) -> datetime | None:
        """When the newest interval of a resource began, or the last one ended; None where there is none."""
        rows = self._database.read(
            'SELECT MAX(MAX(start, COALESCE("end", start))) AS last FROM intervals WHERE resource = ?',
            (resource_id,),
        )
        return to_time_or_none(rows[0]["last"])

    def open_interval(self, resource_id: str) -> Interval | None:
        """The interval that a resource is in; None where it has none, or has ended."""
        rows = self._database.read(
            'SELECT * FROM intervals WHERE resource = ? AND "end" IS NULL', (resource_id,)
        )
        return read_interval(rows[0]) if rows else None

    def all_intervals(self, *, cloud: str) -> dict[str, list[Interval]]:
        """The intervals of every resource of a cloud, by resource, in order of time."""
        rows = self._database.read(
            "SELECT i.* FROM intervals i JOIN resources r ON r.id = i.resource WHERE r.cloud = ?"
            " ORDER BY i.resource, i.start, i.number",
            (cloud,),
        )
        found: dict[str, list[Interval]] = {}
        for row in rows:
            found.setdefault(row["resource"], []).append(read_interval(row))
        return found

    def intervals(self, resource_id: str) -> list[Interval]:
        rows = self._database.read(
            "SELECT * FROM intervals WHERE resource = ? ORDER BY start, number", (resource_id,)
        )
        return [read_interval(row) for row in rows]


def _open(connection: sqlite3.Connection, resource_id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        'SELECT * FROM intervals WHERE resource = ? AND "end" IS NULL', (resource_id,)
    ).fetchone()
    return row


def _end(connection: sqlite3.Connection, interval: sqlite3.Row, at: datetime) -> None:
    if from_time(at) < interval["start"]:
        raise ValidationError(
            f"{interval['resource']} cannot leave {interval['state']!r} before it entered it",
            why=f"{at.isoformat()} is before {to_time(interval['start']).isoformat()}",
        )
    connection.execute('UPDATE intervals SET "end" = ? WHERE number = ?', (from_time(at), interval["number"]))


@understood
def read_resource(row: sqlite3.Row) -> ResourceRecord:
    return ResourceRecord(
        **{name: row[name] for name in _COLUMNS if name not in _TIMES},
        created=to_time(row["created"]),
        ended=to_time_or_none(row["ended"]),
        seen=to_time_or_none(row["seen"]),
    )


@understood
def read_interval(row: sqlite3.Row) -> Interval:
    price = None
    if row["usd_per_hour"] is not None:
        price = Price(
            usd_per_hour=to_money(row["usd_per_hour"]),
            source=row["price_source"],
            as_of=to_time(row["price_as_of"]),
        )
    return Interval(
        resource=row["resource"],
        state=row["state"],
        start=to_time(row["start"]),
        end=to_time_or_none(row["end"]),
        billable=bool(row["billable"]),
        price=price,
        pool=row["pool"],
    )
