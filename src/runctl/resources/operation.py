"""One operation of a user on one cloud: the session, the door, the ledger, and its plan carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from runctl.events import Emit
from runctl.ledger import DONE, Ledger, TransactionRecord
from runctl.providers.aws.session import Session
from runctl.resources import recovery
from runctl.resources.steps import Surroundings, kinds
from runctl.safety import saga, transaction
from runctl.safety.destroy import Door
from runctl.safety.saga import Plan, PlannedStep, Result

T = TypeVar("T")


class Operation(msgspec.Struct, frozen=True):
    """Where and for whom an operation is carried out.

    `to_be_told`: what it comes to is `done` until whoever carried it out has said so (`Journal.told`), so
    that the next command knows of one that was killed before it could.
    """

    session: Session
    ledger: Ledger
    door: Door
    emit: Emit
    to_be_told: bool = False
    _known: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def once(self, what: str, read: Callable[[], T]) -> T:
        """Ask the cloud for something that does not change meanwhile once."""
        if what not in self._known:
            self._known[what] = read()
        return self._known[what]

    def plan(self, name: str, subject: str, steps: list[PlannedStep]) -> Plan:
        return Plan(
            operation=name,
            subject=subject,
            cloud=self.session.cloud.key,
            region=self.session.region,
            steps=tuple(steps),
        )

    def carry_out(self, plan: Plan) -> Mapping[str, Result]:
        """Raises what a step raises, after everything was undone; see `safety.saga`.

        Raises Conflict where a dead process left the same unfinished.
        """
        recovery.refuse_repeated(self.ledger, plan)
        return saga.carry_out(
            self.ledger,
            plan,
            self._kinds(),
            emit=self.emit,
            at=self.session.cloud.clock.now(),
            outcome=self.outcome,
        )

    def require_whole(self, resource: str) -> None:
        """Raises Conflict where a dead process left something unfinished with it."""
        recovery.refuse_half_done(self.ledger, self.session.cloud.key, resource)

    @property
    def outcome(self) -> str:
        """Of what comes to its end."""
        return DONE if self.to_be_told else "finished"

    def untold(self) -> bool:
        """Whether this process has carried out what it has not said yet."""
        me = transaction.this_process()
        return any(record.owner == me for record in self.ledger.journal.untold())

    def resume(self, record: TransactionRecord) -> Mapping[str, Result]:
        """Finish an operation whose process died."""
        return saga.resume(self.ledger, record, self._kinds(), emit=self.emit, outcome=self.outcome)

    def roll_back(self, record: TransactionRecord) -> None:
        """Undo an operation whose process died."""
        saga.roll_back(self.ledger, record, self._kinds())

    def _kinds(self) -> Mapping[str, saga.Kind]:
        return kinds(Surroundings(self.session, self.door, self.emit, self.ledger))
