"""Machines whose agent never spoke: what they may tell of the reason, and when no further one is bought."""

from __future__ import annotations

from collections.abc import Sequence

from runctl.errors import TrainctlError
from runctl.jobs.place import Place
from runctl.jobs.watch import Watch
from runctl.ledger import AttemptRecord

TRIES = 2
"""What two machines in a row cannot do, the next eight will not either."""

_LINES, _LETTERS = 6, 600


def is_so(place: Place, watch: Watch) -> bool:
    """Whether a machine of the cloud's has ended without a word of its agent, and was not taken back."""
    taken = watch.machine is not None and watch.machine.ended_by == "cloud"
    return place.session is not None and watch.agent is None and watch.store_answered and not taken


def could_not_start(watch: Watch) -> bool:
    """Whether the cloud refused to start what was asked for: it will refuse the same again."""
    return watch.agent is None and watch.machine is not None and watch.machine.ended_by == "launch"


def twice(attempts: Sequence[AttemptRecord]) -> str:
    """Why there is no further attempt; empty where one may help."""
    last = attempts[-TRIES:]
    if len(last) < TRIES or any(one.cause != "silent" for one in last):
        return ""
    reason = "no way from there to the bucket (subnet, security group, role), or an image without Python 3.8"
    told = f" The last one: {last[-1].message}" if last[-1].message else ""
    return f"{TRIES} machines in a row ended without a word of their agent: {reason}.{told}"


def console(place: Place, machine_id: str | None) -> str:
    """The last lines of a machine's console; empty where it is not shown."""
    from runctl.providers.aws import instances

    if place.session is None or machine_id is None:
        return ""
    try:
        text = instances.console(place.session, machine_id)
    except TrainctlError:  # without the right to see it, the reason stays unknown
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-_LINES:])[-_LETTERS:]
