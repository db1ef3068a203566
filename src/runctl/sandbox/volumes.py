# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""EBS over moto's records: limits by type, zones, exclusive attachments, states that take time."""

from __future__ import annotations

from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models import EC2Backend
from moto.ec2.models.elastic_block_store import Snapshot, Volume, VolumeAttachment, VolumeModification
from moto.ec2.responses import EC2Response
from moto.ec2.responses.elastic_block_store import ElasticBlockStore

from runctl.sandbox.overlay import AwsError, cloud, now, page, replaces
from runctl.sandbox.state import ACCOUNT

SIZES = {
    "gp2": (1, 16_384),
    "gp3": (1, 65_536),
    "io1": (4, 16_384),
    "io2": (4, 65_536),
    "st1": (125, 16_384),
    "sc1": (125, 16_384),
    "standard": (1, 1_024),
}
IOPS = {"gp3": (3_000, 80_000, 500), "io1": (100, 64_000, 50), "io2": (100, 256_000, 1_000)}
"""Least, most, and most per GiB; gp3's least is included and needs no ratio."""
MODIFICATIONS, MODIFICATION_WINDOW = 4, 24 * 3600.0
_MOTO_STATUS = Volume.status.fget

Volume.status = property(lambda self: self.__dict__.get("sandbox_status") or _MOTO_STATUS(self))
Snapshot.volume_size = property(lambda self: self.__dict__.get("sandbox_size") or self.volume.size)
Snapshot.progress = property(lambda self: "100%" if self.status == "completed" else "37%")


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameterValue", message)


def check_limits(kind: str, size: int, iops: int | None, throughput: int | None) -> None:
    if kind not in SIZES:
        raise _invalid(f"Invalid value '{kind}' for VolumeType")
    least, most = SIZES[kind]
    if not least <= size <= most:
        raise _invalid(f"Volume of {size}GiB is invalid: {kind} takes {least} to {most} GiB")
    if iops is not None:
        if kind not in IOPS:
            raise AwsError(
                "InvalidParameterCombination", f"The parameter iops is not supported for {kind} volumes."
            )
        low, high, ratio = IOPS[kind]
        if not low <= iops <= high:
            raise _invalid(f"Iops of {iops} is invalid: {kind} takes {low} to {high}")
        if iops > max(low if kind == "gp3" else 0, ratio * size):
            raise _invalid(f"Iops to volume size ratio of {iops / size:.1f} is too high; maximum is {ratio}")
    elif kind in {"io1", "io2"}:
        raise AwsError("MissingParameter", f"The parameter iops must be specified for {kind} volumes.")
    if throughput is not None:
        if kind != "gp3":
            raise AwsError(
                "InvalidParameterCombination",
                f"The parameter throughput is not supported for {kind} volumes.",
            )
        if not 125 <= throughput <= 2_000 or throughput > (iops or 3_000) * 0.25:
            raise _invalid(f"Throughput of {throughput} MiB/s is invalid for {iops or 3_000} IOPS")


@replaces(EC2Backend, "create_volume")
def _create(
    original: Any, self: Any, size: Any, zone_name: str, snapshot_id: Any = None, **options: Any
) -> Any:
    if zone_name not in {zone.name for zone in self.describe_availability_zones()}:
        raise AwsError("InvalidZone.NotFound", f"The zone '{zone_name}' does not exist.")
    snapshot = self.snapshots.get(snapshot_id) if snapshot_id else None
    if snapshot is not None and snapshot.owner_id == ACCOUNT:
        if snapshot.status != "completed":
            raise AwsError("IncorrectState", f"Snapshot '{snapshot_id}' is not completed.")
        size = int(size or snapshot.volume_size)
        if size < snapshot.volume_size:
            raise _invalid(f"Volume of {size}GiB is smaller than snapshot '{snapshot_id}'")
    kind = options.get("volume_type") or "gp2"
    iops = int(options["iops"]) if options.get("iops") else None
    throughput = int(options["throughput"]) if options.get("throughput") else None
    if size is not None:
        check_limits(kind, int(size), iops, throughput)
    volume = original(self, size=size, zone_name=zone_name, snapshot_id=snapshot_id, **options)
    volume.create_time = now()
    known = snapshot_id if snapshot is not None and snapshot.owner_id == ACCOUNT else None
    cloud().disks.create(volume.id, int(volume.size), known)
    return volume


def records() -> list[Any]:
    """Every disk of the account."""
    from moto.ec2.models import ec2_backends

    return [disk for backend in ec2_backends[ACCOUNT].values() for disk in backend.volumes.values()]


def charge(volume: Any, job: str) -> None:
    """Begin, or change, what a disk costs."""
    cloud().usage.volume(
        volume.id,
        volume.volume_type,
        int(volume.size),
        int(volume.iops or 0),
        int(volume.throughput or 0),
        job,
    )


def drop(backend: Any, volume_id: str) -> None:
    """Forget a disk that a failed launch has made."""
    backend.volumes.pop(volume_id, None)
    cloud().disks.delete(volume_id)


@replaces(ElasticBlockStore, "create_volume")
def _create_call(original: Any, self: Any) -> Any:
    token = self._get_param("ClientToken")
    asked = sorted((key, str(value)) for key, value in self.data.items() if key != "ClientToken")
    tokens: dict[str, Any] = self.ec2_backend.__dict__.setdefault("sandbox_volume_tokens", {})
    if token in tokens:
        volume, before = tokens[token]
        if before != asked:
            raise AwsError("IdempotentParameterMismatch", "The client token was used with other parameters.")
        return ActionResult(volume)
    result = original(self)
    volume = result.result
    tags = {tag["key"]: tag["value"] for tag in volume.get_tags()}
    charge(volume, tags.get("runctl:job", ""))
    volume.sandbox_status = "creating"
    cloud().born(volume.id)
    cloud().after(cloud().timing.volume, volume.__dict__.pop, "sandbox_status", None)
    if token:
        tokens[token] = (volume, asked)
    return result


@replaces(EC2Backend, "attach_volume")
def _attach(
    original: Any,
    self: Any,
    volume_id: str,
    instance_id: str,
    device_path: str,
    delete_on_termination: bool = False,
) -> Any:
    volume, instance = self.get_volume(volume_id), self.get_instance(instance_id)
    if volume.attachment:
        raise AwsError("VolumeInUse", f"{volume_id} is already attached to an instance")
    if volume.status != "available":
        raise AwsError("IncorrectState", f"Volume '{volume_id}' is not 'available'.")
    machine = cloud().machines.get(instance_id)
    launching = machine is None and instance._state.name == "pending"
    if instance._state.name not in {"running", "stopped"} and not launching:
        raise AwsError("IncorrectState", f"Instance '{instance_id}' is not 'running'.")
    if volume.zone.name != instance.availability_zone:
        raise AwsError(
            "InvalidVolume.ZoneMismatch",
            f"The volume '{volume_id}' is not in the same availability zone as instance '{instance_id}'",
        )
    if device_path in instance.block_device_mapping:
        raise _invalid(
            f"Invalid value '{device_path}' for unixDevice. Attachment point {device_path} is already in use"
        )
    attachment = original(self, volume_id, instance_id, device_path, delete_on_termination)
    if not launching:
        attachment.status = "attaching"
        cloud().after(cloud().timing.attach, _attached, attachment, volume_id, instance_id, device_path)
    return attachment


def _attached(attachment: Any, volume_id: str, instance_id: str, device: str) -> None:
    machine = cloud().machines.get(instance_id)
    if machine is not None:
        machine.plug(volume_id, device, cloud().disks.path(volume_id))
    attachment.status = "attached"


@replaces(EC2Backend, "detach_volume")
def _detach(original: Any, self: Any, volume_id: str, instance_id: Any, *_: Any) -> Any:
    volume = self.get_volume(volume_id)
    attachment = volume.attachment
    if not attachment:
        raise AwsError("IncorrectState", f"Volume '{volume_id}' is in the 'available' state.")
    instance = attachment.instance
    if instance_id and instance.id != instance_id:
        raise AwsError(
            "InvalidAttachment.NotFound",
            f"The volume '{volume_id}' is not attached to instance '{instance_id}'",
        )
    machine = cloud().machines.get(instance.id)
    if machine is None or instance._state.name in {"shutting-down", "terminated"}:
        return original(self, volume_id, instance.id, attachment.device)
    if attachment.device == instance.root_device_name and instance._state.name != "stopped":
        raise AwsError(
            "OperationNotPermitted", f"Unable to detach root volume '{volume_id}' from '{instance.id}'"
        )
    attachment.status = "detaching"
    cloud().after(cloud().timing.detach, _detached, original, self, volume, attachment)
    return attachment


def _detached(original: Any, backend: Any, volume: Any, attachment: Any) -> None:
    """A disk that is still mounted stays in `detaching`, as on EC2."""
    machine = cloud().machines.get(attachment.instance.id)
    if volume.attachment is not attachment:
        return
    if machine is not None and not machine.unplug(volume.id):
        cloud().after(cloud().timing.detach, _detached, original, backend, volume, attachment)
        return
    original(backend, volume.id, attachment.instance.id, attachment.device)


@replaces(EC2Backend, "delete_volume")
def _delete(original: Any, self: Any, volume_id: str) -> Any:
    result = original(self, volume_id)
    cloud().disks.delete(volume_id)
    cloud().usage.volume_deleted(volume_id)
    return result


@replaces(EC2Backend, "modify_volume")
def _modify(
    original: Any, self: Any, volume_id: str, target_size: Any = None, *rest: Any, **options: Any
) -> Any:
    volume = self.get_volume(volume_id)
    kind, iops, throughput = ((*rest, None, None, None))[:3]
    _check_pace(volume)
    size = int(target_size or volume.size)
    if size < volume.size:
        raise _invalid("New size cannot be smaller than existing size")
    kind = kind or volume.volume_type
    iops = int(iops) if iops else _kept(volume.iops, kind in IOPS)
    throughput = int(throughput) if throughput else _kept(volume.throughput, kind == "gp3")
    check_limits(kind, size, 3_000 if kind == "gp3" and iops is None else iops, throughput)
    result = original(self, volume_id, target_size, *rest, **options)
    volume.iops = iops if iops is not None else (3_000 if kind == "gp3" else None)
    volume.throughput = throughput
    cloud().disks.grow(volume_id, size)
    charge(volume, "")
    return result


def _kept(value: Any, applies: bool) -> int | None:
    return int(value) if value and applies else None


def _check_pace(volume: Any) -> None:
    """One change at a time, and four in 24 hours."""
    past = volume.modifications
    if past and past[-1].modification_state != "completed":
        raise AwsError(
            "IncorrectModificationState",
            f"Volume '{volume.id}' has a modification in state '{past[-1].modification_state}'.",
        )
    if len([one for one in past if _age(one) < MODIFICATION_WINDOW]) >= MODIFICATIONS:
        raise AwsError(
            "VolumeModificationRateExceeded",
            "You've reached the maximum modification rate per volume limit.",
        )


def _age(modification: Any) -> float:
    return (now() - modification.start_time).total_seconds()


def _phase(modification: Any) -> str:
    age, times = _age(modification), cloud().timing
    if age >= times.modify + times.optimize:
        return "completed"
    return "modifying" if age < times.modify else "optimizing"


VolumeModification.modification_state = property(_phase)
VolumeModification.progress = property(lambda self: 100 if _phase(self) == "completed" else 0)


@replaces(EC2Backend, "create_snapshot")
def _snapshot(
    original: Any, self: Any, volume_id: str, description: str, owner_id: Any = None, from_ami: Any = None
) -> Any:
    snapshot = original(self, volume_id, description, owner_id, from_ami)
    if from_ami or owner_id:
        return snapshot
    snapshot.sandbox_size, snapshot.status = int(snapshot.volume.size), "pending"
    snapshot.start_time = now()
    cloud().disks.snapshot(volume_id, snapshot.id)  # the point in time is now
    cloud().born(snapshot.id)
    cloud().after(cloud().timing.snapshot, setattr, snapshot, "status", "completed")
    return snapshot


@replaces(EC2Backend, "copy_snapshot")
def _copy_snapshot(original: Any, self: Any, source_snapshot_id: str, source_region: str, **rest: Any) -> Any:
    from moto.ec2.models import ec2_backends

    source = ec2_backends[ACCOUNT][source_region].get_snapshot(source_snapshot_id)
    if source.status != "completed":
        raise AwsError("IncorrectState", f"Snapshot '{source_snapshot_id}' is not completed.")
    copy = original(self, source_snapshot_id=source_snapshot_id, source_region=source_region, **rest)
    copy.sandbox_size, copy.status, copy.start_time = source.volume_size, "pending", now()
    cloud().disks.copy_snapshot(source_snapshot_id, copy.id)
    cloud().born(copy.id)
    cloud().after(cloud().timing.snapshot, setattr, copy, "status", "completed")
    return copy


@replaces(EC2Backend, "delete_snapshot")
def _delete_snapshot(original: Any, self: Any, snapshot_id: str) -> Any:
    result = original(self, snapshot_id)
    cloud().disks.delete_snapshot(snapshot_id)
    return result


@replaces(ElasticBlockStore, "describe_snapshots")
def _describe_snapshots(original: Any, self: Any) -> Any:
    self.error_on_dryrun()
    result = original(self)
    owners = {ACCOUNT if owner == "self" else owner for owner in self._get_param("OwnerIds", [])}
    rows = [item for item in result.result["Snapshots"] if not owners or item.owner_id in owners]
    shown, following = page(rows, self)
    return ActionResult({"Snapshots": shown, "NextToken": following})


@replaces(ElasticBlockStore, "describe_volumes")
def _describe_volumes(original: Any, self: Any) -> Any:
    self.error_on_dryrun()
    result = original(self)
    shown, following = page(result.result["Volumes"], self)
    return ActionResult({"Volumes": shown, "NextToken": following})


@replaces(Volume, "get_filter_value")
def _filter_value(original: Any, self: Any, name: str, *rest: Any) -> Any:
    if name == "attachment.delete-on-termination":
        return str(self.attachment.delete_on_termination).lower() if self.attachment else None
    own = {"volume-type": self.volume_type, "size": str(self.size)}
    return own[name] if name in own else original(self, name, *rest)


def _dies_with_instance(attachment: Any) -> bool:
    disk = attachment.instance.block_device_mapping.get(attachment.device)
    return bool(disk is not None and disk.delete_on_termination)


VolumeAttachment.delete_on_termination = property(_dies_with_instance)


def _volume_status(self: Any) -> Any:
    volumes = self.ec2_backend.describe_volumes(self._get_param("VolumeIds", []) or None)
    return ActionResult(
        {
            "VolumeStatuses": [
                {
                    "VolumeId": volume.id,
                    "AvailabilityZone": volume.zone.name,
                    "VolumeStatus": {"Status": "ok"},
                }
                for volume in volumes
            ]
        }
    )


EC2Response.describe_volume_status = _volume_status
