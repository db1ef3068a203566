"""Operations on several resources that survive a crash: intent, call, outcome, and an undo for each step."""

from __future__ import annotations

import platform
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache

from runctl.errors import CloudError, TrainctlError
from runctl.ledger import Ledger, Owner, TransactionRecord


@dataclass(slots=True)
class Transaction:
    """A journalled operation that is under way; made by `begin` or `take_up`."""

    ledger: Ledger
    id: str
    _unknown: int | None = None
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

        A refusal by the cloud means that the step left nothing. An answer that was lost leaves the
        intent without an outcome and the transaction unfinished, for recovery to look into.
        """
        with _finishing_first():
            number = self.ledger.journal.intend(self.id, name, token=token, request=request)
            self._unknown = number
            try:
                result = do()
            except CloudError as error:
                # An answer that never came proves nothing; a refusal proves that nothing was made.
                if not error.retryable:
                    self.ledger.journal.failed(self.id, number, f"{error.kind}: {error}")
                    self._unknown = None
                raise
            except TrainctlError as error:
                self.ledger.journal.failed(self.id, number, f"{error.kind}: {error}")
                self._unknown = None
                raise
            self.ledger.journal.done(self.id, number, result)
            self._unknown = None
            self._undo.append((number, lambda: undo(result)))
        return result

    def roll_back(self) -> None:
        """Undo what was done, the last first."""
        while self._undo:
            number, undo = self._undo[-1]
            undo()
            self.ledger.journal.undone(self.id, number)
            self._undo.pop()
        if self._unknown is None:
            self.ledger.journal.end(self.id, "rolled-back")


@contextmanager
def _finishing_first() -> Generator[None]:
    """The first Ctrl-C waits for the end of the step, the second leaves at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def hear(number: int, frame: object) -> None:  # noqa: ARG001 (the signal module's form)
        heard.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


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
