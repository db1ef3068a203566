"""Whether a script that failed just after it resumed is given the snapshot before: once, and told."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from runctl.errors import NotFound, ValidationError
from runctl.jobs import checkpoints
from runctl.jobs.attempt import AgentState
from runctl.jobs.place import Place
from runctl.jobs.spec import JobSpec
from runctl.storage import manifests

AT_ONCE = timedelta(seconds=60)
"""On the cloud's clock. What fails later may also have failed at once, if it did no step beyond its first."""


class Earlier(msgspec.Struct, frozen=True):
    """The snapshot that is tried, and those that hold the checkpoint which the script cannot go on from."""

    name: str
    instead_of: tuple[str, ...]


def failed_at_once(agent: AgentState) -> bool:
    """Whether a script came to nothing from the snapshot that it was given."""
    if agent.cause != "failed" or not agent.exit_code or agent.resumed_from is None:
        return False
    if agent.step is not None and (agent.began_at_step is None or agent.step > agent.began_at_step):
        return False
    ran = (agent.ended or 0.0) - (agent.script_started or 0.0)
    newer = agent.committed is not None and agent.committed.step != agent.resumed_step
    return ran <= AT_ONCE.total_seconds() or not newer


def earlier(place: Place, seal: str, spec: JobSpec, agent: AgentState) -> Earlier | None:
    """The snapshot to try in place of the one that the script failed from; None where it failed for good.

    One that the user named is what the user wants. Raises CloudError.
    """
    failed = agent.resumed_from
    if not failed_at_once(agent) or failed is None or failed == spec.resume_from:
        return None
    if spec.not_from and failed not in spec.not_from:
        return None  # another one was tried already
    try:
        point = manifests.point(checkpoints.read(place, failed, seal).manifest)
    except (ValidationError, NotFound):
        return None
    skipped: list[str] = []
    for name in reversed(checkpoints.commits(place)):
        try:
            found = checkpoints.read(place, name, seal)
        except (ValidationError, NotFound):
            continue  # so do machines
        if not found.ours and (spec.accepted is None or spec.accepted.sha256 != found.sha256):
            continue
        other = manifests.point(found.manifest)
        if other == point or other is None:
            skipped.append(name)
        else:
            return Earlier(name, tuple(skipped))
    return None
