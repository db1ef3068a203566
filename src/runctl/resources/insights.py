"""What could be saved: each finding with its reason, its saving a month and the command. Pure but for `look`.

Nothing that is persistent, protected or important is proposed for deletion. A saving whose price is not known
is unknown, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

import msgspec

from runctl.errors import TrainctlError
from runctl.events import Notice
from runctl.model import (
    HOURS_PER_MONTH,
    TAG_IMPORTANT,
    TAG_JOB,
    TAG_MANAGED,
    TAG_PERSISTENT,
    TAG_PROTECTED,
    Price,
)
from runctl.pricing import catalog
from runctl.providers.aws import disk_limits
from runctl.providers.aws.disk_limits import DiskLimits
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Volume
from runctl.resources import costs, inventory
from runctl.resources.inventory import Inventory
from runctl.resources.operation import Operation
from runctl.safety import activity
from runctl.safety.protection import marked
from runctl.safety.vocabulary import Activity

IDLE_AFTER = timedelta(hours=1)
UNATTACHED_AFTER = timedelta(days=1)
STOPPED_AFTER = timedelta(days=1)
OLD_SNAPSHOT = timedelta(days=90)
BIG_DISKS_GIB = 50
_MANY = 100_000
_GP2_IOPS_PER_GIB = 3
_GP2_MOST_IOPS = 16_000
_GP2_SMALL_GIB = 170
"""Up to this size gp2 gives 128 MiB/s at most, above it 250. Source: EBS user guide, gp2 volumes."""
_GP2_MIBS = 250
_GP3_MOST_IOPS = 16_000
"""gp3 goes further on some machines; this much it gives everywhere."""


class Topic(StrEnum):
    """What a finding is about."""

    IDLE = "idle instance"
    STOPPED = "stopped with disks"
    UNATTACHED = "unattached volume"
    GP2 = "gp2 that should be gp3"
    IOPS = "more IOPS than can be used"
    OLD = "old snapshot"


class Insight(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do; USD saved a month, None where a price is not known."""

    topic: Topic
    resource: str
    name: str
    region: str
    reason: str
    usd_per_month: Decimal | None
    command: str


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the findings need beside the inventory.

    `busy`: instances on which a job goes on; `rates`: USD/h by id; `limits`: by instance type;
    `since`: when a resource entered its state, as far as the ledger saw it.
    """

    now: datetime
    rates: Mapping[str, Price | None] = {}
    busy: frozenset[str] = frozenset()
    limits: Mapping[str, DiskLimits] = {}
    since: Mapping[str, datetime] = {}
    unmanaged: bool = False
    idle_for: timedelta | None = None
    """From how long on something counts as unused, where the usual times shall not."""

    def is_long(self, unused: timedelta, usual: timedelta) -> bool:
        return unused >= (usual if self.idle_for is None else self.idle_for)


def look(
    operation: Operation,
    sessions: Sequence[Session],
    *,
    unmanaged: bool,
    probe: bool,
    idle_for: timedelta | None = None,
) -> tuple[list[Insight], tuple[str, ...]]:
    """Read the cloud and find what could be saved; also answers what could not be read.

    `probe` asks each machine that seems idle through its shell, and leaves out those that may be busy.
    """
    seen = inventory.read(sessions, emit=operation.emit)
    inventory.refresh(operation.ledger, sessions, seen)
    by_region = {session.region: session for session in sessions}
    view = View(
        now=seen.taken,
        rates={
            one.id: costs.rate(by_region[one.region], operation.ledger, one)
            for one in (*seen.instances, *seen.volumes, *seen.snapshots)
        },
        busy=_busy(operation, seen),
        limits=_limits(operation, by_region, seen),
        since=_since(operation, seen),
        unmanaged=unmanaged,
        idle_for=idle_for,
    )
    found = insights(seen, view)
    if probe:
        shown = {one.id: one for one in seen.instances}
        found = [one for one in found if not _is_busy(operation, by_region, shown.get(one.resource), one)]
    return found, seen.failures


def insights(seen: Inventory, view: View) -> list[Insight]:
    """Every finding, the greatest saving first and unknown ones last."""
    found: list[Insight] = []
    volumes = {volume.id: volume for volume in seen.volumes}
    machines = {instance.id: instance for instance in seen.instances}
    in_images = {snapshot for image in seen.images for snapshot in image.snapshots}
    for instance in seen.instances:
        if _counts(instance.tags, view):
            found += _keep(_idle(instance, view), _stopped(instance, volumes, view))
    for volume in seen.volumes:
        if not _counts(volume.tags, view):
            continue
        unattached = _unattached(volume, view)
        found += _keep(unattached) if unattached else _keep(_gp2(volume, view), _iops(volume, machines, view))
    for snapshot in seen.snapshots:
        if _counts(snapshot.tags, view) and snapshot.id not in in_images and snapshot.volume in volumes:
            found += _keep(_old(snapshot, view))
    return sorted(found, key=_by_saving)


def saving(found: Sequence[Insight]) -> tuple[Decimal, int]:
    """USD a month of all that is known, and how many are not."""
    known = [one.usd_per_month for one in found if one.usd_per_month is not None]
    return sum(known, Decimal(0)), len(found) - len(known)


def _by_saving(one: Insight) -> tuple[bool, Decimal, str]:
    return (one.usd_per_month is None, -(one.usd_per_month or Decimal(0)), one.resource)


def _keep(*found: Insight | None) -> list[Insight]:
    return [one for one in found if one is not None]


def _counts(tags: Mapping[str, str], view: View) -> bool:
    return view.unmanaged or tags.get(TAG_MANAGED) == "true"


def _is_kept(tags: dict[str, str]) -> bool:
    return any(marked(tags, tag) for tag in (TAG_PERSISTENT, TAG_PROTECTED, TAG_IMPORTANT))


def _idle(instance: Instance, view: View) -> Insight | None:
    age = view.now - instance.launched
    if instance.state != "running" or instance.id in view.busy or not view.is_long(age, IDLE_AFTER):
        return None
    job = instance.tags.get(TAG_JOB)
    why = f"its job {job} does not go on" if job else "no job of this ledger runs on it"
    spot = instance.market == "spot"
    verb = "terminate" if spot else "stop"  # a one-time spot instance cannot be stopped
    return Insight(
        topic=Topic.IDLE,
        resource=instance.id,
        name=instance.name,
        region=instance.region,
        reason=f"{why}; up for {_days(age)}",
        usd_per_month=_month(view.rates.get(instance.id)),
        command=_command(instance.region, "aws", verb, instance.id),
    )


def _stopped(instance: Instance, volumes: Mapping[str, Volume], view: View) -> Insight | None:
    since = instance.ended or view.since.get(instance.id)
    if instance.state != "stopped" or since is None:
        return None
    if not view.is_long(view.now - since, STOPPED_AFTER):
        return None
    disks = [volumes[disk.volume] for disk in instance.disks if disk.volume in volumes]
    going = [disk for disk in disks if not _is_kept(disk.tags)]
    size = sum(disk.size_gib for disk in going)
    if size < BIG_DISKS_GIB or _is_kept(instance.tags):
        return None
    monthly = [_month(view.rates.get(disk.id)) for disk in going]
    return Insight(
        topic=Topic.STOPPED,
        resource=instance.id,
        name=instance.name,
        region=instance.region,
        reason=f"stopped for {_days(view.now - since)}, and pays for {size} GiB",
        usd_per_month=None if None in monthly else sum(filter(None, monthly), Decimal(0)),
        command=_command(instance.region, "aws", "terminate", instance.id),
    )


def _unattached(volume: Volume, view: View) -> Insight | None:
    since = view.since.get(volume.id)
    idle = view.now - (since or volume.created)
    if volume.state != "available" or not view.is_long(idle, UNATTACHED_AFTER) or _is_kept(volume.tags):
        return None
    # EC2 does not tell when a volume was detached; the ledger does where it saw it attached.
    how_long = f"for {_days(idle)}" if since else f"and {_days(idle)} old"
    return Insight(
        topic=Topic.UNATTACHED,
        resource=volume.id,
        name=volume.name,
        region=volume.region,
        reason=f"{volume.size_gib} GiB {volume.volume_type}, attached to nothing {how_long}",
        usd_per_month=_month(view.rates.get(volume.id)),
        command=_command(volume.region, "aws", "ebs", "delete", volume.id, "--snapshot"),
    )


def _gp2(volume: Volume, view: View) -> Insight | None:
    """gp3 with what gp2 gives at this size, where that costs less."""
    if volume.volume_type != "gp2":
        return None
    iops = min(max(_GP2_IOPS_PER_GIB * volume.size_gib, catalog.GP3_INCLUDED_IOPS), _GP2_MOST_IOPS)
    mibs = catalog.GP3_INCLUDED_MIBS if volume.size_gib <= _GP2_SMALL_GIB else _GP2_MIBS
    return _changed(
        volume,
        view,
        topic=Topic.GP2,
        reason="gp3 gives as much and costs less",
        to=("gp3", iops, mibs),
    )


def _iops(volume: Volume, machines: Mapping[str, Instance], view: View) -> Insight | None:
    """Bought performance that the machine cannot draw, or that gp3 gives for less than io1."""
    if volume.volume_type not in {"gp3", "io1", "io2"} or volume.iops is None:
        return None
    machine = next((machines[one.instance] for one in volume.attachments if one.instance in machines), None)
    limit = view.limits.get(machine.instance_type) if machine else None
    kind, iops, mibs, reasons = volume.volume_type, volume.iops, volume.throughput_mibs, list[str]()
    if machine and limit and iops > max(limit.iops, catalog.GP3_INCLUDED_IOPS):
        reasons.append(f"{machine.instance_type} draws {limit.iops} IOPS at most, {iops} are bought")
        iops = max(limit.iops, catalog.GP3_INCLUDED_IOPS) if kind == "gp3" else limit.iops
    most_mibs = None if limit is None else int(limit.megabytes_per_second * 1_000_000 / 2**20)
    if machine and most_mibs and mibs and kind == "gp3" and mibs > max(most_mibs, catalog.GP3_INCLUDED_MIBS):
        reasons.append(f"{machine.instance_type} draws {most_mibs} MiB/s at most, {mibs} are bought")
        mibs = max(most_mibs, catalog.GP3_INCLUDED_MIBS)
    if kind == "io1" and iops <= _GP3_MOST_IOPS:
        reasons.append(f"gp3 gives {max(iops, catalog.GP3_INCLUDED_IOPS)} IOPS for less")
        kind, iops, mibs = "gp3", max(iops, catalog.GP3_INCLUDED_IOPS), _io1_mibs(iops)
    if not reasons:
        return None
    return _changed(volume, view, topic=Topic.IOPS, reason="; ".join(reasons), to=(kind, iops, mibs))


def _io1_mibs(iops: int) -> int:
    """What io1 gives at 256 KiB an operation, up to 500 MiB/s, within gp3's 0.25 MiB/s for each IOPS."""
    return max(catalog.GP3_INCLUDED_MIBS, min(500, iops // 4))


def _changed(
    volume: Volume, view: View, *, topic: Topic, reason: str, to: tuple[str, int, int | None]
) -> Insight | None:
    """The saving of another type or other figures; None where it would cost as much or more."""
    kind, iops, mibs = to
    after = catalog.volume_rate(
        kind, size_gib=volume.size_gib, iops=iops, throughput_mibs=mibs, region=volume.region
    )
    before = view.rates.get(volume.id)
    less = None if before is None or after is None else before.usd_per_hour - after.usd_per_hour
    if less is not None and less <= 0:
        return None
    options = ["--volume-type", kind] if kind != volume.volume_type else []
    if iops != (volume.iops if kind == volume.volume_type else None):
        options += ["--iops", str(iops)]
    if mibs is not None and (kind != volume.volume_type or mibs != volume.throughput_mibs):
        options += ["--throughput", str(mibs)]
    return Insight(
        topic=topic,
        resource=volume.id,
        name=volume.name,
        region=volume.region,
        reason=reason,
        usd_per_month=None if less is None else less * HOURS_PER_MONTH,
        command=_command(volume.region, "aws", "ebs", "modify", volume.id, *options),
    )


def _old(snapshot: Snapshot, view: View) -> Insight | None:
    """One whose volume is there still: the only copy of a volume that is gone is for `cleanup` to judge."""
    age = view.now - snapshot.started
    if snapshot.state != "completed" or age < OLD_SNAPSHOT or _is_kept(snapshot.tags):
        return None
    return Insight(
        topic=Topic.OLD,
        resource=snapshot.id,
        name=snapshot.name,
        region=snapshot.region,
        reason=f"{_days(age)} old, of {snapshot.volume}, in no image",
        usd_per_month=_month(view.rates.get(snapshot.id)),
        command=_command(snapshot.region, "aws", "ebs", "snapshot-delete", snapshot.id),
    )


def _command(region: str, *words: str) -> str:
    return " ".join(("runctl", *words, "--region", region))


def _month(price: Price | None) -> Decimal | None:
    return None if price is None else price.usd_per_hour * HOURS_PER_MONTH


def _days(length: timedelta) -> str:
    return f"{length.days} days" if length.days > 1 else f"{length // timedelta(hours=1)} hours"


def _busy(operation: Operation, seen: Inventory) -> frozenset[str]:
    """Instances on which a job of the ledger goes on, by its attempts or by its tag."""
    going = [job for job in operation.ledger.jobs.list(limit=_MANY) if not job.state.final]
    names = {str(job.id) for job in going}
    attempts = [attempt for job in going for attempt in operation.ledger.jobs.attempts(job.id)]
    on = {attempt.instance_id for attempt in attempts if attempt.instance_id}
    return frozenset(one.id for one in seen.instances if one.id in on or one.tags.get(TAG_JOB, "") in names)


def _limits(operation: Operation, sessions: Mapping[str, Session], seen: Inventory) -> dict[str, DiskLimits]:
    bought = {
        disk.instance
        for volume in seen.volumes
        if volume.volume_type in {"gp3", "io1", "io2"}
        and ((volume.iops or 0) > catalog.GP3_INCLUDED_IOPS or (volume.throughput_mibs or 0) > 125)
        for disk in volume.attachments
    }
    by_region: dict[str, set[str]] = {}
    for instance in seen.instances:
        if instance.id in bought:
            by_region.setdefault(instance.region, set()).add(instance.instance_type)
    found: dict[str, DiskLimits] = {}
    for region, types in by_region.items():
        try:
            found |= disk_limits.of_types(sessions[region], types)
        except TrainctlError as error:
            operation.emit(Notice(text=f"limits of types not read in {region}: {error}", warning=True))
    return found


def _since(operation: Operation, seen: Inventory) -> dict[str, datetime]:
    """When each resource entered its state, where the ledger saw it in another one before."""
    intervals = operation.ledger.resources.all_intervals(cloud=seen.cloud)
    return {name: found[-1].start for name, found in intervals.items() if len(found) > 1}


def _is_busy(
    operation: Operation, sessions: Mapping[str, Session], instance: Instance | None, found: Insight
) -> bool:
    """Whether a machine that seems idle may train after all: unknown counts as yes."""
    if found.topic is not Topic.IDLE or instance is None:
        return False
    seen = activity.detect(sessions[instance.region], operation.ledger, instance)
    return seen.activity is not Activity.IDLE
