"""Operations as plans: steps that are written down whole, carried out, resumed and rolled back by their kind.

The plan is in the journal before its first call. Whoever finds it unfinished goes on with the same requests
and tokens, so that nothing is made twice, or undoes what was done, the last step first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec

from runctl.errors import CapacityError, Conflict, QuotaError, TrainctlError
from runctl.events import Emit, Notice
from runctl.ledger import Ledger, StepRecord, TransactionRecord, decoded
from runctl.quoting import quoted
from runctl.safety import transaction
from runctl.safety.transaction import Transaction

Request = dict[str, Any]
Result = dict[str, Any]


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One call to be made. `requests` are alternatives: the next is tried where there is no capacity.

    A request names what an earlier step made as `{"result_of": NAME, "field": FIELD}`, which is None where
    there is none, as of a step that was left out. A step is left out unless each reference of `only_if`, and
    none of `unless`, leads to something.
    """

    name: str
    kind: str
    requests: tuple[Request, ...]
    only_if: tuple[Request, ...] = ()
    unless: tuple[Request, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """An operation on several resources; `subject` is what it is about; `cloud` is the cloud's key."""

    operation: str
    subject: str
    cloud: str
    region: str
    steps: tuple[PlannedStep, ...]


class Call(msgspec.Struct, frozen=True):
    """One call of a step: its request with references resolved, its token, and the transaction's id."""

    request: Request
    token: str
    tx: str


class Kind(Protocol):
    """How steps of one kind are made and unmade; an object without state of its own.

    `do` may be called again with the same call and comes to the same result. `undo` is
    idempotent and never removes what the step did not make. A `final` kind cannot be undone.
    """

    final: bool

    def do(self, call: Call) -> Result: ...

    def find(self, call: Call) -> Result | None:
        """What an intent without an outcome came to: None where it is certain that nothing was made."""
        ...

    def undo(self, call: Call, result: Result) -> None: ...


class _Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal keeps of a step: which of the plan, and the request with its references resolved."""

    step: str
    alternative: int
    request: Request


def carry_out(
    ledger: Ledger,
    plan: Plan,
    kinds: Mapping[str, Kind],
    *,
    emit: Emit,
    at: datetime,
    outcome: str = "finished",
) -> Mapping[str, Result]:
    """Carry out a plan; answers the results by step. Raises what a step raises, after the rollback."""
    payload = msgspec.json.encode(plan)
    with transaction.begin(
        ledger, plan.operation, subject=plan.subject, payload=payload, at=at, outcome=outcome
    ) as tx:
        return _go_on(tx, plan, kinds, (), emit)


def resume(
    ledger: Ledger,
    record: TransactionRecord,
    kinds: Mapping[str, Kind],
    *,
    emit: Emit,
    outcome: str = "finished",
) -> Mapping[str, Result]:
    """Finish an abandoned operation. Raises what a step raises, after the rollback; Conflict where another
    process took it up, and where its rollback has begun: what is half undone is no ground to go on from."""
    plan = plan_of(record)
    if undone := next((step for step in record.steps if step.outcome in {"undoing", "undone"}), None):
        raise Conflict(
            f"{record.id} is being rolled back",
            why=f"its step {undone.name} is {undone.outcome}",
            next=f"runctl tx rollback {quoted(record.id)}",
        )
    with transaction.resumed(ledger, record, outcome=outcome) as tx:
        return _go_on(tx, plan, kinds, record.steps, emit)


def roll_back(ledger: Ledger, record: TransactionRecord, kinds: Mapping[str, Kind]) -> None:
    """Undo an abandoned operation. Raises Conflict where a step was begun that cannot be undone."""
    plan = plan_of(record)
    by_name = {step.name: step for step in plan.steps}
    for step in record.steps:
        if kinds[by_name[step.name].kind].final and step.outcome not in {"failed", "undone"}:
            raise Conflict(
                f"{record.id} cannot be rolled back",
                why=f"its step {step.name} cannot be undone, and may have been done",
                next=f"runctl tx resume {quoted(record.id)}",
            )

    def undoing(kind: Kind) -> transaction.Undoing:
        def find(step: StepRecord) -> bytes | None:
            return _found(kind, _call(step, record.id))

        def undo(step: StepRecord, result: bytes) -> None:
            kind.undo(_call(step, record.id), _result(result))

        return transaction.Undoing(find=find, undo=undo)

    transaction.roll_back(ledger, record, {step.name: undoing(kinds[step.kind]) for step in plan.steps})


def plan_of(record: TransactionRecord) -> Plan:
    """The plan of a journalled operation. Raises Conflict for one that has none."""
    try:
        return msgspec.json.decode(record.payload, type=Plan)
    except msgspec.MsgspecError as error:
        raise Conflict(
            f"{record.id} cannot be taken up here",
            why=f"{record.operation} keeps no plan in the journal",
            next=f"runctl tx show {quoted(record.id)}",
        ) from error


def _go_on(
    tx: Transaction, plan: Plan, kinds: Mapping[str, Kind], made: tuple[StepRecord, ...], emit: Emit
) -> dict[str, Result]:
    results: dict[str, Result] = {}
    for step in plan.steps:
        kind = kinds[step.kind]
        earlier = [row for row in made if row.name == step.name]
        if done := next((row for row in earlier if row.outcome == "done"), None):
            results[step.name] = _remember(tx, kind, done)
            tx.forward_only |= kind.final
            continue
        if not _is_wanted(step, results):
            results[step.name] = {}
            continue
        results[step.name] = _make(tx, step, kind, earlier, results, emit)
    return results


def _make(
    tx: Transaction,
    step: PlannedStep,
    kind: Kind,
    earlier: list[StepRecord],
    results: Mapping[str, Result],
    emit: Emit,
) -> Result:
    """Try the alternatives in order, beginning with the intent that an earlier process left open."""
    refused: CapacityError | None = None
    refusals: list[CapacityError] = []
    failed = {_intent(row).alternative for row in earlier if row.outcome == "failed"}
    still_open = {_intent(row).alternative: row for row in earlier if row.outcome is None}
    for number, planned in enumerate(step.requests):
        if number in failed:
            continue
        row = still_open.get(number)
        intent = (
            _intent(row)
            if row
            else _Intent(step=step.name, alternative=number, request=_resolve(planned, results))
        )
        if row is None and _is_ruled_out(intent.request, refusals):
            continue
        call = Call(intent.request, row.token if row else f"{tx.id}-{step.name}-{number}", tx.id)
        undoable, tx.forward_only = not tx.forward_only, tx.forward_only or kind.final
        try:
            answer = tx.step(
                step.name,
                token=call.token,
                request=msgspec.json.encode(intent),
                do=lambda c=call: msgspec.json.encode(kind.do(c)),
                undo=lambda result, c=call: kind.undo(c, _result(result)),
                find=lambda c=call: _found(kind, c),
                number=row.number if row else None,
            )
        except TrainctlError as error:
            if undoable and not tx.uncertain:
                tx.forward_only = False  # it was refused: nothing has been done that cannot be undone
            if not isinstance(error, CapacityError):
                raise
            refused = error
            refusals.append(error)
            if number + 1 < len(step.requests):
                emit(Notice(text=f"{_what(intent.request)}: {error.code}, trying the next", warning=True))
            continue
        return _result(answer)
    raise refused or Conflict(
        f"{tx.id} cannot go on", why=f"every way to do its step {step.name} failed before"
    )


def _is_ruled_out(request: Request, refusals: Sequence[CapacityError]) -> bool:
    """Whether the account's quota, which is one for all zones, has been spent for this way before."""
    offer = request.get("offer") or {}
    return any(
        isinstance(one, QuotaError) and one.meets(offer.get("instance_type", ""), offer.get("market", ""))
        for one in refusals
    )


def _remember(tx: Transaction, kind: Kind, row: StepRecord) -> Result:
    result = _result(row.result or b"{}")
    tx.remember(row.number, lambda: kind.undo(_call(row, tx.id), result))
    return result


def _is_wanted(step: PlannedStep, results: Mapping[str, Result]) -> bool:
    """Whether what came of earlier steps asks for this one: the same at every resumption."""

    def leads(reference: Request) -> bool:
        return bool(results[reference["result_of"]].get(reference.get("field", "id")))

    return all(map(leads, step.only_if)) and not any(map(leads, step.unless))


def _resolve(value: Any, results: Mapping[str, Result]) -> Any:
    """A request with what earlier steps made in the place of its references."""
    if isinstance(value, dict):
        found: dict[str, Any] = value
        if "result_of" in found:
            return results[found["result_of"]].get(found.get("field", "id"))
        return {key: _resolve(item, results) for key, item in found.items()}
    if isinstance(value, list | tuple):
        return [_resolve(item, results) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _intent(row: StepRecord) -> _Intent:
    return decoded(row.request, _Intent, f"step {row.name}")


def _call(row: StepRecord, tx: str) -> Call:
    return Call(_intent(row).request, row.token, tx)


def _found(kind: Kind, call: Call) -> bytes | None:
    found = kind.find(call)
    return None if found is None else msgspec.json.encode(found)


def _result(data: bytes) -> Result:
    return decoded(data, dict[str, Any], "a step")


def _what(request: Request) -> str:
    return str(request.get("what") or "this way")


def result_of(step: str, field: str = "id") -> Request:
    """A reference to what a step made."""
    return {"result_of": step, "field": field}
