"""Operations that were left unfinished: found, finished, undone."""

from __future__ import annotations

from collections.abc import Sequence

from runctl.errors import Conflict, NotFound
from runctl.ledger import Ledger, TransactionRecord
from runctl.resources.operation import Operation
from runctl.safety import cleanup, saga, transaction

JOB_LAUNCH = "launch-attempt"


def unfinished(ledger: Ledger) -> Sequence[TransactionRecord]:
    """Operations of dead processes, the oldest first."""
    return transaction.abandoned(ledger)


def find(ledger: Ledger, reference: str) -> TransactionRecord:
    """A transaction by its id or the beginning of it. Raises NotFound, Conflict where that is unclear."""
    known = [
        record
        for record in ledger.journal.newest(limit=1000)
        if record.id == reference
        or record.id.startswith(reference)
        or record.id.startswith(f"tx-{reference}")
    ]
    if not known:
        raise NotFound(f"There is no transaction {reference}", next="runctl tx list --all")
    if len(known) > 1 and all(record.id != reference for record in known):
        raise Conflict(
            f"{reference!r} is the beginning of several transactions",
            why=", ".join(record.id for record in known),
        )
    return next((record for record in known if record.id == reference), known[0])


def place_of(record: TransactionRecord) -> tuple[str, str] | None:
    """The cloud's key and the region of an operation; None for a job's launch, which its job knows."""
    if record.operation == JOB_LAUNCH:
        return None
    plan = cleanup.plan_of(record) if record.operation == cleanup.OPERATION else saga.plan_of(record)
    return plan.cloud, plan.region


def left_of(record: TransactionRecord, *, undo: bool) -> list[str]:
    """The steps that resuming does, or that rolling back undoes, in their order.

    Raises Conflict for what is under way, over, or a job's.
    """
    _require_abandoned(record)
    if undo:
        return [step.name for step in reversed(record.steps) if step.outcome not in {"failed", "undone"}]
    done = {step.name for step in record.steps if step.outcome == "done"}
    if record.operation == cleanup.OPERATION:
        planned = [item.id for item in cleanup.plan_of(record).items]
    else:
        planned = [step.name for step in saga.plan_of(record).steps]
    return [name for name in planned if name not in done]


def resume(operation: Operation, record: TransactionRecord) -> None:
    """Finish it. Raises Conflict for one that is under way, over, or a job's."""
    _require_abandoned(record)
    if record.operation == JOB_LAUNCH:
        job = record.subject.partition("/")[0]
        raise Conflict(
            f"{record.id} is the launch of a job",
            why="whoever waits for the job finishes it",
            next=f"runctl jobs wait {job}",
        )
    if record.operation == cleanup.OPERATION:
        cleanup.resume(operation.ledger, operation.door, record)
    else:
        operation.resume(record)


def roll_back(operation: Operation, record: TransactionRecord) -> None:
    """Undo it. Raises Conflict as `resume`, and where a step cannot be undone."""
    _require_abandoned(record)
    if record.operation == JOB_LAUNCH:
        job = record.subject.partition("/")[0]
        raise Conflict(f"{record.id} is the launch of a job", next=f"runctl jobs stop {job}")
    if record.operation == cleanup.OPERATION:
        cleanup.rollback(operation.ledger, record)
    else:
        operation.roll_back(record)


def _require_abandoned(record: TransactionRecord) -> None:
    if record.outcome is not None:
        raise Conflict(f"{record.id} is {record.outcome}", next="runctl tx list")
    if record.owner != transaction.this_process() and transaction.is_alive(record.owner):
        raise Conflict(
            f"{record.id} is under way",
            why=f"process {record.owner.pid} on {record.owner.host} works on it",
            next="wait for it, or end that process",
        )
