"""What becomes of a job whose attempt has ended, and the sentence that says why. Pure."""

from __future__ import annotations

from runctl.jobs.attempt import AgentState
from runctl.model import JobState

_OUTCOMES = {
    "finished": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "prepare-failed": JobState.FAILED,
    "notice": JobState.RECOVERING,
    "shutdown": JobState.RECOVERING,
    "stop": JobState.STOPPED,
    "budget": JobState.OVER_BUDGET,
    "deadline": JobState.OVER_BUDGET,
}


def of(agent: AgentState) -> JobState:
    """By the agent's word for its end."""
    return _OUTCOMES.get(agent.cause or "", JobState.RECOVERING)


def cause_of(agent: AgentState) -> str:
    """Why the attempt ended, and what a recovery can go on from."""
    if of(agent) is not JobState.RECOVERING:
        return agent.message or agent.cause or ""
    if agent.cause != "notice":
        return f"{agent.message or agent.cause}; going on from the newest snapshot"
    if agent.committed is None:
        return "spot interruption; nothing was committed"
    seconds = agent.committed.seconds_after_notice
    if seconds is None or seconds <= 0:
        return f"spot interruption; {agent.committed.name} was safe before the notice"
    return f"spot interruption; {agent.committed.name} was safe {seconds:.1f} s after the notice"
