"""Operations on several resources that survive a crash: intent, call, outcome, and an undo for each step."""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache

from runctl.errors import TrainctlError
from runctl.ledger import Ledger, Owner, TransactionRecord


@dataclass(slots=True)
class Transaction:
    """A journalled operation that is under way; made by `begin` or `take_up`."""

    ledger: Ledger
    id: str
    _undo: list[tuple[int, Callable[[], None]]] = field(default_factory=list[tuple[int, Callable[[], None]]])

    def step(
        self,
        name: str,
        *,
        token: str,
        request: bytes,
        do: Callable[[], bytes],
        undo: Callable[[bytes], None],
    ) -> bytes:
        """Journal the intent, make the call, journal its result.

        An error of ours means that the cloud refused: the step left nothing. Anything else leaves the
        intent without an outcome, for recovery to look into.
        """
        number = self.ledger.journal.intend(self.id, name, token=token, request=request)
        try:
            result = do()
        except TrainctlError as error:
            self.ledger.journal.failed(self.id, number, f"{error.kind}: {error}")
            raise
        self.ledger.journal.done(self.id, number, result)
        self._undo.append((number, lambda: undo(result)))
        return result

    def roll_back(self) -> None:
        """Undo what was done, the last first."""
        while self._undo:
            number, undo = self._undo[-1]
            undo()
            self.ledger.journal.undone(self.id, number)
            self._undo.pop()
        self.ledger.journal.end(self.id, "rolled-back")


@contextmanager
def begin(
    ledger: Ledger, operation: str, *, subject: str, payload: bytes, at: datetime
) -> Generator[Transaction]:
    """Run an operation: finished at the end of the block, rolled back when it raises."""
    tx = ledger.journal.begin(operation, subject=subject, payload=payload, owner=this_process(), at=at)
    transaction = Transaction(ledger, tx)
    try:
        yield transaction
    except BaseException:
        transaction.roll_back()
        raise
    ledger.journal.end(tx, "finished")


def abandoned(
    ledger: Ledger, *, operation: str | None = None, subject: str | None = None
) -> list[TransactionRecord]:
    """Unfinished transactions whose process is dead."""
    return [
        record
        for record in ledger.journal.unfinished(operation=operation, subject=subject)
        if not is_alive(record.owner)
    ]


@cache
def this_process() -> Owner:
    import psutil

    process = psutil.Process()
    return Owner(pid=process.pid, started=process.create_time(), host=platform.node())


def is_alive(owner: Owner) -> bool:
    """Whether a process still runs. One on another host is taken to be alive: it cannot be known."""
    import psutil

    if owner.host != platform.node():
        return True
    try:
        return abs(psutil.Process(owner.pid).create_time() - owner.started) < 1.0
    except psutil.NoSuchProcess:
        return False
