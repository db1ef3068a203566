"""Jobs, their attempts, their events, and who supervises them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from runctl.errors import Conflict, NotFound, ValidationError
from runctl.ledger.columns import (
    from_money_or_none,
    from_time,
    from_time_or_none,
    to_money_or_none,
    to_time,
    to_time_or_none,
    understood,
)
from runctl.ledger.records import AttemptRecord, JobEvent, JobRecord
from runctl.model import JobId, JobState
from runctl.quoting import quoted

if TYPE_CHECKING:
    from runctl.ledger.store import Database

_FINAL = tuple(str(state) for state in JobState if state.final)
_UNFINISHED = f"state NOT IN ({', '.join('?' * len(_FINAL))})"
_JOB_COLUMNS = JobRecord.__struct_fields__
_ATTEMPT_COLUMNS = AttemptRecord.__struct_fields__


class Jobs:
    """Every change of a job goes through `transition`, which checks where it comes from."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, job: JobRecord, cause: str) -> None:
        """Raises Conflict where there is a job of this id."""
        marks = ", ".join("?" * len(_JOB_COLUMNS))
        with self._database.write() as connection:
            if connection.execute("SELECT 1 FROM jobs WHERE id = ?", (job.id,)).fetchone():
                raise Conflict(f"There is a job {job.id} already", next=f"runctl jobs show {quoted(job.id)}")
            connection.execute(
                f"INSERT INTO jobs ({', '.join(_JOB_COLUMNS)}, number) VALUES ({marks},"  # noqa: S608 (our own names)
                " (SELECT COALESCE(MAX(number), 0) + 1 FROM jobs))",
                (
                    job.id,
                    job.name,
                    job.spec,
                    job.state,
                    job.target,
                    job.cloud,
                    job.folder,
                    job.store,
                    job.project,
                    job.user,
                    from_time(job.created),
                    from_time(job.updated),
                    from_time_or_none(job.adopted_at),
                    job.seal,
                ),
            )
            _add_event(connection, job.id, job.created, 0, job.state, cause, None)

    def get(self, reference: str) -> JobRecord:
        """A job by its id, the beginning of it, or `last`. Raises NotFound, or ValidationError if unclear.

        `last` is the job that was added last, whatever a clock said then, and never one that was adopted.
        """
        if reference == "last":
            newest = self._database.read(
                "SELECT * FROM jobs WHERE adopted_at IS NULL ORDER BY number DESC LIMIT 1"
            )
            if not newest:
                why = "jobs that were adopted are named by their id" if self.list() else ""
                raise NotFound("There is no job yet", why=why, next="runctl train SCRIPT")
            return read_job(newest[0])
        if not reference:
            # An unset variable in a shell, never "the only job".
            raise ValidationError("No job is named", why="its id is empty", next="runctl jobs list")
        pattern = reference.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        rows = self._database.read(
            "SELECT * FROM jobs WHERE id LIKE ? ESCAPE '\\' ORDER BY id <> ?, id LIMIT 5",
            (pattern, reference),
        )
        exact = [row for row in rows if row["id"] == reference]
        if len(rows) == 1 or exact:
            return read_job((exact or rows)[0])
        if rows:
            names = ", ".join(row["id"] for row in rows)
            raise ValidationError(f"{reference!r} is the beginning of several jobs", why=names)
        import difflib

        known = [row["id"] for row in self._database.read("SELECT id FROM jobs")]
        near = difflib.get_close_matches(reference, known, n=3, cutoff=0.5)
        raise NotFound(
            f"There is no job {reference!r}",
            why=f"the nearest: {', '.join(near)}" if near else "",
            next="runctl jobs list",
        )

    def list(self, *, limit: int = 50, states: Collection[JobState] = ()) -> list[JobRecord]:
        """The newest first, in the ledger's own order: a clock may have been wrong."""
        condition = f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        query = f"SELECT * FROM jobs {condition} ORDER BY number DESC LIMIT ?"  # noqa: S608 (marks only)
        return list(map(read_job, self._database.read(query, (*states, limit))))

    def unfinished(self, *, cloud: str) -> list[JobRecord]:
        """The jobs of a cloud that are not final, the oldest first."""
        query = f"SELECT * FROM jobs WHERE {_UNFINISHED} AND cloud = ? ORDER BY number"  # noqa: S608 (marks only)
        rows = self._database.read(query, (*_FINAL, cloud))
        return [read_job(row) for row in rows]

    def open_clouds(self) -> set[str]:
        """The keys of the clouds that have a job which is not final."""
        query = f"SELECT DISTINCT cloud FROM jobs WHERE {_UNFINISHED}"  # noqa: S608 (marks only)
        rows = self._database.read(query, _FINAL)
        return {row["cloud"] for row in rows}

    def transition(
        self,
        job: JobId,
        to: JobState,
        *,
        allowed_from: Collection[JobState],
        at: datetime,
        attempt: int,
        cause: str,
        cost: Decimal | None = None,
    ) -> None:
        """Move a job and write the event. Raises Conflict where it stands elsewhere by now."""
        with self._database.write() as connection:
            row = connection.execute("SELECT state FROM jobs WHERE id = ?", (job,)).fetchone()
            if row is None:
                raise NotFound(f"There is no job {job!r}", next="runctl jobs list")
            if row["state"] not in allowed_from:
                raise Conflict(
                    f"Job {job} cannot become {to}",
                    why=f"it is {row['state']} by now",
                    next=f"runctl jobs show {quoted(job)}",
                )
            connection.execute(
                "UPDATE jobs SET state = ?, updated = ? WHERE id = ?", (to, from_time(at), job)
            )
            _add_event(connection, job, at, attempt, to, cause, cost)

    def replace_spec(self, job: JobId, spec: bytes) -> None:
        with self._database.write() as connection:
            connection.execute("UPDATE jobs SET spec = ? WHERE id = ?", (spec, job))

    def events(self, job: JobId) -> list[JobEvent]:
        rows = self._database.read("SELECT * FROM job_events WHERE job = ? ORDER BY rowid", (job,))
        return list(map(read_event, rows))

    def save_attempt(self, attempt: AttemptRecord) -> None:
        """Add it, or put it in the place of what was known of it."""
        values = (
            attempt.job,
            attempt.number,
            attempt.state,
            from_time(attempt.created),
            attempt.instance_id,
            attempt.offer,
            from_time_or_none(attempt.started),
            from_time_or_none(attempt.ended),
            attempt.cause,
            attempt.message,
            attempt.resumed_from,
            attempt.resumed_step,
            attempt.last_step,
            attempt.committed_name,
            attempt.committed_step,
            attempt.committed_seconds,
            attempt.exit_code,
            from_money_or_none(attempt.cost),
            attempt.began_step,
            attempt.kept_files,
            attempt.kept_bytes,
            attempt.silence,
        )
        marks = ", ".join("?" * len(values))
        with self._database.write() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO attempts ({', '.join(_ATTEMPT_COLUMNS)}) VALUES ({marks})",  # noqa: S608 (our own names)
                values,
            )

    def attempts(self, job: JobId) -> list[AttemptRecord]:
        rows = self._database.read("SELECT * FROM attempts WHERE job = ? ORDER BY number", (job,))
        return list(map(read_attempt, rows))

    def on_instance(self, instance_id: str) -> JobId | None:
        """The job whose newest attempt is, or was, on an instance."""
        rows = self._database.read(
            "SELECT job FROM attempts WHERE instance_id = ? ORDER BY created DESC, number DESC LIMIT 1",
            (instance_id,),
        )
        return JobId(rows[0]["job"]) if rows else None

    def supervise(self, job: JobId, owner: str, *, now: datetime, seconds: float) -> bool:
        """Take or renew supervision; False where another process holds it. Real time, not the cloud's."""
        length = int(seconds * 1_000_000)
        until = from_time(now) + length
        held = self._database.read("SELECT owner, until FROM supervisors WHERE job = ?", (job,))
        if held and held[0]["owner"] == owner and held[0]["until"] > until - length // 3:
            return True  # renewed a moment ago
        with self._database.write() as connection:
            row = connection.execute("SELECT owner, until FROM supervisors WHERE job = ?", (job,)).fetchone()
            if row is not None and row["owner"] != owner and row["until"] > from_time(now):
                return False
            connection.execute("INSERT OR REPLACE INTO supervisors VALUES (?, ?, ?)", (job, owner, until))
        return True

    def release(self, job: JobId, owner: str) -> None:
        with self._database.write() as connection:
            connection.execute("DELETE FROM supervisors WHERE job = ? AND owner = ?", (job, owner))

    def supervisor(self, job: JobId, now: datetime) -> str | None:
        rows = self._database.read(
            "SELECT owner FROM supervisors WHERE job = ? AND until > ?", (job, from_time(now))
        )
        return rows[0]["owner"] if rows else None


def _add_event(
    connection: sqlite3.Connection,
    job: JobId,
    at: datetime,
    attempt: int,
    state: JobState,
    cause: str,
    cost: Decimal | None,
) -> None:
    connection.execute(
        "INSERT INTO job_events (job, at, attempt, state, cause, cost) VALUES (?, ?, ?, ?, ?, ?)",
        (job, from_time(at), attempt, state, cause, from_money_or_none(cost)),
    )


@understood
def read_job(row: sqlite3.Row) -> JobRecord:
    return JobRecord(
        id=JobId(row["id"]),
        name=row["name"],
        spec=row["spec"],
        state=JobState(row["state"]),
        target=row["target"],
        cloud=row["cloud"],
        folder=row["folder"],
        store=row["store"],
        project=row["project"],
        user=row["user"],
        created=to_time(row["created"]),
        updated=to_time(row["updated"]),
        adopted_at=to_time_or_none(row["adopted_at"]),
        seal=row["seal"],
    )


@understood
def read_event(row: sqlite3.Row) -> JobEvent:
    return JobEvent(
        at=to_time(row["at"]),
        attempt=row["attempt"],
        state=JobState(row["state"]),
        cause=row["cause"],
        cost=to_money_or_none(row["cost"]),
    )


@understood
def read_attempt(row: sqlite3.Row) -> AttemptRecord:
    values = {name: row[name] for name in _ATTEMPT_COLUMNS}
    values["created"] = to_time(row["created"])
    values["started"] = to_time_or_none(row["started"])
    values["ended"] = to_time_or_none(row["ended"])
    values["cost"] = to_money_or_none(row["cost"])
    return AttemptRecord(**values)
