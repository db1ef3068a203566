"""What nobody needs any more, each for a reason that can be asked again later. Pure.

What is unknown counts against it: no time, no state of a job and no volume is ever guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec

from runctl.model import TAG_JOB, TAG_LEASE_UNTIL, JobState
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Volume


class Reason(StrEnum):
    """Why a resource may go, or stop."""

    JOB_OVER = "its job is over"
    LEASE_OVER = "its lease has run out"
    STOPPED = "stopped for long"
    UNATTACHED = "attached to nothing for long"
    VOLUME_GONE = "snapshot of a volume that is gone"
    RUNNING = "running"


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the reasons need beside the resource: the cloud's time, how old is old, jobs by id.

    `since`: when a resource entered its state as far as the ledger saw it.
    """

    now: datetime
    older_than: timedelta
    jobs: Mapping[str, JobState] = {}
    since: Mapping[str, datetime] = {}


class Leftover(msgspec.Struct, frozen=True):
    """A reason, and the sentence with its figures."""

    reason: Reason
    why: str


def of_instance(instance: Instance, view: View) -> Leftover | None:
    """Whether an instance is left over; one of a job that goes on never is."""
    if instance.state not in {"pending", "running", "stopped"}:
        return None
    job = instance.tags.get(TAG_JOB, "")
    if (state := view.jobs.get(job)) is not None:
        return Leftover(Reason.JOB_OVER, f"its job {job} has {_ended(state)}") if state.final else None
    lease = _time(instance.tags.get(TAG_LEASE_UNTIL, ""))
    if lease is not None and lease < view.now:
        return Leftover(Reason.LEASE_OVER, f"its lease ran out {_ago(view.now - lease)}")
    stopped = instance.ended or view.since.get(instance.id)
    if instance.state == "stopped" and stopped is not None and view.now - stopped >= view.older_than:
        return Leftover(Reason.STOPPED, f"it was stopped {_ago(view.now - stopped)}")
    return None


def of_volume(volume: Volume, view: View) -> Leftover | None:
    """Whether a volume is left over: attached to nothing, and for long or by a job that is over."""
    if volume.state != "available" or volume.attachments:
        return None
    job = volume.tags.get(TAG_JOB, "")
    if (state := view.jobs.get(job)) is not None:
        return Leftover(Reason.JOB_OVER, f"its job {job} has {_ended(state)}") if state.final else None
    free = view.now - max(volume.created, view.since.get(volume.id, volume.created))
    if free >= view.older_than:
        return Leftover(Reason.UNATTACHED, f"attached to nothing, for {_length(free)} as far as is known")
    return None


def of_snapshot(snapshot: Snapshot, view: View, *, volume_is_gone: bool) -> Leftover | None:
    """Whether a snapshot is left over: old, and its volume is gone."""
    age = view.now - snapshot.started
    if snapshot.state == "completed" and volume_is_gone and age >= view.older_than:
        return Leftover(
            Reason.VOLUME_GONE, f"its volume {snapshot.volume} is gone, and it is {_length(age)} old"
        )
    return None


def of_running(instance: Instance) -> Leftover | None:
    """Whether an instance runs, which is all that stopping everything asks for."""
    return Leftover(Reason.RUNNING, "it runs") if instance.state == "running" else None


def _ended(state: JobState) -> str:
    return {
        JobState.SUCCEEDED: "succeeded",
        JobState.FAILED: "failed",
        JobState.STOPPED: "been stopped",
        JobState.OVER_BUDGET: "spent its budget",
    }.get(state, state)


def _time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _ago(time: timedelta) -> str:
    return f"{_length(time)} ago"


def _length(time: timedelta) -> str:
    seconds = max(time.total_seconds(), 0)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
