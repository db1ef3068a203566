"""What to think of an attempt: the agent's word and the cloud's, weighed together. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from runctl.jobs.attempt import AgentState
from runctl.providers.base import Machine, MachineState

HEARTBEAT_LIMIT = timedelta(seconds=60)
"""Four mirrored heartbeats of 15 s: an agent that is silent for longer says nothing any more."""


class Standing(StrEnum):
    """Where an attempt stands, by all that is known."""

    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    LOST = "lost"
    DOUBTFUL = "doubtful"


class Sighting(msgspec.Struct, frozen=True):
    """One look at both sources. `machine` is None where the cloud knows none; `answered` whether it spoke.

    `launched` is when the launch was asked for, on the cloud's clock.
    """

    agent: AgentState | None
    store_answered: bool
    machine: Machine | None
    cloud_answered: bool
    launched: datetime


class Judgement(msgspec.Struct, frozen=True):
    """The standing, and the sentence that says why."""

    standing: Standing
    why: str = ""


def judge(seen: Sighting, now: datetime) -> Judgement:
    """An attempt is lost only when the cloud and the heartbeat agree; one alone is but a doubt."""
    if seen.agent is not None and seen.agent.is_over:
        return Judgement(Standing.ENDED, seen.agent.message or "")
    down = _down(seen)
    silent_for = silence(seen, now)
    silent = seen.store_answered and silent_for > HEARTBEAT_LIMIT
    if down and silent:
        reason = seen.machine.reason if seen.machine else "the cloud does not know the machine"
        return Judgement(Standing.LOST, f"{reason}; no heartbeat for {silent_for.total_seconds():.0f} s")
    if down:
        return Judgement(
            Standing.DOUBTFUL,
            f"the cloud says that the machine is {down}, the heartbeat does not (yet) agree",
        )
    if silent and seen.agent is not None:
        return Judgement(
            Standing.DOUBTFUL,
            f"no heartbeat for {silent_for.total_seconds():.0f} s, but the cloud says that the machine lives",
        )
    if seen.agent is None or seen.agent.phase == "preparing":
        return Judgement(Standing.STARTING)
    return Judgement(Standing.ENDING if seen.agent.phase == "ending" else Standing.RUNNING)


def _down(seen: Sighting) -> str:
    """How the cloud says that no work can go on there; empty where it does not say so.

    An agent does not survive that its machine is stopped: whoever starts it again finds none.
    """
    if not seen.cloud_answered:
        return ""
    if seen.machine is None or seen.machine.state in {MachineState.ENDING, MachineState.GONE}:
        return "gone"
    return "stopped" if seen.machine.state is MachineState.STOPPED else ""


def silence(seen: Sighting, now: datetime) -> timedelta:
    """For how long nothing was heard of the agent; of one that never spoke, since its launch."""
    if seen.agent is None:
        return now - seen.launched
    return timedelta(seconds=max(0.0, now.timestamp() - seen.agent.last_sign))
