"""The journal of operations on several resources: an intent before each call, its outcome after."""

from __future__ import annotations

import os
import sqlite3
from datetime import datetime
from typing import TYPE_CHECKING

from runctl.errors import Conflict, NotFound
from runctl.ledger.columns import from_time, to_time, understood
from runctl.ledger.records import Owner, StepRecord, TransactionRecord

if TYPE_CHECKING:
    from runctl.ledger.store import Database


DONE = "done"
"""The outcome of an operation that is over, until its command has said so; then it is `finished`."""


class Journal:
    """Each method is committed when it returns: a crash leaves an intent without an outcome, never less."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, operation: str, *, subject: str, payload: bytes, owner: Owner, at: datetime) -> str:
        tx = f"tx-{os.urandom(6).hex()}"
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO transactions"
                " (id, operation, subject, payload, pid, process_started, host, begun)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (tx, operation, subject, payload, owner.pid, owner.started, owner.host, from_time(at)),
            )
        return tx

    def adopt(self, tx: str, owner: Owner, *, formerly: Owner | None = None) -> None:
        """Another process goes on with an unfinished transaction, or says what one came to that is `done`.

        Raises Conflict where it has ended by now, or where it is not `formerly`'s any more.
        """
        with self._database.write() as connection:
            row = connection.execute("SELECT * FROM transactions WHERE id = ?", (tx,)).fetchone()
            if row is None:
                raise NotFound(f"There is no transaction {tx}")
            if row["outcome"] not in {None, DONE}:
                raise Conflict(f"Transaction {tx} cannot be taken up", why=f"it is {row['outcome']} by now")
            if formerly not in {None, _owner(row)}:
                raise Conflict(f"Transaction {tx} cannot be taken up", why="another process has done so")
            connection.execute(
                "UPDATE transactions SET pid = ?, process_started = ?, host = ? WHERE id = ?",
                (owner.pid, owner.started, owner.host, tx),
            )

    def intend(self, tx: str, name: str, *, token: str, request: bytes) -> int:
        """Note a call that is about to be made, on disk before it is; answers the step's number."""
        with self._database.write(durable=True) as connection:
            row = connection.execute("SELECT COUNT(*) FROM steps WHERE tx = ?", (tx,)).fetchone()
            number = int(row[0]) + 1
            connection.execute(
                "INSERT INTO steps (tx, number, name, token, request) VALUES (?, ?, ?, ?, ?)",
                (tx, number, name, token, request),
            )
        return number

    def done(self, tx: str, step: int, result: bytes) -> None:
        self._outcome(tx, step, "done", result=result)

    def failed(self, tx: str, step: int, error: str) -> None:
        """The cloud refused the call: it left nothing behind."""
        self._outcome(tx, step, "failed", error=error)

    def undoing(self, tx: str, step: int) -> None:
        """Its undoing has begun: from now on it can only be undone."""
        self._outcome(tx, step, "undoing")

    def undone(self, tx: str, step: int) -> None:
        self._outcome(tx, step, "undone")

    def end(self, tx: str, outcome: str) -> None:
        with self._database.write() as connection:
            connection.execute("UPDATE transactions SET outcome = ? WHERE id = ?", (outcome, tx))

    def told(self, owner: Owner) -> None:
        """A process has said what its operations came to: what was `done` is `finished`."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE transactions SET outcome = 'finished'"
                " WHERE outcome = ? AND pid = ? AND process_started = ? AND host = ?",
                (DONE, owner.pid, owner.started, owner.host),
            )

    def untold(self, *, operation: str | None = None, subject: str | None = None) -> list[TransactionRecord]:
        """Operations that are done and of which nobody was told, the oldest first."""
        rows = self._database.read(
            "SELECT * FROM transactions WHERE outcome = ? AND operation = COALESCE(?, operation)"
            " AND subject = COALESCE(?, subject) ORDER BY begun",
            (DONE, operation, subject),
        )
        return [self._transaction(row) for row in rows]

    def get(self, tx: str) -> TransactionRecord:
        """Raises NotFound."""
        rows = self._database.read("SELECT * FROM transactions WHERE id = ?", (tx,))
        if not rows:
            raise NotFound(f"There is no transaction {tx}")
        return self._transaction(rows[0])

    def list(self, *, limit: int = 50) -> list[TransactionRecord]:
        """The newest first, whatever became of them."""
        rows = self._database.read(
            "SELECT * FROM transactions ORDER BY begun DESC, rowid DESC LIMIT ?", (limit,)
        )
        return [self._transaction(row) for row in rows]

    def unfinished(
        self, *, operation: str | None = None, subject: str | None = None
    ) -> list[TransactionRecord]:
        """The oldest first."""
        rows = self._database.read(
            "SELECT * FROM transactions WHERE outcome IS NULL AND operation = COALESCE(?, operation)"
            " AND subject = COALESCE(?, subject) ORDER BY begun",
            (operation, subject),
        )
        return [self._transaction(row) for row in rows]

    def newest(self, *, limit: int = 50) -> list[TransactionRecord]:
        """Finished ones included, the newest first."""
        rows = self._database.read(
            "SELECT * FROM transactions ORDER BY begun DESC, rowid DESC LIMIT ?", (limit,)
        )
        return [self._transaction(row) for row in rows]

    def _outcome(
        self, tx: str, step: int, outcome: str, *, result: bytes | None = None, error: str | None = None
    ) -> None:
        with self._database.write() as connection:
            connection.execute(
                "UPDATE steps SET outcome = ?, result = COALESCE(?, result), error = ?"
                " WHERE tx = ? AND number = ?",
                (outcome, result, error, tx, step),
            )

    def _transaction(self, row: sqlite3.Row) -> TransactionRecord:
        steps = self._database.read("SELECT * FROM steps WHERE tx = ? ORDER BY number", (row["id"],))
        return read_transaction(row, tuple(map(read_step, steps)))


def read_transaction(row: sqlite3.Row, steps: tuple[StepRecord, ...] = ()) -> TransactionRecord:
    return TransactionRecord(
        id=row["id"],
        operation=row["operation"],
        subject=row["subject"],
        payload=row["payload"],
        owner=_owner(row),
        begun=_begun(row),
        outcome=row["outcome"],
        steps=steps,
    )


@understood
def _begun(row: sqlite3.Row) -> datetime:
    return to_time(row["begun"])


@understood
def read_step(row: sqlite3.Row) -> StepRecord:
    return StepRecord(**{name: row[name] for name in StepRecord.__struct_fields__})


def _owner(row: sqlite3.Row) -> Owner:
    return Owner(pid=row["pid"], started=row["process_started"], host=row["host"])
