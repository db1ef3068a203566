"""How many instances may run at once: a loop that creates them is stopped before the bill is."""

from __future__ import annotations

import msgspec

from runctl.errors import ValidationError
from runctl.events import Emit, Notice
from runctl.model import TAG_MANAGED
from runctl.providers.aws import instances
from runctl.providers.aws.session import Session

_OURS = (
    {"Name": f"tag:{TAG_MANAGED}", "Values": ["true"]},
    {"Name": "instance-state-name", "Values": ["pending", "running"]},
)


class Limits(msgspec.Struct, frozen=True):
    """From how many running instances on to warn and to refuse."""

    warn: int = 10
    refuse: int = 50


def guard(session: Session, limits: Limits, *, emit: Emit, more: int = 1) -> None:
    """Refuse to go past a number of running instances. Raises ValidationError."""
    running = len(instances.listing(session, _OURS))
    if running + more > limits.refuse:
        raise ValidationError(
            f"{running} instances run already: the limit is {limits.refuse}",
            why="a loop that creates instances is dearer than a refusal",
            next="runctl resources list, or runctl config set protection.refuse_instances NUMBER",
        )
    if running + more > limits.warn:
        emit(Notice(text=f"{running + more} instances will run", warning=True))
