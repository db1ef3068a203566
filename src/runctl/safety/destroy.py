"""The one door to a destructive provider call: facts are gathered, the rules speak, then it acts."""

from __future__ import annotations

from runctl.errors import Protected
from runctl.model import TAG_JOB, TAG_MANAGED
from runctl.providers.aws import instances
from runctl.providers.aws.session import Session


def terminate_job_instance(session: Session, instance_id: str, *, job: str) -> None:
    """Terminate a machine that a job made for itself; idempotent.

    Raises Protected for a machine that is unmanaged or belongs to another job: everything unknown
    counts against deletion.
    """
    machine = instances.describe(session, instance_id)
    if machine is None:
        return
    tags = instances.tags_of(session, instance_id)
    reasons: list[str] = []
    if tags.get(TAG_MANAGED) != "true":
        reasons.append("unmanaged")
    if tags.get(TAG_JOB) != job:
        reasons.append("another job's machine")
    if reasons:
        raise Protected(
            f"{instance_id} is not terminated",
            reasons=tuple(reasons),
            why="; ".join(reasons),
            next=f"aws ec2 describe-instances --instance-ids {instance_id}",
        )
    instances.terminate(session, instance_id)
