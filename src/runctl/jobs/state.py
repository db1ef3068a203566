"""The life of a job as one table; everything that moves a job asks it."""

from __future__ import annotations

from runctl.model import JobState

S = JobState

MAY_BECOME: dict[JobState, frozenset[JobState]] = {
    S.PLANNED: frozenset({S.PROVISIONING, S.FAILED, S.STOPPED}),
    S.PROVISIONING: frozenset({S.STAGING, S.RECOVERING, S.FAILED, S.STOPPED, S.OVER_BUDGET}),
    S.STAGING: frozenset({S.RUNNING, S.ENDING, S.RECOVERING, S.FAILED, S.STOPPED, S.OVER_BUDGET}),
    S.RUNNING: frozenset({S.ENDING, S.RECOVERING, S.SUCCEEDED, S.FAILED}),
    S.ENDING: frozenset({S.RECOVERING, S.STOPPED, S.OVER_BUDGET, S.SUCCEEDED, S.FAILED}),
    S.RECOVERING: frozenset({S.PROVISIONING, S.FAILED, S.STOPPED, S.OVER_BUDGET}),
    S.SUCCEEDED: frozenset(),
    # A user may take a job up again where it ended short of success.
    S.FAILED: frozenset({S.RECOVERING}),
    S.STOPPED: frozenset({S.RECOVERING}),
    S.OVER_BUDGET: frozenset({S.RECOVERING}),
}


def may_come_from(state: JobState) -> frozenset[JobState]:
    """The states from which `state` can be reached in one step."""
    return frozenset(before for before, after in MAY_BECOME.items() if state in after)
