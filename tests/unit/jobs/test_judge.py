"""A machine is given up only when both sources agree, and never against its agent's last word."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.jobs.attempt import AgentState
from runctl.jobs.judge import HEARTBEAT_LIMIT, Sighting, Standing, judge
from runctl.model import Market
from runctl.providers.base import Machine, MachineState

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
FRESH = timedelta(seconds=15)
OLD = HEARTBEAT_LIMIT + timedelta(seconds=1)
S = Standing
PHASES = ("preparing", "running", "ending", "ended")


def machine(state: MachineState) -> Machine:
    return Machine(
        "i-1", state, "g5.xlarge", "us-east-1a", "us-east-1", Market.SPOT, NOW, reason="it says so"
    )


def agent(phase: str, silent: timedelta) -> AgentState:
    return AgentState(job="j", attempt=1, phase=phase, heartbeat=(NOW - silent).timestamp(), message="over")


def sighting(
    phase: str | None,
    silent: timedelta,
    cloud: MachineState | str | None,
    *,
    store: bool = True,
    launched: timedelta | None = None,
) -> Sighting:
    """`cloud` is a state, None where it knows no machine, or "away"."""
    return Sighting(
        agent=agent(phase, silent) if phase else None,
        store_answered=store,
        machine=machine(cloud) if isinstance(cloud, MachineState) else None,
        cloud_answered=cloud != "away",
        launched=NOW - (launched or silent),
    )


RUNNING, GONE, ENDING = MachineState.RUNNING, MachineState.GONE, MachineState.ENDING
STOPPED = MachineState.STOPPED


@pytest.mark.parametrize(
    ("seen", "standing"),
    [
        # Both agree.
        (sighting("running", FRESH, RUNNING), S.RUNNING),
        (sighting("preparing", FRESH, RUNNING), S.STARTING),
        (sighting("ending", FRESH, RUNNING), S.ENDING),
        (sighting("running", OLD, GONE), S.LOST),
        (sighting("running", OLD, ENDING), S.LOST),
        (sighting("preparing", OLD, None), S.LOST),
        (sighting("running", OLD, STOPPED), S.LOST),
        (sighting(None, OLD, STOPPED), S.LOST),
        # The cloud alone.
        (sighting("running", FRESH, GONE), S.DOUBTFUL),
        (sighting("running", FRESH, ENDING), S.DOUBTFUL),
        (sighting("running", FRESH, None), S.DOUBTFUL),
        (sighting("running", FRESH, STOPPED), S.DOUBTFUL),
        (sighting("running", OLD, STOPPED, store=False), S.DOUBTFUL),
        (sighting("running", OLD, GONE, store=False), S.DOUBTFUL),
        # The silence alone.
        (sighting("running", OLD, RUNNING), S.DOUBTFUL),
        (sighting("preparing", OLD, MachineState.PENDING), S.DOUBTFUL),
        (sighting("running", OLD, "away"), S.DOUBTFUL),
        # Nothing was heard of the agent yet.
        (sighting(None, FRESH, MachineState.PENDING), S.STARTING),
        (sighting(None, OLD, RUNNING), S.STARTING),
        (sighting(None, FRESH, None), S.DOUBTFUL),
        (sighting(None, OLD, GONE), S.LOST),
        (sighting(None, OLD, GONE, store=False), S.DOUBTFUL),
        # The agent's last word counts, whatever came after it.
        (sighting("ended", OLD, GONE), S.ENDED),
        (sighting("ended", OLD, "away", store=False), S.ENDED),
        (sighting("ended", FRESH, RUNNING), S.ENDED),
    ],
)
def test_the_table(seen: Sighting, standing: Standing) -> None:
    assert judge(seen, NOW).standing is standing


def test_the_limit_of_silence_is_itself_no_silence() -> None:
    assert judge(sighting("running", HEARTBEAT_LIMIT, GONE), NOW).standing is S.DOUBTFUL


def test_a_judgement_says_why() -> None:
    lost = judge(sighting("running", OLD, GONE), NOW)
    assert lost.why == "it says so; no heartbeat for 61 s"
    assert judge(sighting("running", OLD, None), NOW).why.startswith("the cloud does not know the machine")
    assert judge(sighting("ended", OLD, GONE), NOW).why == "over"


SIGHTINGS = st.builds(
    sighting,
    st.sampled_from([None, *PHASES]),
    st.timedeltas(timedelta(seconds=-30), timedelta(hours=2)),
    st.sampled_from([None, "away", *MachineState]),
    store=st.booleans(),
)


@given(SIGHTINGS)
def test_lost_needs_both_sources(seen: Sighting) -> None:
    heard = datetime.fromtimestamp(seen.agent.last_sign, UTC) if seen.agent else seen.launched
    both = (
        seen.cloud_answered
        and (seen.machine is None or seen.machine.state in {GONE, ENDING, STOPPED})
        and seen.store_answered
        and NOW - heard > HEARTBEAT_LIMIT
        and not (seen.agent and seen.agent.phase == "ended")
    )
    assert (judge(seen, NOW).standing is S.LOST) == both


@given(SIGHTINGS)
def test_an_agent_that_is_heard_is_never_given_up(seen: Sighting) -> None:
    standing = judge(seen, NOW).standing
    if seen.agent is not None and seen.agent.is_over:
        assert standing is S.ENDED
    elif seen.agent is not None and NOW.timestamp() - seen.agent.last_sign < HEARTBEAT_LIMIT.total_seconds():
        assert standing not in {S.LOST, S.ENDED}


@given(SIGHTINGS, st.booleans())
def test_a_source_that_does_not_answer_never_makes_it_worse(seen: Sighting, cloud: bool) -> None:
    """Losing sight of a source may turn a loss into a doubt, never anything into a loss."""
    blind = Sighting(
        agent=seen.agent,
        store_answered=seen.store_answered and cloud,
        machine=seen.machine,
        cloud_answered=seen.cloud_answered and not cloud,
        launched=seen.launched,
    )
    assert judge(blind, NOW).standing is not S.LOST
