"""What a machine owes by itself, and what to think of one that does not keep it. Pure.

Its lease, the job's limits and a stop are kept by the machine, with nobody there. One that crashed or hangs,
or boots again without its agent, keeps none of them: then whoever supervises does.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from runctl.agent.patience import ENDING_SECONDS
from runctl.jobs.judge import HEARTBEAT_LIMIT, Sighting, silence
from runctl.providers.base import MachineState

LEASE_MARGIN = timedelta(minutes=5)
"""Beyond the lease: a machine whose timer works is gone by then."""

SILENT_MARGIN = timedelta(minutes=2)
"""For how long a silent agent may be past what it owes: one that lives is heard of within a minute."""

ASKED_AFTER = timedelta(minutes=1)
"""How long after a limit an agent that has not seen it is asked to end."""

ENDING = timedelta(seconds=ENDING_SECONDS) + SILENT_MARGIN
"""What an agent that is heard of may take to end, beyond the grace of its script."""

_ALIVE = frozenset({MachineState.PENDING, MachineState.RUNNING})


class Owed(msgspec.Struct, frozen=True, kw_only=True):
    """What is due. `lease` is None for a machine that is not ours to end.

    `limit` names the limit that is reached, `limit_for` since how long; `stop_for` since when a stop was
    asked for, None without one.
    """

    lease: timedelta | None
    grace: timedelta
    limit: str = ""
    limit_for: timedelta = timedelta(0)
    stop_for: timedelta | None = None


def broken(seen: Sighting, owed: Owed, now: datetime) -> str:
    """What the machine did not keep, as a sentence without its end; empty where nothing is proven.

    Both sources must have spoken: a store or a cloud that is away says nothing about a machine.
    """
    if not seen.store_answered or not seen.cloud_answered or (seen.agent is not None and seen.agent.is_over):
        return ""
    if seen.machine is None or seen.machine.state not in _ALIVE:
        return ""
    silent = silence(seen, now)
    silence_told = silent > HEARTBEAT_LIMIT
    if silence_told and owed.lease is not None and silent > owed.lease + LEASE_MARGIN:
        return f"its agent is silent for {_minutes(silent)}, longer than its lease of {_minutes(owed.lease)}"
    patience = SILENT_MARGIN if silence_told else owed.grace + ENDING
    if owed.stop_for is not None and owed.stop_for > patience:
        return f"it shall stop, and its agent is {_how(silent, silence_told)}"
    if owed.limit and owed.lease is not None and owed.limit_for > patience:
        return f"{owed.limit}, and its agent is {_how(silent, silence_told)}"
    return ""


def _how(silent: timedelta, silence_told: bool) -> str:
    return f"silent for {_minutes(silent)}" if silence_told else "not at its end"


def _minutes(time: timedelta) -> str:
    minutes = round(time.total_seconds() / 60)
    return f"{minutes} minute{'' if minutes == 1 else 's'}"
