# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""RunInstances: checked as AWS checks it, once per client token, with its disks, tags and market."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES
from moto.ec2.models.instances import Instance
from moto.ec2.responses.instances import InstanceResponse

from runctl.sandbox import images, instances, spot, volumes
from runctl.sandbox.overlay import (
    AwsError,
    ServerError,
    asked,
    asked_tags,
    asked_template,
    cloud,
    replaces,
    tag_of,
)

_LIVE = {"pending", "running", "stopping"}
_USER_DATA_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class DiskOrder:
    """A disk that a launch brings."""

    device: str
    size: int
    kind: str
    iops: int | None
    throughput: int | None
    encrypted: bool
    snapshot: str | None
    dies_with_instance: bool


# Disks are made by `_furnish`, from the orders; moto's own two ways would make them a second time.
Instance.setup_defaults = lambda *_: None
Instance.add_block_device = lambda *_, **__: None


_record: Callable[[Any], Any] = InstanceResponse.run_instances


@replaces(InstanceResponse, "run_instances")
def _run_instances(_: Any, call: Any) -> Any:
    token = asked(call, "ClientToken")
    request = json.dumps(
        {key: value for key, value in call.data.items() if key != "ClientToken"}, sort_keys=True, default=str
    )
    tokens: dict[str, Any] = call.ec2_backend.__dict__.setdefault("sandbox_tokens", {})
    if token in tokens:
        reservation, before = tokens[token]
        return _repeated(reservation, before, request)
    reservation = launch(call)
    if token:
        tokens[token] = (reservation, request)
    return ActionResult(reservation)


def _repeated(reservation: Any, before: str, request: str) -> Any:
    if before != request:
        raise AwsError(
            "IdempotentParameterMismatch",
            "The client token you have provided is associated with a resource that is already launched, "
            "please specify a different client token.",
        )
    if all(instance.state in {"shutting-down", "terminated"} for instance in reservation.instances):
        raise AwsError(
            "IdempotentInstanceTerminated",
            "The client token you have provided is associated with an instance that was terminated.",
        )
    return ActionResult(reservation)


def launch(call: Any) -> Any:
    """Launch what the call's parameters ask for, all of it or nothing, and return the reservation."""
    _fill_in_template(call)
    _resolve_image(call)
    _check_request(call)
    disks = _disk_orders(call)
    call.error_on_dryrun()
    kind, zone = asked(call, "InstanceType", "m1.small"), _zone(call)
    market = asked(call, "InstanceMarketOptions.MarketType") or "on-demand"
    count = int(asked(call, "MaxCount") or 1)
    _check_offered(kind, zone, call.region)
    _check_capacity(kind, zone, market, count)
    ceiling = asked(call, "InstanceMarketOptions.SpotOptions.MaxPrice")
    spot.check_ceiling(kind, zone, market, ceiling)
    call.params["MinCount"] = count  # which is all that moto looks at
    backend = call.ec2_backend
    before = set(backend.reservations)
    try:
        reservation = _record(call).result
        for instance in reservation.instances:
            _admit(instance, disks, call, ceiling if market == "spot" else None, market)
    except BaseException:
        for unfinished in set(backend.reservations) - before:
            for instance in backend.reservations.pop(unfinished).instances:
                for _, disk in instance.get_block_device_mapping:
                    cloud().usage.volume_deleted(disk.volume_id)
                    volumes.drop(backend, disk.volume_id)
        raise
    return reservation


def _admit(instance: Any, disks: list[DiskOrder], call: Any, ceiling: str | None, market: str) -> None:
    """From a record of moto's to a machine that is about to boot."""
    backend = instance.ec2_backend
    instance.sandbox_ends_on_shutdown = instance.instance_initiated_shutdown_behavior == "terminate"
    instance.state_reason = None
    instance.lifecycle = "spot" if market == "spot" else None
    instances.enter(instance, "pending")
    for nic in instance.nics.values():
        nic.delete_on_termination = True
        nic.add_tags(asked_tags(call, "network-interface"))
    for order in disks:
        _furnish(instance, order, asked_tags(call, "volume"))
    if market == "spot":
        spot.open_request(backend, instance, ceiling, call)
    cloud().born(instance.id, *(disk.volume_id for _, disk in instance.get_block_device_mapping))
    cloud().after(cloud().timing.boot * cloud().jitter(), instances.boot, instance)


def _furnish(instance: Any, order: DiskOrder, tags: dict[str, str]) -> None:
    backend = instance.ec2_backend
    volume = backend.create_volume(
        size=order.size,
        zone_name=instance.availability_zone,
        snapshot_id=order.snapshot,
        encrypted=order.encrypted,
        volume_type=order.kind,
        iops=order.iops,
        throughput=order.throughput,
    )
    volume.add_tags(tags)
    backend.attach_volume(volume.id, instance.id, order.device, order.dies_with_instance)
    instance.block_device_mapping[order.device].delete_on_termination = order.dies_with_instance
    volumes.charge(volume, tags.get("runctl:job") or tag_of(instance, "runctl:job"))


# What is asked for


def _fill_in_template(call: Any) -> None:
    """What a launch template says counts where the call says nothing."""
    for name, value in asked_template(call).items():
        if name not in {"UserData", "TagSpecifications"}:
            call.params.setdefault(name, value)


def _resolve_image(call: Any) -> None:
    image = asked(call, "ImageId") or ""
    if image.startswith("resolve:ssm:"):
        from moto.ssm.models import ssm_backends

        name = image.removeprefix("resolve:ssm:")
        found = ssm_backends[call.current_account][call.region].get_parameter(name)
        if found is None:
            raise AwsError("InvalidParameterValue", f"The parameter {name} could not be resolved")
        call.params["ImageId"] = found.value


def _check_request(call: Any) -> None:
    _check_profile(call)
    least, most = int(asked(call, "MinCount") or 1), int(asked(call, "MaxCount") or 1)
    if not 1 <= least <= most:
        raise AwsError("InvalidParameterValue", f"Invalid value for MinCount and MaxCount: {least}, {most}")
    user_data = asked(call, "UserData") or ""
    if len(str(user_data)) * 3 // 4 > _USER_DATA_BYTES:
        raise AwsError("InvalidParameterValue", "User data is limited to 16384 bytes")
    if asked(call, "InstanceMarketOptions.MarketType") not in {None, "spot", "on-demand"}:
        raise NotImplementedError("markets other than spot and on-demand")
    options = asked(call, "InstanceMarketOptions.SpotOptions", {})
    lasting = options.get("InstanceInterruptionBehavior", "terminate") != "terminate"
    if lasting and options.get("SpotInstanceType") != "persistent":
        raise AwsError(
            "InvalidParameterCombination",
            "The interruption behaviors stop and hibernate need a persistent Spot Instance request.",
        )


def _check_profile(call: Any) -> None:
    from moto.iam.models import iam_backends

    profiles = iam_backends[call.current_account][call.partition].instance_profiles.values()
    for attribute, known in (
        ("Name", {profile.name for profile in profiles}),
        ("Arn", {profile.arn for profile in profiles}),
    ):
        given = asked(call, f"IamInstanceProfile.{attribute}")
        if given and given not in known:
            raise AwsError(
                "InvalidParameterValue",
                f"Value ({given}) for parameter iamInstanceProfile.{attribute.lower()} is invalid. "
                f"Invalid IAM Instance Profile {'name' if attribute == 'Name' else 'ARN'}",
            )


def _zone(call: Any) -> str:
    subnet = asked(call, "SubnetId")
    if subnet:
        return call.ec2_backend.get_subnet(subnet).availability_zone
    return asked(call, "Placement.AvailabilityZone") or f"{call.region}a"


def _disk_orders(call: Any) -> list[DiskOrder]:
    """The root disk, as the image has it where the call says nothing, and the others. Refuses bad ones."""
    image = asked(call, "ImageId")
    record = call.ec2_backend.amis.get(image)
    root = record.root_device_name if record is not None else images.ROOT_DEVICE
    least = images.root_gib(call.ec2_backend, image)
    given = {mapping["DeviceName"]: mapping for mapping in asked(call, "BlockDeviceMappings") or []}
    orders = []
    for device, mapping in {root: {}, **given}.items():
        if "NoDevice" in mapping or "VirtualName" in mapping:
            continue
        orders.append(_disk_order(device, mapping.get("Ebs", {}), least if device == root else None, call))
    return orders


def _disk_order(device: str, ebs: dict[str, Any], least: int | None, call: Any) -> DiskOrder:
    snapshot = ebs.get("SnapshotId")
    size = ebs.get("VolumeSize") or least
    if size is None and snapshot in call.ec2_backend.snapshots:
        size = call.ec2_backend.snapshots[snapshot].volume_size
    if size is None:
        raise AwsError("MissingParameter", "The request must contain the parameter size or snapshotId")
    if least is not None and int(size) < least:
        raise AwsError(
            "InvalidBlockDeviceMapping",
            f"Volume of size {size}GB is smaller than snapshot of the image, expect size >= {least}GB",
        )
    order = DiskOrder(
        device=device,
        size=int(size),
        kind=ebs.get("VolumeType") or ("gp3" if least is not None else "gp2"),
        iops=int(ebs["Iops"]) if ebs.get("Iops") else None,
        throughput=int(ebs["Throughput"]) if ebs.get("Throughput") else None,
        encrypted=str(ebs.get("Encrypted", False)).lower() == "true",
        snapshot=snapshot,
        dies_with_instance=str(ebs.get("DeleteOnTermination", True)).lower() == "true",
    )
    volumes.check_limits(order.kind, order.size, order.iops, order.throughput)
    return order


# What there is


@cache
def _offered(region: str) -> frozenset[tuple[str, str]]:
    rows = INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, [])
    return frozenset((row["InstanceType"], row["Location"]) for row in rows)


def _check_offered(kind: str, zone: str, region: str) -> None:
    offered = _offered(region)
    if any(zone == where for _, where in offered) and not any(kind == what for what, _ in offered):
        raise AwsError(
            "InvalidParameterValue",
            f"Invalid value '{kind}' for InstanceType: there is no such instance type",
        )
    if any(zone == where for _, where in offered) and (kind, zone) not in offered:
        raise AwsError(
            "Unsupported",
            f"Your requested instance type ({kind}) is not supported in your requested Availability Zone "
            f"({zone}).",
        )


def _check_capacity(kind: str, zone: str, market: str, count: int) -> None:
    facts = {"instance_type": kind, "zone": zone, "market": market}
    if cloud().faults.meet("ec2", "RunInstances", {"no-capacity"}, **facts):
        raise ServerError(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {kind} capacity in the Availability Zone you requested "
            f"({zone}). Our system will be working on provisioning additional capacity.",
        )

    def vcpus(name: str) -> int:
        return int(INSTANCE_TYPES.get(name, {}).get("VCpuInfo", {}).get("DefaultVCpus", 2))

    used = sum(vcpus(record.instance_type) for record in instances.records() if record.state in _LIVE)
    if used + vcpus(kind) * count > cloud().vcpu_limit:
        raise AwsError(
            "VcpuLimitExceeded",
            f"You have requested more vCPU capacity than your current vCPU limit of {cloud().vcpu_limit} "
            "allows for the instance bucket that the specified instance type belongs to.",
        )
