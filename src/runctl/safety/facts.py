"""What the rules need of one resource, gathered: describe calls, tags, dependants, activity, jobs."""

from __future__ import annotations

import msgspec

from runctl.errors import ConfigError, NotFound, TrainctlError
from runctl.ledger import Ledger, TransactionRecord
from runctl.model import TAG_JOB, TAG_PURPOSE
from runctl.providers.aws import account, instances, snapshots, volumes
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Volume
from runctl.safety import activity
from runctl.safety.activity import Sighting
from runctl.safety.vocabulary import Disk, Facts, ResourceKind

RESTORING = frozenset({"restore-volume", "create-volume"})
"""Operations that read a snapshot from their first step to their last."""


class KnownInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance, what was seen on it, and the facts made of both."""

    instance: Instance
    seen: Sighting
    facts: Facts


class KnownVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume and the facts made of it."""

    volume: Volume
    facts: Facts


class KnownSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot and the facts made of it."""

    snapshot: Snapshot
    facts: Facts


def of_instance(
    session: Session, ledger: Ledger, instance_id: str, *, seen: Sighting | None = None
) -> KnownInstance | None:
    """None for an instance that EC2 does not show; `seen` is what was seen on it just now.

    Raises ConfigError, CloudError.
    """
    instance = instances.get(session, instance_id)
    if instance is None:
        return None
    seen = seen or activity.detect(session, ledger, instance)
    facts = Facts(
        kind=ResourceKind.INSTANCE,
        tags=instance.tags,
        created=instance.launched,
        activity=seen.activity,
        activity_reason=seen.reason,
        reachable=seen.reachable,
        termination_protected=_termination_protected(session, instance),
        disks=disks_of(session, instance),
    )
    return KnownInstance(instance=instance, seen=seen, facts=facts)


def disks_of(session: Session, instance: Instance) -> tuple[Disk, ...]:
    """The volumes at an instance with their tags; those of a volume that is not shown are unknown."""
    if not instance.disks:
        return ()
    filters = [{"Name": "volume-id", "Values": [disk.volume for disk in instance.disks]}]
    tags = {volume.id: volume.tags for volume in volumes.listing(session, filters)}
    return tuple(
        Disk(
            volume=disk.volume,
            device=disk.device,
            dies_with_instance=disk.delete_on_termination,
            tags=tags.get(disk.volume),
        )
        for disk in instance.disks
    )


def of_volume(session: Session, ledger: Ledger, volume_id: str) -> KnownVolume | None:
    """None for a volume that EC2 does not show. Raises ConfigError, CloudError."""
    volume = volumes.describe(session, volume_id)
    if volume is None:
        return None
    taken = snapshots.listing(session, [{"Name": "volume-id", "Values": [volume_id]}])
    # One that is pending may fail still: it is no copy yet.
    complete = tuple(found.id for found in taken if found.state == "completed")
    facts = Facts(
        kind=ResourceKind.VOLUME,
        tags=volume.tags,
        created=volume.created,
        attached_to=tuple(found.instance for found in volume.attachments)
        or (("a machine that is not shown",) if volume.state == "in-use" else ()),
        snapshots=complete,
        only_copy_of=() if complete else _only_copy_of(session, ledger, volume),
    )
    return KnownVolume(volume=volume, facts=facts)


def of_snapshot(session: Session, ledger: Ledger, snapshot_id: str) -> KnownSnapshot | None:
    """None for a snapshot that EC2 does not show. Raises ConfigError, CloudError."""
    snapshot = snapshots.describe(session, snapshot_id)
    if snapshot is None:
        return None
    facts = Facts(
        kind=ResourceKind.SNAPSHOT,
        tags=snapshot.tags,
        created=snapshot.started,
        images=tuple(snapshots.images_using(session, snapshot_id)),
        restoring=_restoring(session, ledger, snapshot_id),
    )
    return KnownSnapshot(snapshot=snapshot, facts=facts)


def _termination_protected(session: Session, instance: Instance) -> bool | None:
    if instance.state in {"shutting-down", "terminated"}:
        return False
    try:
        return instances.termination_protected(session, instance.id)
    except ConfigError:
        raise
    except TrainctlError:  # unknown, which protects
        return None


def _only_copy_of(session: Session, ledger: Ledger, volume: Volume) -> tuple[str, ...] | None:
    """The job whose checkpoints may lie here, unless its bucket has a committed one. None is unknown."""
    job = volume.tags.get(TAG_JOB) or _job_in_ledger(ledger, volume.id)
    if not job:
        # Made for checkpoints, and nobody knows of which jobs: they may be nowhere else.
        return None if volume.tags.get(TAG_PURPOSE) == "checkpoints" else ()
    try:
        bucket, prefix = activity.store_of(session, ledger, job)
        place = account.job_bucket(session, bucket)
        session.call("s3", "head_object", **place, Key=f"{prefix}/checkpoints/latest.json")
    except NotFound:
        return (job,)
    except ConfigError:
        raise
    except TrainctlError:  # unknown, which protects
        return None
    return ()


def _job_in_ledger(ledger: Ledger, resource_id: str) -> str | None:
    try:
        return ledger.resources.get(resource_id).job
    except NotFound:
        return None


def _restoring(session: Session, ledger: Ledger, snapshot_id: str) -> tuple[str, ...]:
    """Volumes that are being made from a snapshot, and unfinished operations that will make one."""
    filters = [{"Name": "snapshot-id", "Values": [snapshot_id]}, {"Name": "status", "Values": ["creating"]}]
    making = [volume.id for volume in volumes.listing(session, filters)]
    planned = [
        record.id
        for record in ledger.journal.unfinished()
        if record.operation in RESTORING and _mentions(record, snapshot_id.encode())
    ]
    return (*making, *planned)


def _mentions(record: TransactionRecord, name: bytes) -> bool:
    steps = [part for step in record.steps for part in (step.request, step.result or b"")]
    return any(name in part for part in (record.payload, *steps))
