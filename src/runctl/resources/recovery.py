"""Operations that were left unfinished: found, finished, undone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runctl.errors import Conflict, NotFound, TrainctlError
from runctl.ledger import DONE, Ledger, TransactionRecord
from runctl.quoting import quoted
from runctl.safety import cleanup, saga, transaction

if TYPE_CHECKING:
    from runctl.resources.operation import Operation

JOB_LAUNCH = "launch-attempt"


_IDS = re.compile(rb"\b(?:i|vol|snap)-[0-9a-f]{8,17}\b")


def unfinished(ledger: Ledger) -> Sequence[TransactionRecord]:
    """Operations of dead processes, the oldest first."""
    return transaction.abandoned(ledger)


def way_on(record: TransactionRecord) -> str:
    """The one command that goes on with an operation that was left unfinished."""
    if record.operation == JOB_LAUNCH:
        return f"runctl jobs wait {quoted(record.subject.partition('/')[0])}"
    being_undone = any(step.outcome in {"undoing", "undone"} for step in record.steps)
    return f"runctl tx {'rollback' if being_undone else 'resume'} {quoted(record.id)}"


def refuse_repeated(ledger: Ledger, plan: saga.Plan) -> None:
    """Raises Conflict where a dead process left the same operation on the same thing unfinished.

    What it made is there, or may be: beginning anew would make it twice.
    """
    for record in transaction.abandoned(ledger, operation=plan.operation, subject=plan.subject):
        if _place_if_known(record) == (plan.cloud, plan.region):
            raise Conflict(
                f"{plan.operation} of {plan.subject} was begun before and left unfinished",
                why=f"process {record.owner.pid} ended in the middle of {record.id}; what it made is there",
                next=way_on(record),
            )
    for record in ledger.journal.untold(operation=plan.operation, subject=plan.subject):
        if not transaction.is_alive(record.owner) and _place_if_known(record) == (plan.cloud, plan.region):
            raise Conflict(
                f"{plan.operation} of {plan.subject} is done already",
                why=f"process {record.owner.pid} was killed before it could say so: {results(record)}",
                next=way_on(record),
            )


def refuse_half_done(ledger: Ledger, cloud: str, resource: str) -> None:
    """Raises Conflict where a dead process left something unfinished with this very resource.

    It may look as if it were done: only who goes on with it knows, and nothing else takes it off the list.
    """
    for record in transaction.abandoned(ledger):
        if record.operation == JOB_LAUNCH or (_place_if_known(record) or ("", ""))[0] != cloud:
            continue
        if resource in _words(record):
            raise Conflict(
                f"{record.operation} of {record.subject} was begun before and left unfinished",
                why=f"process {record.owner.pid} ended in the middle of {record.id}, at work on {resource}",
                next=way_on(record),
            )


def results(record: TransactionRecord) -> str:
    """The ids of what an operation made and used, or its own."""
    text = b" ".join(step.result or b"" for step in record.steps)
    return ", ".join(dict.fromkeys(match.decode() for match in _IDS.findall(text))) or record.id


def explain(ledger: Ledger, error: TrainctlError, cloud: str) -> None:
    """Where an error is about what a dead process left in the middle, going on with that is what helps."""
    said = f"{error.what} {error.why}"
    untold = [record for record in ledger.journal.untold() if not transaction.is_alive(record.owner)]
    for record in [*unfinished(ledger), *untold]:
        if (_place_if_known(record) or ("", ""))[0] != cloud:
            continue
        if way_on(record) not in error.next and any(word in said for word in _words(record)):
            how = "was left unfinished" if record.outcome is None else "was done, and not told of,"
            left = f"{record.operation} {how} by process {record.owner.pid}: {record.id}"
            error.why = f"{error.why}; {left}" if error.why else left
            error.next = way_on(record)
            return


def _place_if_known(record: TransactionRecord) -> tuple[str, str] | None:
    try:
        return place_of(record)
    except Conflict:  # another version's plan
        return None


def _words(record: TransactionRecord) -> set[str]:
    """What an operation may be recognised by: what it is about, and what its steps made and used."""
    found = {
        match.decode() for step in record.steps for match in _IDS.findall(step.request + (step.result or b""))
    }
    return found | ({record.subject} if len(record.subject) > 2 else set())


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
    """Finish it, or say what was done. Raises Conflict for one that is under way, over, or a job's."""
    if record.outcome == DONE and not transaction.is_alive(record.owner):
        transaction.take_up(operation.ledger, record)
        return
    _require_abandoned(record)
    if record.operation == JOB_LAUNCH:
        job = record.subject.partition("/")[0]
        raise Conflict(
            f"{record.id} is the launch of a job",
            why="whoever waits for the job finishes it",
            next=f"runctl jobs wait {quoted(job)}",
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
        raise Conflict(f"{record.id} is the launch of a job", next=f"runctl jobs stop {quoted(job)}")
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
