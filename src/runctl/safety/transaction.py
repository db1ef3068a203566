"""Operations on several resources that survive a crash: intent, call, outcome, and an undo for each step."""

from __future__ import annotations

import os
import platform
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import FrameType

import msgspec

from runctl import processes
from runctl.errors import CloudError, Conflict, TrainctlError, TransferError
from runctl.ledger import Ledger, Owner, StepRecord, TransactionRecord
from runctl.quoting import quoted

_NEVER = "it was never carried out"
_under_way: set[str] = set()  # by `begin` in this very process


class LeftAtOnce(KeyboardInterrupt):
    """The second Ctrl-C: nothing more was done, the journal says what may be left."""


class Transaction(msgspec.Struct):
    """A journalled operation that is under way; made by `begin`."""

    ledger: Ledger
    id: str
    outcome: str = "finished"
    """Of an operation that comes to its end."""
    forward_only: bool = False
    """Set before a step that cannot be undone: from then on the operation is finished, never rolled back."""
    _unknown: set[int] = msgspec.field(default_factory=set[int])
    _undo: list[tuple[int, Callable[[], bool]]] = msgspec.field(
        default_factory=list[tuple[int, Callable[[], bool]]]
    )

    def step(
        self,
        name: str,
        *,
        token: str,
        request: bytes,
        do: Callable[[], bytes],
        undo: Callable[[bytes], None],
        find: Callable[[], bytes | None] | None = None,
        number: int | None = None,
    ) -> bytes:
        """Journal the intent, make the call, journal its result. `do` makes this one call and no other.

        A refusal by the cloud means that the step left nothing. An answer that was lost leaves the
        intent without an outcome: a rollback first asks `find` what became of it, as `Undoing.find` says;
        without one, the transaction stays unfinished, for recovery to look into. Recovery makes a call
        again with the `number` of its intent.
        """
        with _finishing_first():
            if number is None:
                number = self.ledger.journal.intend(self.id, name, token=token, request=request)
            self._unknown.add(number)
            try:
                result = do()
            except TrainctlError as error:
                if _was_refused(error):
                    self.ledger.journal.failed(self.id, number, f"{error.kind}: {error}")
                    self._unknown.discard(number)
                elif find is not None:
                    self._undo.append((number, lambda: self._undo_unknown(number, find, undo)))
                raise
            self._undo.append((number, lambda: self._undo_known(number, lambda: undo(result))))
            self.ledger.journal.done(self.id, number, result)
            self._unknown.discard(number)
        return result

    @property
    def uncertain(self) -> bool:
        """Whether it is unknown what became of a step."""
        return bool(self._unknown)

    def settle(self, number: int, result: bytes | None, why_not: str = "") -> None:
        """What became of an earlier process's intent, found out without its call; None for nothing."""
        if result is None:
            self.ledger.journal.failed(self.id, number, why_not)
        else:
            self.ledger.journal.done(self.id, number, result)
        self._unknown.discard(number)

    def remember(self, number: int, undo: Callable[[], None]) -> None:
        """A step that an earlier process has done: a rollback undoes it, too."""
        self._undo.append((number, lambda: self._undo_known(number, undo)))

    def roll_back(self) -> None:
        """Undo what was done, the last first. Raises as the undo that failed; the journal keeps the rest."""
        while self._undo:
            number, undo = self._undo[-1]
            if undo():
                self.ledger.journal.undone(self.id, number)
            self._unknown.discard(number)
            self._undo.pop()
        self.end("rolled-back")

    def _undo_known(self, number: int, undo: Callable[[], None]) -> bool:
        self.ledger.journal.undoing(self.id, number)
        undo()
        return True

    def _undo_unknown(
        self, number: int, find: Callable[[], bytes | None], undo: Callable[[bytes], None]
    ) -> bool:
        """Whether there was something to undo: what was made last is looked for before anything below it."""
        result = find()
        self.settle(number, result, _NEVER)
        return result is not None and self._undo_known(number, lambda: undo(result))

    def end(self, outcome: str) -> None:
        """End it, unless it is unknown what became of a step: then recovery has to."""
        if not self._unknown:
            self.ledger.journal.end(self.id, outcome)


class Undoing(msgspec.Struct, frozen=True):
    """How recovery undoes a kind of step, of which it knows no more than the journal does.

    `find` says what became of an intent without an outcome: its result, or None where it is certain that
    nothing was made and that no call is on its way any more (calling again with the same token is the
    surest way to find out). It raises where it cannot be known. `undo` is idempotent.
    """

    find: Callable[[StepRecord], bytes | None]
    undo: Callable[[StepRecord, bytes], None]


@contextmanager
def begin(
    ledger: Ledger,
    operation: str,
    *,
    subject: str,
    payload: bytes,
    at: datetime,
    outcome: str = "finished",
) -> Generator[Transaction]:
    """Run an operation: finished at the end of the block, rolled back when it raises.

    The first Ctrl-C finishes the step and rolls back, the second leaves at once (LeftAtOnce). An undo that
    fails, too, leaves the transaction unfinished; what the block raised is raised all the same.
    """
    tx = ledger.journal.begin(operation, subject=subject, payload=payload, owner=this_process(), at=at)
    with _guarded(Transaction(ledger, tx, outcome)) as transaction:
        yield transaction


@contextmanager
def resumed(
    ledger: Ledger, record: TransactionRecord, *, outcome: str = "finished"
) -> Generator[Transaction]:
    """Go on with an abandoned operation, under the same rules as `begin`. Raises Conflict as `take_up`.

    It does not end before it is known what became of every intent, whoever left it without an outcome.
    """
    take_up(ledger, record)
    unknown = {step.number for step in record.steps if step.outcome is None}
    with _guarded(Transaction(ledger, record.id, outcome, _unknown=unknown)) as transaction:
        yield transaction


@contextmanager
def _guarded(transaction: Transaction) -> Generator[Transaction]:
    _under_way.add(transaction.id)
    try:
        yield transaction
    except LeftAtOnce:
        raise
    except KeyboardInterrupt as error:
        # This was the first Ctrl-C: one more must not be held back.
        try:
            _roll_back_for(transaction, error)
        except KeyboardInterrupt:
            raise LeftAtOnce from None
        raise
    except BaseException as error:
        with _finishing_first():
            _roll_back_for(transaction, error)
        raise
    else:
        transaction.end(transaction.outcome)
    finally:
        _under_way.discard(transaction.id)


def roll_back(ledger: Ledger, record: TransactionRecord, undoings: Mapping[str, Undoing]) -> None:
    """Undo an abandoned transaction, the last step first; `undoings` by name of step.

    May be repeated after a crash of its own. Raises Conflict where another process took it up, and as
    `find` and `undo` raise: it stays unfinished then.
    """
    if missing := {step.name for step in record.steps} - undoings.keys():
        raise Conflict(
            f"Transaction {record.id} cannot be rolled back",
            why=f"nothing is known of undoing {', '.join(sorted(missing))} of {record.operation}",
        )
    take_up(ledger, record)
    journal = ledger.journal
    for step in reversed(journal.get(record.id).steps):
        if step.outcome in {"failed", "undone"}:
            continue
        undoing = undoings[step.name]
        result = step.result if step.outcome in {"done", "undoing"} else undoing.find(step)
        if result is None:
            journal.failed(record.id, step.number, _NEVER)
            continue
        if step.outcome is None:
            journal.done(record.id, step.number, result)
        journal.undoing(record.id, step.number)
        undoing.undo(step, result)
        journal.undone(record.id, step.number)
    journal.end(record.id, "rolled-back")


def take_up(ledger: Ledger, record: TransactionRecord) -> None:
    """Make an abandoned transaction this process's own. Raises Conflict where another was faster."""
    ledger.journal.adopt(record.id, this_process(), formerly=record.owner)


def abandoned(
    ledger: Ledger, *, operation: str | None = None, subject: str | None = None
) -> list[TransactionRecord]:
    """Unfinished transactions that nobody works on: their process is dead, or this one has given them up."""
    me = this_process()
    return [
        record
        for record in ledger.journal.unfinished(operation=operation, subject=subject)
        if (record.id not in _under_way if record.owner == me else not is_alive(record.owner))
    ]


def this_process() -> Owner:
    pid = os.getpid()
    return Owner(pid=pid, started=processes.born(pid) or 0.0, host=platform.node())


def is_alive(owner: Owner) -> bool:
    """Whether a process still runs. One on another host is taken to be alive: it cannot be known."""
    return owner.host != platform.node() or processes.is_same(owner.pid, owner.started)


def _was_refused(error: TrainctlError) -> bool:
    """Whether an error proves that nothing was made: an answer that never came proves nothing."""
    if isinstance(error, CloudError):
        return not (error.retryable or error.lost_answer)
    return not isinstance(error, TransferError)


def _roll_back_for(transaction: Transaction, error: BaseException) -> None:
    """Roll back; where that fails, `error` says so and the journal keeps what is left to undo."""
    if transaction.forward_only:
        error.add_note(f"it is finished with: runctl tx resume {quoted(transaction.id)}")
        return
    try:
        transaction.roll_back()
    except TrainctlError as failure:
        error.add_note(f"{transaction.id} could not be rolled back: {failure}")


@contextmanager
def _finishing_first() -> Generator[None]:
    """The first Ctrl-C waits for the end of the block, the second leaves at once."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the signal module's form)
        nonlocal heard
        heard = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, hear)
    try:
        yield
    except KeyboardInterrupt:
        if heard:
            raise LeftAtOnce from None
        raise
    except Exception as error:
        # What the block raised does not swallow the Ctrl-C.
        if heard:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt
