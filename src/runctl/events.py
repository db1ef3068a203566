"""What the library tells whoever listens: it never prints, it emits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from runctl.model import JobId, JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that a user may want to see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """A fact in one sentence: a fallback taken, a step done, a doubt."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried(Event):
    """A call failed in a way that passes by itself, and is made again after `wait` seconds."""

    operation: str
    error: str
    attempt: int
    wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """Work of known or unknown size goes on; `total` is None where it is unknown."""

    task: str
    done: float
    total: float | None
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition(Event):
    """A job changed its state."""

    job: JobId
    attempt: int
    state: JobState
    at: datetime
    cause: str
    cost: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOutput(Event):
    """Bytes that the training script wrote."""

    job: JobId
    attempt: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Event):
    """A running attempt, seen from afar: steps, speed and money so far."""

    job: JobId
    attempt: int
    step: int | None
    steps_per_second: float | None
    cost: Decimal | None


Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that nobody needs to pass."""
