"""A cleanup plan carried out: every item is checked again, what has changed is refused, nothing is added.

The whole is one operation in the journal. A killed one is finished by `resume`; deletions cannot be undone,
so that `rollback` only ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum

import msgspec

from runctl.errors import Conflict, Protected, TrainctlError
from runctl.events import Notice
from runctl.ledger import Ledger, StepRecord, TransactionRecord
from runctl.providers.aws import instances, snapshots, volumes
from runctl.providers.aws.session import Session
from runctl.providers.aws.volumes import Volume
from runctl.quoting import quoted
from runctl.safety import leftovers, transaction
from runctl.safety.cleanup_plan import Item, Plan, Resource, disks_of, of, own_tags, view_of
from runctl.safety.destroy import Door
from runctl.safety.fate import Fate, fate_of_volumes
from runctl.safety.leftovers import Leftover, Reason, View
from runctl.safety.transaction import LeftAtOnce, Transaction
from runctl.safety.vocabulary import Action, Request, ResourceKind, Verdict

OPERATION = "cleanup"
_OVER = frozenset({"shutting-down", "terminated", "deleting", "deleted"})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """At which number of removals and at which sum of their USD/h it stops; None lifts a limit."""

    max_count: int | None = 25
    max_usd_per_hour: Decimal | None = Decimal(10)


UNLIMITED = Limits(max_count=None, max_usd_per_hour=None)


class Outcome(StrEnum):
    """What became of an item."""

    DONE = "done"
    GONE = "gone already"
    CHANGED = "changed since the plan"
    PROTECTED = "protected"
    FAILED = "failed"
    OVER_LIMIT = "over the limit"
    NOT_REACHED = "not reached"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one item, why, and what helps; `item` is as it was planned."""

    item: Item
    outcome: Outcome
    why: str = ""
    next: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a plan, in its order. `interrupted`: Ctrl-C ended it before its end."""

    tx: str
    results: tuple[Result, ...]
    interrupted: bool = False

    def having(self, *outcomes: Outcome) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.outcome in outcomes)

    @property
    def saved_per_month(self) -> Decimal:
        """USD of what was done, as far as its price is known."""
        amounts = [result.item.saves_per_month for result in self.having(Outcome.DONE)]
        return sum((amount for amount in amounts if amount), Decimal(0))


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal keeps: the plan, and how it was asked for."""

    plan: Plan
    limits: Limits
    force: bool


def apply(ledger: Ledger, door: Door, plan: Plan, *, limits: Limits, force: bool = False) -> Report:
    """Carry out a plan. A failure of one item does not stop the rest.

    Raises Conflict for a plan of another cloud or region; LeftAtOnce for the second Ctrl-C, after which
    the operation waits to be resumed.
    """
    _require_same_cloud(plan, door.session)
    run = _Run(plan=plan, limits=limits, force=force)
    subject = f"{len(plan.items)} in {plan.region}"
    now = door.session.cloud.clock.now()
    payload = msgspec.json.encode(run)
    with transaction.begin(ledger, OPERATION, subject=subject, payload=payload, at=now) as tx:
        return _Sweep(ledger, door, run, tx, ()).go()


def resume(ledger: Ledger, door: Door, record: TransactionRecord) -> Report:
    """Finish a cleanup whose process died: what is left of its plan, each item checked again.

    Raises Conflict where another process took it up, or for a cleanup of another cloud or region.
    """
    run = _run_of(record)
    _require_same_cloud(run.plan, door.session)
    with transaction.resumed(ledger, record) as tx:
        return _Sweep(ledger, door, run, tx, record.steps).go()


def rollback(ledger: Ledger, record: TransactionRecord) -> None:
    """End a cleanup whose process died: what was deleted stays so, the rest is left alone.

    Raises Conflict where another process took it up.
    """
    transaction.take_up(ledger, record)
    ledger.journal.end(record.id, "ended")


def plan_of(record: TransactionRecord) -> Plan:
    """The plan of a cleanup in the journal; it names the cloud and the region. Raises Conflict."""
    return _run_of(record).plan


class _Sweep:
    """One walk over a plan."""

    def __init__(
        self,
        ledger: Ledger,
        door: Door,
        run: _Run,
        tx: Transaction,
        made: tuple[StepRecord, ...],
    ) -> None:
        self._ledger, self._door, self._run, self._tx = ledger, door, run, tx
        self._made = {step.name: step for step in made}
        self._interrupted = False
        self._stopped = ""
        self._count = 0
        self._usd_per_hour = Decimal(0)
        tx.forward_only = True

    def go(self) -> Report:
        plan = self._run.plan
        now = self._door.session.cloud.clock.now()
        view = view_of(self._ledger, plan.cloud, now=now, older_than=plan.older_than)
        results: list[Result] = []
        for item in plan.items:
            try:
                result = self._one(item, view)
            except LeftAtOnce:
                raise
            except KeyboardInterrupt:
                # The step that it met was finished first: the journal knows whether there was one.
                self._interrupted = True
                result = self._interrupted_at(item)
            results.append(result)
            if result.outcome is Outcome.FAILED:
                notice = f"{item.id}: {result.why}; the rest goes on"
                self._door.emit(Notice(text=notice, warning=True))
        return Report(tx=self._tx.id, results=tuple(results), interrupted=self._interrupted)

    def _interrupted_at(self, item: Item) -> Result:
        steps = self._ledger.journal.get(self._tx.id).steps
        row = next((step for step in steps if step.name == item.id), None)
        if row is not None and row.outcome == "done":
            return self._result(item, Outcome.DONE, item.why)
        if row is not None:
            return self._result(item, Outcome.FAILED, row.error or "its answer was lost")
        return self._result(item, Outcome.NOT_REACHED, "it was interrupted")

    def _one(self, item: Item, view: View) -> Result:
        row = self._made.get(item.id)
        if (settled := self._before(item, row)) is not None:
            return settled
        try:
            changed = self._changed(item, view)
            if changed is not None:
                return self._settled(item, row, changed)
            self._remove(item, row)
        except Protected as error:
            return self._result(item, Outcome.PROTECTED, error.why or error.what, error.next)
        except TrainctlError as error:
            why = f"{error.what}: {error.why}" if error.why else error.what
            return self._result(item, Outcome.FAILED, why, error.next)
        self._note(item)
        return self._result(item, Outcome.DONE, item.why)

    def _before(self, item: Item, row: StepRecord | None) -> Result | None:
        """What is known of an item without asking the cloud."""
        if row is not None and row.outcome == "done":
            self._note(item)
            return self._result(item, Outcome.DONE, "before this was taken up again")
        if row is not None and row.outcome == "failed":
            return self._result(item, Outcome.FAILED, row.error or "")
        if self._interrupted:
            return self._result(item, Outcome.NOT_REACHED, "it was interrupted")
        if over := self._over_limit(item):
            return self._result(item, Outcome.OVER_LIMIT, over)
        return None

    def _settled(self, item: Item, row: StepRecord | None, found: Result) -> Result:
        """What an intent without an outcome came to, where there is nothing left to do."""
        if row is None:
            return found
        if found.outcome is not Outcome.GONE:
            self._tx.settle(row.number, None, f"not carried out: {found.why}")
            return found
        self._tx.settle(row.number, b"{}")
        self._note(item)
        return self._result(item, Outcome.DONE, "before this was taken up again")

    def _changed(self, item: Item, view: View) -> Result | None:
        """What of the plan is no longer so: None where all of it still is."""
        session = self._door.session
        found = _read(session, item)
        if found is None or found.state in _OVER:
            return self._result(item, Outcome.GONE)
        if item.action is Action.STOP and found.state in {"stopping", "stopped"}:
            return self._result(item, Outcome.GONE, f"it is {found.state}")
        leftover = _judge(session, found, item, view)
        changes = {
            "its tags have changed": own_tags(found) != item.tags,
            "other volumes are attached to it": disks_of(found) != item.disks,
            f"it is no longer so: {item.why}": leftover is None or leftover.reason is not item.reason,
            "other volumes would end with it": item.action is Action.TERMINATE
            and _dying(session, found) != set(item.takes),
        }
        why = next((why for why, is_so in changes.items() if is_so), None)
        return None if why is None else self._result(item, Outcome.CHANGED, why)

    def _over_limit(self, item: Item) -> str:
        limits = self._run.limits
        rate = item.usd_per_hour
        if not self._stopped and limits.max_count is not None and self._count >= limits.max_count:
            self._stopped = f"{limits.max_count} resources are the limit: --max-count lifts it"
        if not self._stopped and limits.max_usd_per_hour is not None:
            # Snapshots have a price only where EBS tells what they store, and never a big one.
            if rate is None and item.kind is not ResourceKind.SNAPSHOT:
                self._stopped = f"the price of {item.id} is unknown: --max-usd-per-hour lifts the limit"
            elif self._usd_per_hour + (rate or 0) > limits.max_usd_per_hour:
                self._stopped = (
                    f"${limits.max_usd_per_hour} an hour are the limit: --max-usd-per-hour lifts it"
                )
        return self._stopped

    def _remove(self, item: Item, row: StepRecord | None) -> None:
        request = Request(bulk=True, force=self._run.force, user=self._door.user)
        act = _ACTS[item.action, item.kind]
        self._tx.step(
            item.id,
            token=row.token if row else f"{self._tx.id}-{item.id}",
            request=msgspec.json.encode(item),
            do=lambda: msgspec.json.encode({"allowed": act(self._door, item.id, request).allowed}),
            undo=lambda _: None,
            number=row.number if row else None,
        )

    def _note(self, item: Item) -> None:
        self._count += 1
        self._usd_per_hour += item.usd_per_hour or 0

    @staticmethod
    def _result(item: Item, outcome: Outcome, why: str = "", next_step: str = "") -> Result:
        return Result(item=item, outcome=outcome, why=why, next=next_step)


_ACTS: dict[tuple[Action, ResourceKind], Callable[[Door, str, Request], Verdict]] = {
    (Action.STOP, ResourceKind.INSTANCE): Door.stop_instance,
    (Action.TERMINATE, ResourceKind.INSTANCE): Door.terminate_instance,
    (Action.DELETE, ResourceKind.VOLUME): Door.delete_volume,
    (Action.DELETE, ResourceKind.SNAPSHOT): Door.delete_snapshot,
}


def _read(session: Session, item: Item) -> Resource | None:
    if item.kind is ResourceKind.INSTANCE:
        return instances.get(session, item.id)
    if item.kind is ResourceKind.VOLUME:
        return volumes.describe(session, item.id)
    return snapshots.describe(session, item.id)


def _dying(session: Session, found: Resource) -> set[str]:
    """The volumes that would end with an instance now."""
    if not isinstance(found, instances.Instance) or not found.disks:
        return set()
    filters = [{"Name": "volume-id", "Values": [disk.volume for disk in found.disks]}]
    fates = fate_of_volumes(found, volumes.listing(session, filters))
    return {fate.volume for fate in fates if fate.fate is Fate.DELETED}


def _judge(session: Session, found: Resource, item: Item, view: View) -> Leftover | None:
    """The reason that there is now, if any."""
    if isinstance(found, snapshots.Snapshot):
        gone = volumes.describe(session, found.volume) is None
        return leftovers.of_snapshot(found, view, volume_is_gone=gone)
    if item.reason is Reason.RUNNING and not isinstance(found, Volume):
        return leftovers.of_running(found)
    return of(found, view)


def _run_of(record: TransactionRecord) -> _Run:
    try:
        return msgspec.json.decode(record.payload, type=_Run)
    except msgspec.MsgspecError as error:
        raise Conflict(
            f"{record.id} is no cleanup", why=str(error), next=f"runctl tx show {quoted(record.id)}"
        ) from error


def _require_same_cloud(plan: Plan, session: Session) -> None:
    if (plan.cloud, plan.region) == (session.cloud.key, session.region):
        return
    raise Conflict(
        "The plan is for another place",
        why=f"it was made for {plan.cloud} in {plan.region}, this is {session.cloud.key} in {session.region}",
        next=f"--region {quoted(plan.region)}, or make a new plan: runctl resources cleanup --save FILE",
    )
