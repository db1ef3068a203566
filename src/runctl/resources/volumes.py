"""Operations on volumes and snapshots: create, attach and mount, detach, move to another zone, delete."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any, Literal

import msgspec

from runctl.errors import Conflict, NotFound, ValidationError
from runctl.ledger import DONE
from runctl.model import (
    TAG_CREATED,
    TAG_MANAGED,
    TAG_PERSISTENT,
    TAG_PROJECT,
    TAG_PURPOSE,
    TAG_TRANSACTION,
    TAG_USER,
)
from runctl.pricing import catalog
from runctl.providers.aws import disks, instances, market, shell, snapshots, volumes
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Volume, VolumeSpec
from runctl.quoting import quoted
from runctl.resources import tuning
from runctl.resources.operation import Operation
from runctl.safety.protection import Request, marked
from runctl.safety.saga import Plan, PlannedStep, result_of

MODIFICATION_PATIENCE = timedelta(hours=6)
_TIMESTAMP = "%Y-%m-%dT%H:%M:%SZ"

Purpose = Literal["data", "checkpoints", "archive"]

PURPOSES: dict[str, dict[str, Any]] = {
    # gp3's included 125 MiB/s starve the readers of a GPU machine; 500 MiB/s are 15 USD a month.
    "data": {"volume_type": "gp3", "iops": 4000, "throughput_mibs": 500},
    "checkpoints": {"volume_type": "gp3", "iops": 3000, "throughput_mibs": 250},
    "archive": {"volume_type": "sc1"},
}
"""What a volume is for decides what is fitting where nothing else was said; sc1 needs 125 GiB at least."""


class VolumeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `runctl aws ebs create` was asked for; the size in GiB, throughput in MiB/s."""

    size_gib: int | None = None
    volume_type: str | None = None
    iops: int | None = None
    throughput_mibs: int | None = None
    encrypted: bool = True
    persistent: bool = False
    name: str = ""
    zone: str | None = None
    purpose: str | None = None
    machine: str | None = None
    snapshot: str | None = None
    initialization_rate_mibs: int | None = None
    project: str = ""
    user: str = ""


def spec_of(operation: Operation, request: VolumeRequest) -> VolumeSpec:
    """The volume that is asked for, checked. Raises ValidationError, Conflict for a name that is taken."""
    fitting = PURPOSES.get(request.purpose or "", {})
    own_type = request.volume_type not in {None, fitting.get("volume_type")}
    fitting = {} if own_type else fitting
    if request.machine and (request.volume_type or fitting.get("volume_type", "gp3")) == "gp3":
        catalog.instance_type(request.machine)  # a type that is not known is refused
        speed = tuning.gp3_for(request.machine, size_gib=request.size_gib or 1)
        fitting = msgspec.to_builtins(speed) if speed else fitting
    spec = VolumeSpec(
        zone=request.zone or "",
        size_gib=request.size_gib,
        volume_type=request.volume_type or fitting.get("volume_type") or "gp3",
        iops=request.iops or fitting.get("iops"),
        throughput_mibs=request.throughput_mibs or fitting.get("throughput_mibs"),
        encrypted=request.encrypted,
        snapshot=request.snapshot,
        initialization_rate_mibs=request.initialization_rate_mibs,
        tags=tags_of(operation, request),
    )
    volumes.check(spec)
    zone = request.zone or first_zone(operation)
    _free_name(operation, request.name)
    return msgspec.structs.replace(spec, zone=zone)


def plan_create(operation: Operation, request: VolumeRequest) -> Plan:
    """The steps of a new volume that can be attached."""
    spec = msgspec.to_builtins(spec_of(operation, request))
    steps = [
        _step("volume", "create-volume", {"spec": spec}),
        _step("available", "wait-volume", {"volume": result_of("volume")}),
    ]
    return operation.plan("create-volume", request.name or f"{request.size_gib} GiB", steps)


def plan_attach(operation: Operation, volume_id: str, instance_id: str, *, mount: str | None = None) -> Plan:
    """The steps of attaching, and mounting at a path. Raises Conflict for another zone or instance."""
    volume, instance = existing(operation, volume_id), existing_instance(operation, instance_id)
    if volume.zone != instance.zone:
        raise Conflict(
            f"{volume_id} is in {volume.zone}, {instance_id} in {instance.zone}",
            why="a volume can be attached in its own zone alone",
            next=f"runctl aws ebs restore {quoted(volume_id)} --availability-zone {quoted(instance.zone)}"
            f" --attach {quoted(instance_id)}",
        )
    for attachment in volume.attachments:
        if attachment.instance != instance_id:
            raise Conflict(
                f"{volume_id} is attached to {attachment.instance}",
                next=f"runctl aws ebs detach {quoted(volume_id)}",
            )
    place = {"volume": volume_id, "instance": instance_id}
    steps = [_step("attachment", "attach-volume", {**place, "was_attached": bool(volume.attachments)})]
    if mount:
        path = disks.mount_point(mount)
        _reachable(operation, instance_id)
        at = disks.mounted_at(operation.session, instance_id, volume_id) if volume.attachments else None
        if at not in {None, path}:
            raise Conflict(
                f"{volume_id} is mounted at {at} of {instance_id}",
                why=f"it is not taken from there for {path}",
                next=f"runctl aws ebs detach {quoted(volume_id)}",
            )
        steps.append(_step("mount", "mount", {**place, "path": path, "was_mounted": at is not None}))
    return operation.plan("attach-volume", volume_id, steps)


def plan_detach(operation: Operation, volume_id: str) -> Plan:
    """The steps of detaching: unmounted first. Raises Conflict for a root volume or one not attached."""
    volume = existing(operation, volume_id)
    if not volume.attachments:
        raise Conflict(
            f"{volume_id} is not attached", next=f"runctl aws ebs attach {quoted(volume_id)} INSTANCE"
        )
    attachment = volume.attachments[0]
    instance = existing_instance(operation, attachment.instance)
    place = {"volume": volume_id, "instance": instance.id, "device": attachment.device}
    if attachment.device == instance.root_device and instance.state != "stopped":
        raise Conflict(
            f"{volume_id} is the root volume of {instance.id}",
            next=f"runctl aws stop {quoted(instance.id)}",
        )
    steps: list[PlannedStep] = []
    if instance.state == "running":
        _reachable(operation, instance.id)
        at = disks.mounted_at(operation.session, instance.id, volume_id)
        steps.append(_step("unmount", "unmount", {**place, "path": at}))
    steps.append(_step("detachment", "detach-volume", place))
    return operation.plan("detach-volume", volume_id, steps)


def plan_restore(
    operation: Operation,
    source: str,
    request: VolumeRequest,
    *,
    attach: str | None = None,
    mount: str | None = None,
) -> Plan:
    """The steps of a volume from a snapshot, or from another volume through one, anywhere in the region."""
    zone, size = request.zone, request.size_gib
    if attach is not None:
        zone = existing_instance(operation, attach).zone
        if request.zone not in {None, zone}:
            raise ValidationError(f"{attach} is in {zone}, not in {request.zone}")
    steps: list[PlannedStep] = []
    tags = tags_of(operation, request)
    if source.startswith("vol-"):
        origin = existing(operation, source)
        size = size or origin.size_gib
        shape = msgspec.structs.replace(
            request,
            volume_type=request.volume_type or origin.volume_type,
            iops=request.iops or (origin.iops if origin.volume_type in {"io1", "io2", "gp3"} else None),
            throughput_mibs=request.throughput_mibs or origin.throughput_mibs,
            persistent=request.persistent or marked(origin.tags, TAG_PERSISTENT),
            encrypted=True,
        )
        tags = {key: value for key, value in origin.tags.items() if not key.startswith(("runctl:", "aws:"))}
        tags |= tags_of(operation, shape)
        tags["Name"] = request.name or origin.name or source
        steps = _snapshot_steps(operation, source, request, reason=f"to restore {source} in {zone}")
        snapshot: Any = result_of("snapshot")
        checked = shape
    else:
        found = existing_snapshot(operation, source)
        size, snapshot, checked = size or found.size_gib, source, request
        steps.append(_step("complete", "wait-snapshot", {"snapshot": source}))
    checked = msgspec.structs.replace(checked, size_gib=size, zone=zone, snapshot="snap-", name=request.name)
    spec = msgspec.to_builtins(spec_of(operation, checked))
    spec |= {"snapshot": snapshot, "tags": tags}
    steps += [
        _step("volume", "create-volume", {"spec": spec}),
        _step("available", "wait-volume", {"volume": result_of("volume")}),
    ]
    if attach is not None:
        place = {"volume": result_of("volume"), "instance": attach}
        steps.append(_step("attachment", "attach-volume", place))
        if mount:
            _reachable(operation, attach)
            steps.append(_step("mount", "mount", {**place, "path": mount}))
    return operation.plan("restore-volume", source, steps)


def plan_snapshot(operation: Operation, volume_id: str, request: VolumeRequest, *, description: str) -> Plan:
    """The steps of a snapshot that is complete at the end."""
    existing(operation, volume_id)
    steps = _snapshot_steps(operation, volume_id, request, reason=description)
    return operation.plan("create-snapshot", volume_id, steps)


def plan_delete(
    operation: Operation, volume_id: str, request: Request, *, snapshot_first: bool, own: VolumeRequest
) -> Plan:
    """The steps of a deletion, after a snapshot that was seen complete where one is asked for."""
    existing(operation, volume_id)
    asked: dict[str, Any] = {"volume": volume_id, "request": msgspec.to_builtins(request)}
    steps: list[PlannedStep] = []
    if snapshot_first:
        steps = _snapshot_steps(operation, volume_id, own, reason=f"before {volume_id} was deleted")
        asked["relies_on"] = result_of("snapshot")
    steps.append(_step("deletion", "delete-volume", asked))
    return operation.plan("delete-volume", volume_id, steps)


class Modification(msgspec.Struct, frozen=True, kw_only=True):
    """What is to change of a volume; checked."""

    volume: Volume
    changes: dict[str, Any]


def plan_modify(operation: Operation, volume_id: str, **changes: Any) -> Modification:
    """Another size, type or speed, as the type allows. Raises NotFound, ValidationError."""
    volume = existing(operation, volume_id)
    wanted = {name: value for name, value in changes.items() if value is not None}
    if not wanted:
        raise ValidationError("Nothing to modify", next="--size, --volume-type, --iops or --throughput")
    if (size := wanted.get("size_gib", volume.size_gib)) < volume.size_gib:
        raise ValidationError(
            f"{volume_id} has {volume.size_gib} GiB and cannot shrink to {size}",
            why="EBS volumes grow alone",
            next="copy the data to a smaller volume",
        )
    kind = wanted.get("volume_type", volume.volume_type)
    volumes.check(
        VolumeSpec(
            zone=volume.zone,
            size_gib=size,
            volume_type=kind,
            iops=wanted.get("iops", volume.iops if kind == volume.volume_type != "gp2" else None),
            throughput_mibs=wanted.get(
                "throughput_mibs", volume.throughput_mibs if kind == volume.volume_type else None
            ),
        )
    )
    return Modification(volume=volume, changes=wanted)


def modify(operation: Operation, plan: Modification) -> Volume:
    """Change a volume and wait until that is in force. Raises CloudError."""
    volumes.modify(operation.session, plan.volume.id, **plan.changes)
    return volumes.wait_modified(
        operation.session, plan.volume.id, timeout=MODIFICATION_PATIENCE, emit=operation.emit
    )


def existing(operation: Operation, volume_id: str) -> Volume:
    """A volume. Raises NotFound."""
    found = volumes.describe(operation.session, volume_id)
    if found is None:
        raise NotFound(
            f"There is no volume {volume_id} in {operation.session.region}",
            next="runctl aws ebs list, or another --region",
        )
    return found


def existing_instance(operation: Operation, instance_id: str) -> Instance:
    """An instance that has not ended. Raises NotFound."""
    found = instances.get(operation.session, instance_id)
    if found is None or found.state in {"shutting-down", "terminated"}:
        raise NotFound(
            f"There is no instance {instance_id} in {operation.session.region}",
            why=f"it is {found.state}" if found else "",
            next="runctl resources list, or another --region",
        )
    return found


def existing_snapshot(operation: Operation, snapshot_id: str) -> Snapshot:
    """A snapshot. Raises NotFound."""
    found = snapshots.describe(operation.session, snapshot_id)
    if found is None:
        raise NotFound(
            f"There is no snapshot {snapshot_id} in {operation.session.region}",
            next="runctl aws ebs snapshot-list, or another --region",
        )
    return found


def tags_of(operation: Operation, request: VolumeRequest) -> dict[str, str]:
    now = operation.session.cloud.clock.now()
    tags = {
        TAG_MANAGED: "true",
        TAG_USER: request.user,
        TAG_PROJECT: request.project,
        TAG_CREATED: now.strftime(_TIMESTAMP),
    }
    if request.name:
        tags["Name"] = request.name
    if request.persistent:
        tags[TAG_PERSISTENT] = "true"
    if request.purpose:
        tags[TAG_PURPOSE] = request.purpose
    return tags


def first_zone(operation: Operation) -> str:
    """A zone of the region that is open to the account."""
    return market.zones(operation.session)[0]


def _free_name(operation: Operation, name: str) -> None:
    if not name:
        return
    taken = volumes.listing(operation.session, [{"Name": "tag:Name", "Values": [name]}])
    if not taken:
        return
    made_by = taken[0].tags.get(TAG_TRANSACTION, "")
    with contextlib.suppress(NotFound):
        record = operation.ledger.journal.get(made_by)
        if record.outcome in {"finished", DONE}:
            # Whoever was killed before it could say so gives its command again.
            raise Conflict(
                f"There is a volume {name!r} already: {taken[0].id}",
                why=f"{record.operation} made it, and is finished: {record.id}",
                next="runctl aws ebs list; for a second volume choose another --name",
            )
    raise Conflict(
        f"There is a volume {name!r} already: {taken[0].id}",
        why="two volumes of one name are mixed up sooner or later",
        next="choose another --name, or runctl aws ebs list",
    )


def _snapshot_steps(
    operation: Operation, volume_id: str, request: VolumeRequest, *, reason: str
) -> list[PlannedStep]:
    volume = existing(operation, volume_id)
    tags = tags_of(operation, request)
    tags.setdefault("Name", volume.name or volume_id)
    return [
        _step(
            "snapshot", "create-snapshot", {"volume": volume_id, "description": reason[:255], "tags": tags}
        ),
        _step("complete", "wait-snapshot", {"snapshot": result_of("snapshot")}),
    ]


def _reachable(operation: Operation, instance_id: str) -> None:
    if not shell.is_online(operation.session, instance_id):
        raise Conflict(
            f"{instance_id} cannot be reached through SSM",
            why="file systems are mounted and unmounted on the machine itself",
            next=f"runctl aws wait {quoted(instance_id)} --state online",
        )


def _step(name: str, kind: str, request: dict[str, Any]) -> PlannedStep:
    return PlannedStep(name=name, kind=kind, requests=(request,))
