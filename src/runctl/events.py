"""What the library tells whoever listens: it never prints, it emits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

import msgspec

from runctl.model import JobId, JobState


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a user may want to see."""


class Notice(Event, frozen=True, kw_only=True):
    """A fact in one sentence: a fallback taken, a step done, a doubt."""

    text: str
    warning: bool = False


class Retried(Event, frozen=True, kw_only=True):
    """A call failed in a way that passes by itself, and is made again after `wait` seconds."""

    operation: str
    error: str
    attempt: int
    wait: float


class Progress(Event, frozen=True, kw_only=True):
    """Work of known or unknown size goes on; `total` is None where it is unknown.

    `rate` is in units a second since it began, `seconds_left` what is left at this rate; None where unknown.
    """

    task: str
    done: float
    total: float | None
    unit: str = ""
    rate: float | None = None
    seconds_left: float | None = None


class Transition(Event, frozen=True, kw_only=True):
    """A job changed its state."""

    job: JobId
    attempt: int
    state: JobState
    at: datetime
    cause: str
    cost: Decimal | None = None


class LogOutput(Event, frozen=True, kw_only=True):
    """Bytes that the training script wrote."""

    job: JobId
    attempt: int
    data: bytes


class Heartbeat(Event, frozen=True, kw_only=True):
    """A running attempt, seen from afar: steps, speed and money so far."""

    job: JobId
    attempt: int
    step: int | None
    steps_per_second: float | None
    cost: Decimal | None


Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener that nobody needs to pass."""
