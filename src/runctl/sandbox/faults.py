"""Faults on demand: what a call meets instead of, or beside, its true answer."""

from __future__ import annotations

import fnmatch
import itertools
import random
import threading
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from runctl.errors import ValidationError
from runctl.sandbox.timing import CloudClock
from runctl.sandbox.usage import STATES

CALL_KINDS = frozenset({"throttle", "error", "lost-response", "latency"})
"""What any call may meet; the others belong to one operation each."""
LIES = frozenset({"wrong-state", "missing", "stale"})
KINDS = (*sorted(CALL_KINDS), "no-capacity", "no-start", *sorted(LIES), "away")
THROTTLES = {
    "ec2": ("RequestLimitExceeded", 503),
    "s3": ("SlowDown", 503),
    "iam": ("Throttling", 400),
    "sts": ("Throttling", 400),
}
"""Of all others: ThrottlingException, 400."""


@dataclass(slots=True)
class Fault:
    """A rule. `operation` may hold wildcards; `count` None means until cleared.

    `latency` in real seconds, which are over when the rule is cleared.
    """

    service: str
    kind: str
    operation: str = "*"
    rate: float = 1.0
    count: int | None = None
    code: str | None = None
    status: int | None = None
    latency: float = 0.0
    instance: str | None = None
    instance_type: str | None = None
    zone: str | None = None
    market: str | None = None
    state: str = "terminated"
    id: int = field(default=0)
    hits: int = 0


class Faults:
    """The rules that are in force. Seeded, so that a rate gives the same story twice."""

    def __init__(self, clock: CloudClock, seed: int) -> None:
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 (a seeded simulation)
        self._rules: list[Fault] = []
        self._lock = threading.Lock()
        self._cleared = threading.Condition(self._lock)
        self._numbers = itertools.count(1)

    def add(self, fields: dict[str, Any]) -> Fault:
        """Raises ValidationError for an unknown field or kind, a rate or a state that is none."""
        unknown = fields.keys() - Fault.__dataclass_fields__
        if unknown:
            raise ValidationError(f"A fault has no {min(unknown)!r}")
        try:
            fault = msgspec.convert(fields, Fault)
        except msgspec.ValidationError as error:
            raise ValidationError("That is no fault", why=str(error)) from error
        if fault.state not in STATES:
            raise ValidationError(f"Unknown state {fault.state!r}", next=f"one of {', '.join(STATES)}")
        if fault.kind not in KINDS:
            raise ValidationError(f"Unknown fault {fault.kind!r}", next=f"one of {', '.join(KINDS)}")
        if not 0 < fault.rate <= 1:
            raise ValidationError(f"A rate lies above 0 and at most 1, not {fault.rate}")
        with self._lock:
            fault.id = next(self._numbers)
            self._rules.append(fault)
        return fault

    def clear(self, kind: str = "") -> None:
        """End the rules of one kind, or all."""
        with self._cleared:
            self._rules = [rule for rule in self._rules if kind and rule.kind != kind]
            self._cleared.notify_all()

    def delay(self, fault: Fault) -> None:
        """Hold a call up for as long as its fault says, or until the faults are cleared."""
        with self._cleared:
            self._cleared.wait_for(lambda: fault not in self._rules, timeout=fault.latency)

    def list(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(rule) for rule in self._rules]

    def meet(
        self, service: str, operation: str, kinds: Collection[str], text: str = "", **facts: str
    ) -> list[Fault]:
        """The rules of these kinds that strike this call; counts them down."""
        struck: list[Fault] = []
        with self._lock:
            for rule in self._rules:
                if rule.count == 0 or rule.service != service or rule.kind not in kinds:
                    continue
                if not fnmatch.fnmatchcase(operation, rule.operation):
                    continue
                if rule.instance and rule.instance not in text:
                    continue
                if any(
                    wanted and wanted != facts.get(name)
                    for name, wanted in (
                        ("instance_type", rule.instance_type),
                        ("zone", rule.zone),
                        ("market", rule.market),
                    )
                ):
                    continue
                if self._random.random() >= rule.rate:
                    continue
                rule.hits += 1
                if rule.count:
                    rule.count -= 1
                struck.append(rule)
        return struck
