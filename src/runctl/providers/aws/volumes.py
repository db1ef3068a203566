"""EBS volumes: their limits, and the calls that make, attach, change and delete them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from runctl.errors import CloudError, NotFound, ValidationError
from runctl.events import Emit, Progress
from runctl.providers.aws.session import Session
from runctl.providers.aws.waiting import Pause

if TYPE_CHECKING:
    from runctl.providers.aws.instances import Instance

UNSEEN_PATIENCE = timedelta(seconds=60)
"""How long a new volume may be unknown to EC2 before it is believed to be gone (eventual consistency)."""

_DEVICES = tuple(f"/dev/sd{letter}" for letter in "fghijklmnop")


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A volume at an instance; `state` is attaching, attached, detaching or busy."""

    volume: str
    instance: str
    device: str
    state: str
    delete_on_termination: bool


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """What EC2 says of a volume: size in GiB, throughput in MiB/s."""

    id: str
    region: str
    zone: str
    volume_type: str
    size_gib: int
    iops: int | None
    throughput_mibs: int | None
    encrypted: bool
    state: str
    created: datetime
    snapshot: str | None
    attachments: tuple[Attachment, ...]
    tags: dict[str, str]

    @property
    def name(self) -> str:
        return self.tags.get("Name", "")


class VolumeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume shall be: size in GiB, throughput and initialization rate in MiB/s."""

    zone: str
    size_gib: int | None = None
    volume_type: str = "gp3"
    iops: int | None = None
    throughput_mibs: int | None = None
    encrypted: bool = True
    snapshot: str | None = None
    initialization_rate_mibs: int | None = None
    tags: dict[str, str] = {}


class _Limits(msgspec.Struct, frozen=True):
    """Of one type: sizes in GiB, IOPS that can be asked for, IOPS per GiB at most."""

    least_gib: int
    most_gib: int
    least_iops: int = 0
    most_iops: int = 0
    iops_per_gib: int = 0


_LIMITS = {
    "gp3": _Limits(1, 65_536, 3_000, 80_000, 500),
    "gp2": _Limits(1, 16_384),
    "io1": _Limits(4, 16_384, 100, 64_000, 50),
    "io2": _Limits(4, 65_536, 100, 256_000, 1_000),
    "st1": _Limits(125, 16_384),
    "sc1": _Limits(125, 16_384),
    "standard": _Limits(1, 1_024),
}
"""Sources: CreateVolume and ModifyVolume in EC2's API model, and the EBS guide on volume types."""

_GP3_THROUGHPUT = (125, 2_000)
_GP3_IOPS_PER_MIBS = 4  # 0.25 MiB/s for each IOPS: the EBS guide on gp3
_INITIALIZATION_RATE = (100, 300)


def check(spec: VolumeSpec) -> None:
    """Raises ValidationError for what EBS would refuse, with the nearest that it accepts."""
    limits = _LIMITS.get(spec.volume_type)
    if limits is None:
        raise ValidationError(
            f"Unknown volume type {spec.volume_type!r}", next=f"one of {', '.join(_LIMITS)}"
        )
    kind = spec.volume_type
    if spec.size_gib is None and spec.snapshot is None:
        raise ValidationError("A volume needs a size or a snapshot", next="--size GIB")
    if spec.size_gib is not None:
        _within(f"the size of {kind}", spec.size_gib, limits.least_gib, limits.most_gib, "GiB")
    if spec.iops is None and kind in {"io1", "io2"}:
        raise ValidationError(
            f"{kind} needs a number of IOPS", next=f"--iops {limits.least_iops} or more, or --volume-type gp3"
        )
    if spec.iops is not None:
        if not limits.most_iops:
            raise ValidationError(
                f"{kind} takes no number of IOPS", why="its size decides", next="--volume-type gp3"
            )
        _within(f"the IOPS of {kind}", spec.iops, limits.least_iops, limits.most_iops, "IOPS")
        most = max(limits.least_iops, (spec.size_gib or limits.most_gib) * limits.iops_per_gib)
        if spec.iops > most:
            raise ValidationError(
                f"{spec.iops} IOPS are too many for {spec.size_gib} GiB of {kind}",
                why=f"at most {limits.iops_per_gib} IOPS for each GiB",
                next=f"--iops {most}, or --size {-(-spec.iops // limits.iops_per_gib)}",
            )
    _check_throughput(spec)
    if spec.initialization_rate_mibs is not None:
        if spec.snapshot is None:
            raise ValidationError(
                "An initialization rate needs a snapshot", why="an empty volume has nothing to be filled with"
            )
        _within("the initialization rate", spec.initialization_rate_mibs, *_INITIALIZATION_RATE, "MiB/s")


def _check_throughput(spec: VolumeSpec) -> None:
    if spec.throughput_mibs is None:
        return
    if spec.volume_type != "gp3":
        raise ValidationError(
            f"{spec.volume_type} takes no throughput", why="gp3 alone does", next="--volume-type gp3"
        )
    _within("the throughput of gp3", spec.throughput_mibs, *_GP3_THROUGHPUT, "MiB/s")
    needed = spec.throughput_mibs * _GP3_IOPS_PER_MIBS
    if needed > (spec.iops or _LIMITS["gp3"].least_iops):
        raise ValidationError(
            f"{spec.throughput_mibs} MiB/s need {needed} IOPS",
            why="gp3 gives 0.25 MiB/s for each IOPS",
            next=f"--iops {needed}",
        )


def _within(what: str, value: int, least: int, most: int, unit: str) -> None:
    if not least <= value <= most:
        raise ValidationError(
            f"{value} {unit} is not possible",
            why=f"{what} is from {least:,} to {most:,} {unit}",
            next=f"the nearest is {min(max(value, least), most)}",
        )


def create_parameters(spec: VolumeSpec, token: str) -> dict[str, Any]:
    """The whole CreateVolume request; its token makes it idempotent."""
    tags = [{"Key": key, "Value": value} for key, value in spec.tags.items()]
    given = {
        "Size": spec.size_gib,
        "Iops": spec.iops,
        "Throughput": spec.throughput_mibs,
        "SnapshotId": spec.snapshot,
        "VolumeInitializationRate": spec.initialization_rate_mibs,
        "TagSpecifications": [{"ResourceType": "volume", "Tags": tags}] if tags else None,
    }
    return {
        "ClientToken": token,
        "AvailabilityZone": spec.zone,
        "VolumeType": spec.volume_type,
        "Encrypted": spec.encrypted,
        **{name: value for name, value in given.items() if value is not None},
    }


def create(session: Session, parameters: dict[str, Any]) -> Volume:
    """Create, or find again, the volume of this request. Raises CapacityError, CloudError."""
    return _volume(session, session.call("ec2", "create_volume", **parameters))


def describe(session: Session, volume_id: str) -> Volume | None:
    """What EC2 says of a volume; None where it knows none of this id (yet, or any more)."""
    found = listing(session, [{"Name": "volume-id", "Values": [volume_id]}])
    return found[0] if found else None


def listing(session: Session, filters: Sequence[dict[str, Any]] = ()) -> list[Volume]:
    """Every volume of the region that passes the filters."""
    rows = session.pages("ec2", "describe_volumes", "Volumes", Filters=list(filters), MaxResults=500)
    return [_volume(session, row) for row in rows]


def attach(session: Session, volume_id: str, instance_id: str, device: str) -> None:
    """Ask for an attachment; one that is there already is fine. Raises CloudError."""
    try:
        session.call(
            "ec2",
            "attach_volume",
            VolumeId=volume_id,
            InstanceId=instance_id,
            Device=device,
            exists=lambda: describe(session, volume_id) is not None,
        )
    except CloudError as error:
        volume = describe(session, volume_id)
        if error.code != "VolumeInUse" or volume is None or not _is_at(volume, instance_id):
            raise


def detach(session: Session, volume_id: str, instance_id: str) -> None:
    """Ask for a detachment; a volume that is free already is fine. Raises CloudError."""
    try:
        session.call("ec2", "detach_volume", VolumeId=volume_id, InstanceId=instance_id)
    except (CloudError, NotFound):
        volume = describe(session, volume_id)
        if volume is None or any(
            found.instance == instance_id and found.state not in {"detaching", "detached"}
            for found in volume.attachments
        ):
            raise


def modify(
    session: Session,
    volume_id: str,
    *,
    size_gib: int | None = None,
    volume_type: str | None = None,
    iops: int | None = None,
    throughput_mibs: int | None = None,
) -> None:
    """Ask for a change; one that is so already is fine. Raises CloudError."""
    asked = {"Size": size_gib, "VolumeType": volume_type, "Iops": iops, "Throughput": throughput_mibs}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    session.call(
        "ec2",
        "modify_volume",
        VolumeId=volume_id,
        exists=lambda: describe(session, volume_id) is not None,
        **changes,
    )


def delete(session: Session, volume_id: str) -> None:
    """Delete a volume; one that is gone is fine. To be called by `safety.destroy` alone."""
    try:
        session.call(
            "ec2",
            "delete_volume",
            VolumeId=volume_id,
            exists=lambda: describe(session, volume_id) is not None,
        )
    except NotFound:
        return


def free_device(instance: Instance) -> str:
    """A device name for one more volume. Raises ValidationError where all eleven are taken."""
    taken = {disk.device for disk in instance.disks}
    for device in _DEVICES:
        if device not in taken and device.replace("sd", "xvd") not in taken:
            return device
    raise ValidationError(
        f"{instance.id} has no free device name", why="/dev/sdf to /dev/sdp are taken", next="detach a volume"
    )


def wait_available(session: Session, volume_id: str, *, timeout: timedelta, emit: Emit) -> Volume:
    """Wait until a volume can be attached. Raises CloudError for one in `error`, and after `timeout`."""
    return _wait(session, volume_id, "available", lambda found: found.state == "available", timeout, emit)


def wait_attached(
    session: Session, volume_id: str, instance_id: str, *, timeout: timedelta, emit: Emit
) -> Volume:
    """Wait until the attachment is `attached`: the volume is `in-use` before. Raises as `wait_available`."""

    def is_attached(found: Volume) -> bool:
        return any(
            attachment.instance == instance_id and attachment.state == "attached"
            for attachment in found.attachments
        )

    return _wait(session, volume_id, "attached", is_attached, timeout, emit)


def wait_detached(session: Session, volume_id: str, *, timeout: timedelta, emit: Emit) -> Volume:
    """Wait until a volume is at no instance. Raises as `wait_available`."""

    def is_free(found: Volume) -> bool:
        return found.state == "available" and not found.attachments

    return _wait(session, volume_id, "detached", is_free, timeout, emit)


def wait_modified(session: Session, volume_id: str, *, timeout: timedelta, emit: Emit) -> Volume:
    """Wait until a change is in force (`optimizing` goes on behind it). Raises CloudError where it failed."""
    deadline, pause = session.cloud.clock.now() + timeout, Pause(session.cloud.clock)
    while session.cloud.clock.now() < deadline:
        try:
            rows = session.call("ec2", "describe_volumes_modifications", VolumeIds=[volume_id])
        except NotFound:  # EC2 does not show it yet
            pause.take()
            continue
        states = [row.get("ModificationState") for row in rows.get("VolumesModifications", [])]
        if "failed" in states:
            raise _error(volume_id, "VolumeModificationFailed", "EBS could not carry out the change")
        if "modifying" not in states:
            found = describe(session, volume_id)
            if found is not None:
                return found
        emit(Progress(task=f"{volume_id} is being modified", done=0, total=None))
        pause.take()
    raise _error(volume_id, "TimedOut", f"it is still being modified after {timeout}")


def _wait(
    session: Session,
    volume_id: str,
    what: str,
    is_so: Callable[[Volume], bool],
    timeout: timedelta,
    emit: Emit,
) -> Volume:
    begun, pause = session.cloud.clock.now(), Pause(session.cloud.clock)
    while True:
        found = describe(session, volume_id)
        waited = session.cloud.clock.now() - begun
        if found is not None and found.state == "error":
            raise _error(volume_id, "VolumeError", "EBS put it into the state `error`")
        if found is not None and is_so(found):
            return found
        if (found is None and waited > UNSEEN_PATIENCE) or (found and found.state in {"deleting", "deleted"}):
            raise _error(volume_id, "VolumeGone", "it is not there any more")
        if waited > timeout:
            busy = found is not None and any(one.state == "busy" for one in found.attachments)
            held = ": it is still mounted on its machine" if busy else ""
            raise _error(volume_id, "TimedOut", f"it is not {what} after {timeout}{held}")
        emit(
            Progress(
                task=f"waiting for {volume_id} to be {what}",
                done=waited.total_seconds(),
                total=None,
                unit="s",
            )
        )
        pause.take()


def _error(volume_id: str, code: str, why: str) -> CloudError:
    return CloudError(
        f"{volume_id} is not as it should be",
        service="ec2",
        operation="describe_volumes",
        code=code,
        why=why,
        next="runctl aws ebs list",
    )


def _is_at(volume: Volume, instance_id: str) -> bool:
    return any(found.instance == instance_id for found in volume.attachments)


def _volume(session: Session, row: dict[str, Any]) -> Volume:
    return Volume(
        id=row["VolumeId"],
        region=session.region,
        zone=row["AvailabilityZone"],
        volume_type=row["VolumeType"],
        size_gib=row["Size"],
        iops=row.get("Iops"),
        throughput_mibs=row.get("Throughput"),
        encrypted=bool(row.get("Encrypted")),
        state=row["State"],
        created=row["CreateTime"].astimezone(UTC),
        snapshot=row.get("SnapshotId") or None,
        attachments=tuple(_attachment(found) for found in row.get("Attachments", [])),
        tags={tag["Key"]: tag["Value"] for tag in row.get("Tags", [])},
    )


def _attachment(row: dict[str, Any]) -> Attachment:
    return Attachment(
        volume=row["VolumeId"],
        instance=row.get("InstanceId", ""),
        device=row.get("Device", ""),
        state=row["State"],
        delete_on_termination=bool(row.get("DeleteOnTermination")),
    )
