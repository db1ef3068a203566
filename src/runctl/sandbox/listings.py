# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""DescribeInstances: filters, pages counted in instances, and the lies that faults make it tell."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.responses.instances import InstanceResponse
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix

from runctl.sandbox.faults import LIES, Fault
from runctl.sandbox.overlay import AwsError, asked, asked_filters, cloud, disguised, matches, page, replaces
from runctl.sandbox.usage import STATES


def _of(*path: str) -> Callable[[Any], Iterable[Any]]:
    """One attribute of an instance, by its path; none where a step is missing."""

    def read(instance: Any) -> Iterable[Any]:
        value = instance
        for step in path:
            value = getattr(value, step, None)
            if value is None:
                return ()
        return (value,)

    return read


def _disks(instance: Any, attribute: str) -> list[Any]:
    return [getattr(disk, attribute) for _, disk in instance.get_block_device_mapping]


_FILTERS: dict[str, Callable[[Any], Iterable[Any]]] = {
    "architecture": _of("architecture"),
    "availability-zone": _of("availability_zone"),
    "placement.availability-zone": _of("availability_zone"),
    "block-device-mapping.attach-time": lambda one: _disks(one, "attach_time"),
    "block-device-mapping.delete-on-termination": lambda one: _disks(one, "delete_on_termination"),
    "block-device-mapping.device-name": lambda one: [name for name, _ in one.get_block_device_mapping],
    "block-device-mapping.volume-id": lambda one: _disks(one, "volume_id"),
    "client-token": _of("client_token"),
    "dns-name": _of("public_dns_name"),
    "iam-instance-profile.arn": lambda one: [
        found.iam_instance_profile.arn
        for found in [one.ec2_backend.iam_instance_profile_associations.get(one.id)]
        if found is not None
    ],
    "image-id": _of("image_id"),
    "instance-id": _of("id"),
    "instance-lifecycle": _of("lifecycle"),
    "instance-state-code": _of("state_code"),
    "instance-state-name": _of("state"),
    "instance-type": _of("instance_type"),
    "instance.group-id": lambda one: [group.id for group in one.security_groups],
    "instance.group-name": lambda one: [group.name for group in one.security_groups],
    "ip-address": _of("public_ip"),
    "key-name": _of("key_name"),
    "launch-time": lambda one: [f"{one.launch_time:%Y-%m-%dT%H:%M:%S}.000Z"],
    "metadata-options.http-endpoint": _of("metadata_options", "http_endpoint"),
    "metadata-options.http-tokens": _of("metadata_options", "http_tokens"),
    "metadata-options.instance-metadata-tags": _of("metadata_options", "instance_metadata_tags"),
    "owner-id": _of("owner_id"),
    "private-dns-name": _of("private_dns_name"),
    "private-ip-address": _of("private_ip"),
    "root-device-name": _of("root_device_name"),
    "spot-instance-request-id": _of("spot_instance_request_id"),
    "state-reason-code": _of("state_reason", "code"),
    "subnet-id": _of("subnet_id"),
    "tag-key": lambda one: [tag["key"] for tag in one.get_tags()],
    "vpc-id": _of("vpc_id"),
}


def _own_tags(self: Any) -> list[dict[str, str]]:
    """A resource's tags by its id: moto looks through those of all resources, for each that it shows."""
    kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(self.id), "") if self.id else ""
    own = self.ec2_backend.tags.get(self.id, {}) if self.id else {}
    return [
        {"resource_id": self.id, "key": key, "value": value, "resource_type": kind}
        for key, value in list(own.items())
    ]


TaggedEC2Resource.get_tags = _own_tags


@replaces(InstanceResponse, "describe_instances")
def _describe_instances(_: Any, call: Any) -> Any:
    call.error_on_dryrun()
    ids = asked(call, "InstanceIds", [])
    if ids and asked(call, "MaxResults") is not None:
        raise AwsError(
            "InvalidParameterCombination",
            "The parameter instancesSet cannot be used with the parameter maxResults",
        )
    filters = asked_filters(call)
    for name in filters:
        if name not in _FILTERS and not name.startswith("tag:"):
            raise AwsError("InvalidParameterValue", f"The filter '{name}' is invalid")
    found = [
        (reservation, instance)
        for reservation in call.ec2_backend.reservations.values()
        for instance in reservation.instances
        if not ids or instance.id in ids
    ]
    missing = set(ids) - {instance.id for _, instance in found}
    if missing:
        raise AwsError("InvalidInstanceID.NotFound", f"The instance ID '{min(missing)}' does not exist")
    found = _with_lies([pair for pair in found if _passes(pair[1], filters)])
    rows, following = page(found, call)
    return ActionResult({"Reservations": _grouped(rows), "NextToken": following})


def _passes(instance: Any, filters: dict[str, list[str]]) -> bool:
    for name, patterns in filters.items():
        if name.startswith("tag:"):
            values = [tag["value"] for tag in instance.get_tags() if tag["key"] == name[4:]]
        else:
            values = _FILTERS[name](instance)
        if not matches(values, patterns):
            return False
    return True


def _grouped(rows: list[tuple[Any, Any]]) -> list[Any]:
    """Reservations that hold the instances of this page alone."""
    shown: dict[str, Any] = {}
    for reservation, instance in rows:
        if reservation.id not in shown:
            shown[reservation.id] = copy.copy(reservation)
            shown[reservation.id].instances = []
        shown[reservation.id].instances.append(instance)
    return list(shown.values())


def _with_lies(rows: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """A cloud that lies, where a fault wants it to: a state that is not, an old one, or nothing at all."""
    ids = " ".join(instance.id for _, instance in rows)
    for fault in cloud().faults.meet("ec2", "DescribeInstances", LIES, ids):
        told = ((reservation, _told(fault, instance)) for reservation, instance in rows)
        rows = [(reservation, instance) for reservation, instance in told if instance is not None]
    return rows


def _told(fault: Fault, instance: Any) -> Any:
    if fault.instance not in (None, instance.id):
        return instance
    state: str | None = fault.state
    if fault.kind == "stale":
        earlier = [change.state for change in cloud().usage.history if change.instance == instance.id][:-1]
        state = earlier[-1] if earlier else None
    if fault.kind == "missing" or state is None:
        return None
    return disguised(instance, state, STATES[state])
