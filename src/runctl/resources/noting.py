"""What an operation changed, read from the cloud and noted in the ledger with its price."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from runctl.errors import NotFound
from runctl.model import HOURS_PER_MONTH, TAG_MANAGED, TAG_PERSISTENT, TAG_PROJECT
from runctl.providers.aws import instances as ec2
from runctl.providers.aws import snapshots as ebs_snapshots
from runctl.providers.aws import volumes as ebs
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Attachment, Volume
from runctl.resources import costs, inventory
from runctl.resources.inventory import Inventory
from runctl.resources.operation import Operation
from runctl.safety import activity
from runctl.safety.protection import marked


class InstanceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An instance with its disks, what trains on it, and USD/h with its disks (None: unknown)."""

    instance: Instance
    disks: tuple[tuple[Volume, Attachment], ...]
    activity: str
    activity_reason: str
    usd_per_hour: Decimal | None


def note(
    operation: Operation,
    *,
    instances: Sequence[str] = (),
    volumes: Sequence[str] = (),
    snapshots: Sequence[str] = (),
) -> Inventory:
    """Read these and the disks of instances, and note their states; what is gone is closed."""
    session = operation.session
    found_instances = [ec2.get(session, instance_id) for instance_id in instances]
    disks = [disk.volume for found in found_instances if found for disk in found.disks]
    found_volumes = [ebs.describe(session, volume_id) for volume_id in dict.fromkeys([*volumes, *disks])]
    found_snapshots = [ebs_snapshots.describe(session, snapshot_id) for snapshot_id in snapshots]
    seen = Inventory(
        cloud=session.cloud.key,
        regions=(session.region,),
        taken=session.cloud.clock.now(),
        instances=tuple(found for found in found_instances if found),
        volumes=tuple(found for found in found_volumes if found),
        snapshots=tuple(found for found in found_snapshots if found),
    )
    asked = {*instances, *volumes, *snapshots}
    inventory.note(operation.ledger, [session], seen, asked=asked)
    return seen


def instance(operation: Operation, instance_id: str) -> Instance:
    """Raises NotFound."""
    found = ec2.get(operation.session, instance_id)
    if found is None:
        raise NotFound(f"There is no instance {instance_id}", next="runctl resources list")
    return found


def status(operation: Operation, instance_id: str) -> InstanceStatus:
    """Raises NotFound."""
    session = operation.session
    found = instance(operation, instance_id)
    disks = [(ebs.describe(session, disk.volume), disk) for disk in found.disks]
    known = tuple((volume, disk) for volume, disk in disks if volume)
    rates = [hourly(operation, found), *(hourly(operation, volume) for volume, _ in known)]
    seen = activity.detect(session, operation.ledger, found)
    whole = None if any(rate is None for rate in rates) else sum(filter(None, rates), Decimal(0))
    return InstanceStatus(
        instance=found,
        disks=known,
        activity=seen.activity,
        activity_reason=seen.reason,
        usd_per_hour=whole,
    )


def hourly(operation: Operation, resource: Instance | Volume | Snapshot) -> Decimal | None:
    """USD/h as things stand; None is unknown."""
    price = costs.rate(operation.session, operation.ledger, resource)
    return None if price is None else price.usd_per_hour


def per_month(operation: Operation, resource: Instance | Volume | Snapshot) -> Decimal | None:
    """USD a month of 730 hours; None is unknown."""
    rate = hourly(operation, resource)
    return None if rate is None else rate * HOURS_PER_MONTH


def volumes_by(
    operation: Operation,
    *,
    name: str | None,
    state: str | None,
    persistent: bool,
    unattached: bool,
    unmanaged: bool,
    project: str | None,
) -> list[tuple[Volume, Decimal | None]]:
    """Volumes that pass every filter, the oldest first, with USD a month."""
    found = [
        volume
        for volume in ebs.listing(operation.session)
        if (unmanaged or volume.tags.get(TAG_MANAGED) == "true")
        and name in {None, volume.name}
        and state in {None, volume.state}
        and project in {None, volume.tags.get(TAG_PROJECT)}
        and (not persistent or marked(volume.tags, TAG_PERSISTENT))
        and (not unattached or not volume.attachments)
    ]
    found.sort(key=lambda volume: (volume.created, volume.id))
    return [(volume, per_month(operation, volume)) for volume in found]


def snapshots_of(
    operation: Operation, source: str | None, *, unmanaged: bool
) -> list[tuple[Snapshot, Decimal | None]]:
    """Snapshots of a volume, one by its id, or all, the oldest first, with USD a month."""
    found = [
        snapshot
        for snapshot in ebs_snapshots.listing(operation.session)
        if (unmanaged or source or snapshot.tags.get(TAG_MANAGED) == "true")
        and (source is None or source in {snapshot.volume, snapshot.id})
    ]
    found.sort(key=lambda snapshot: (snapshot.started, snapshot.id))
    return [(snapshot, per_month(operation, snapshot)) for snapshot in found]
