# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""EC2 instances over moto's records: tokens, states that take time, real machines, ends with causes."""

from __future__ import annotations

import base64
import copy
import json
import logging
import secrets
import threading
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2 import utils as ec2_utils
from moto.ec2.models.instances import Instance, StateReason
from moto.ec2.responses import EC2Response
from moto.ec2.responses.instances import InstanceResponse

from runctl.sandbox import spot
from runctl.sandbox.imds import MachineFacts, Role
from runctl.sandbox.machine import Machine
from runctl.sandbox.overlay import AwsError, ServerError, cloud, now, replaces, tag_of
from runctl.sandbox.state import ACCOUNT
from runctl.sandbox.usage import InstanceUsage

STATES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
SHOWN_AFTER_END = 3600.0
_USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
_ITSELF = (
    "Client.InstanceInitiatedShutdown",
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
)

log = logging.getLogger(__name__)

# Filters that moto answers with HTTP 500.
ec2_utils.filter_dict_attribute_mapping.update(
    {
        "client-token": "client_token",
        "instance-lifecycle": "lifecycle",
        "spot-instance-request-id": "spot_instance_request_id",
        "instance-state-code": "sandbox_state_code",
        "placement.availability-zone": "placement.zone",
        "availability-zone": "placement.zone",
        "metadata-options.http-tokens": "metadata_options.http_tokens",
    }
)
Instance.sandbox_state_code = property(lambda self: str(self._state.code))
Instance.spot_instance_request_id = None


def enter(instance: Any, state: str, cause: str = "") -> None:
    """Move a record to a state, and the bill with it."""
    instance._state.name, instance._state.code = state, STATES[state]
    usage = InstanceUsage(
        instance.id,
        instance.instance_type,
        instance.availability_zone,
        "spot" if instance.lifecycle == "spot" else "on-demand",
        tag_of(instance, "runctl:job"),
    )
    cloud().usage.note(usage, state, cause)


@replaces(InstanceResponse, "run_instances")
def _run_instances(original: Any, self: Any) -> Any:
    backend, get = self.ec2_backend, self._get_param
    token = get("ClientToken")
    asked = json.dumps(
        {key: value for key, value in self.data.items() if key != "ClientToken"}, sort_keys=True, default=str
    )
    tokens: dict[str, Any] = backend.__dict__.setdefault("sandbox_tokens", {})
    if token in tokens:
        return _repeated(tokens[token], asked)
    _check_profile(self)
    kind, zone = get("InstanceType", "m1.small"), get("Placement.AvailabilityZone") or ""
    market = get("InstanceMarketOptions.MarketType") or "on-demand"
    count = int(get("MinCount", if_none="1"))
    _check_capacity(kind, zone, market, count)
    ceiling = get("InstanceMarketOptions.SpotOptions.MaxPrice")
    spot.check_ceiling(kind, zone or f"{self.region}a", market, ceiling)
    result = original(self)
    reservation = result.result
    for instance in reservation.instances:
        instance.launch_time = now()
        instance.sandbox_ends_on_shutdown = instance.instance_initiated_shutdown_behavior == "terminate"
        _furnish_disks(instance, get("BlockDeviceMappings") or [])
        if market == "spot":
            spot.open_request(backend, instance, ceiling, self)
        enter(instance, "pending")
        cloud().born(instance.id, *(disk.volume_id for _, disk in instance.get_block_device_mapping))
        cloud().after(cloud().timing.boot, _boot, instance)
    if token:
        tokens[token] = (reservation, asked)
    return result


def _repeated(known: tuple[Any, str], asked: str) -> Any:
    reservation, before = known
    if before != asked:
        raise AwsError(
            "IdempotentParameterMismatch",
            "The client token you have provided is associated with a resource that is already launched, "
            "please specify a different client token.",
        )
    if all(instance._state.name in {"shutting-down", "terminated"} for instance in reservation.instances):
        raise AwsError(
            "IdempotentInstanceTerminated",
            "The client token you have provided is associated with an instance that was terminated.",
        )
    return ActionResult(reservation)


def _check_profile(self: Any) -> None:
    name = self._get_param("IamInstanceProfile.Name")
    if not name:
        return
    from moto.iam.models import iam_backends

    profiles = iam_backends[self.current_account][self.partition].instance_profiles.values()
    if name not in {profile.name for profile in profiles}:
        raise AwsError(
            "InvalidParameterValue",
            f"Value ({name}) for parameter iamInstanceProfile.name is invalid. "
            "Invalid IAM Instance Profile name",
        )


def _check_capacity(kind: str, zone: str, market: str, count: int) -> None:
    struck = cloud().faults.meet(
        "ec2", "RunInstances", instance_type=kind, zone=zone, market=market, instance=""
    )
    if any(fault.kind == "no-capacity" for fault in struck):
        raise ServerError(
            "InsufficientInstanceCapacity",
            f"We currently do not have sufficient {kind} capacity in the Availability Zone you requested "
            f"({zone or 'any'}). Our system will be working on provisioning additional capacity.",
        )
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    def vcpus(name: str) -> int:
        return int(INSTANCE_TYPES.get(name, {}).get("VCpuInfo", {}).get("DefaultVCpus", 2))

    live = {"pending", "running", "stopping"}
    used = sum(
        vcpus(machine.instance_type)
        for backend in _backends()
        for machine in backend.all_instances()
        if machine._state.name in live
    )
    if used + vcpus(kind) * count > cloud().vcpu_limit:
        raise AwsError(
            "VcpuLimitExceeded",
            f"You have requested more vCPU capacity than your current vCPU limit of {cloud().vcpu_limit} "
            "allows for the instance bucket that the specified instance type belongs to.",
        )


def _backends() -> list[Any]:
    from moto.ec2.models import ec2_backends

    return list(ec2_backends[ACCOUNT].values())


def find(instance_id: str) -> Any:
    """The record of an instance, None where there is none."""
    for backend in _backends():
        if (found := backend.get_instance_by_id(instance_id)) is not None:
            return found
    return None


def _furnish_disks(instance: Any, mappings: list[dict[str, Any]]) -> None:
    """moto drops IOPS and throughput, defaults DeleteOnTermination to false and may forget the root."""
    backend = instance.ec2_backend
    if instance.root_device_name not in instance.block_device_mapping:
        volume = backend.create_volume(size=8, zone_name=instance.availability_zone, volume_type="gp3")
        backend.attach_volume(volume.id, instance.id, instance.root_device_name, True)
        instance.block_device_mapping[instance.root_device_name].delete_on_termination = True
    for mapping in mappings:
        disk = instance.block_device_mapping.get(mapping["DeviceName"])
        wanted = mapping.get("Ebs", {})
        if disk is not None:
            disk.delete_on_termination = str(wanted.get("DeleteOnTermination", True)).lower() == "true"
    for _, disk in instance.get_block_device_mapping:
        volume = backend.get_volume(disk.volume_id)
        volume.create_time = now()
        cloud().usage.volume(
            volume.id,
            volume.volume_type,
            int(volume.size),
            int(volume.iops or 0),
            int(volume.throughput or 0),
            tag_of(instance, "runctl:job"),
        )


# Booting


def _boot(instance: Any) -> None:
    if instance._state.name != "pending":
        return
    machine = cloud().machines.get(instance.id)
    if machine is None:
        machine = cloud().machines[instance.id] = Machine(
            lambda: facts_of(instance),
            cloud().folder / "machines" / instance.id,
            clock=cloud().clock,
            schedule=cloud().schedule,
            environment={
                "AWS_ENDPOINT_URL": cloud().endpoint,
                "AWS_ENDPOINT_URL_S3": cloud().s3_endpoint,
            },
            image=cloud().image,
            isolation=cloud().isolation,
            on_power_off=_power_asked,
        )
    threading.Thread(target=_boot_machine, args=(instance, machine), name=f"boot-{instance.id}").start()


def _boot_machine(instance: Any, machine: Machine) -> None:
    """Outside the cloud's lock: many at a time."""
    with cloud().lock:
        if instance._state.name != "pending":
            return
        enter(instance, "running")
        cloud().online_from[instance.id] = cloud().clock.now() + cloud().timing.agent
    machine.boot()
    with cloud().lock:
        gone = instance._state.name != "running"
    if gone:
        machine.off(grace=0)


def facts_of(instance: Any) -> MachineFacts:
    """What a machine's metadata tells."""
    options = instance.metadata_options
    return MachineFacts(
        instance_id=instance.id,
        instance_type=instance.instance_type,
        image_id=instance.image_id,
        zone=instance.availability_zone,
        region=instance.region_name,
        account=ACCOUNT,
        lifecycle=instance.lifecycle or "on-demand",
        private_ip=instance.private_ip or "",
        architecture=getattr(instance, "architecture", "x86_64") or "x86_64",
        user_data=_user_data(instance),
        role=_role(instance),
        tags={tag["key"]: tag["value"] for tag in instance.get_tags()},
        http_tokens=getattr(options, "http_tokens", None) or "optional",
        http_endpoint=getattr(options, "http_endpoint", None) or "enabled",
        tags_in_metadata=getattr(options, "instance_metadata_tags", None) == "enabled",
    )


def _user_data(instance: Any) -> bytes:
    if not instance.user_data:
        return b""
    text = str(instance.user_data)
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return text.encode()


def _role(instance: Any) -> Role | None:
    association = instance.ec2_backend.iam_instance_profile_associations.get(instance.id)
    if association is None or not association.iam_instance_profile.roles:
        return None
    profile = association.iam_instance_profile
    keys = instance.__dict__.setdefault(
        "sandbox_keys",
        (f"ASIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30), secrets.token_urlsafe(60)),
    )
    return Role(profile.roles[0].name, profile.arn, *keys)


# Ending


def _power_asked(machine: Machine, kind: str) -> None:
    """The machine itself asked to be ended or restarted."""
    with cloud().lock:
        instance = find(machine.id)
        if instance is None or instance._state.name != "running":
            return
        if kind == "halt":
            (terminate if instance.sandbox_ends_on_shutdown else stop)(instance, _ITSELF)
            return
    machine.off(grace=5)
    machine.boot()


def terminate(instance: Any, reason: tuple[str, str]) -> None:
    """Begin the end of an instance; `terminated` comes later. Under the cloud's lock."""
    if instance._state.name in {"shutting-down", "terminated"}:
        return
    _begin_end(instance, "shutting-down", reason)
    cloud().after(cloud().timing.terminate, _terminated, instance)


def stop(instance: Any, reason: tuple[str, str]) -> None:
    if instance._state.name in {"stopping", "stopped"}:
        return
    _begin_end(instance, "stopping", reason)
    cloud().after(cloud().timing.stop, enter, instance, "stopped")


def _begin_end(instance: Any, state: str, reason: tuple[str, str]) -> None:
    enter(instance, state, reason[0])
    who = "User initiated" if reason[0].startswith("Client.User") else reason[1].partition(":")[0]
    told = "" if reason[0].startswith("Server.") else f" ({now():%Y-%m-%d %H:%M:%S} GMT)"
    instance._reason = who + told
    instance.state_reason = StateReason(reason[1], reason[0])
    cloud().online_from.pop(instance.id, None)
    machine = cloud().machines.get(instance.id)
    if machine is not None:
        threading.Thread(target=machine.off, kwargs={"grace": 5}, name=f"off-{instance.id}").start()


def _terminated(instance: Any) -> None:
    why, reason = instance._reason, instance.state_reason
    for _, disk in list(instance.get_block_device_mapping):
        if disk.delete_on_termination:
            cloud().usage.volume_deleted(disk.volume_id)
    _moto_terminate(instance)
    instance._reason, instance.state_reason = why, reason
    enter(instance, "terminated", reason.code)
    machine = cloud().machines.pop(instance.id, None)
    if machine is not None:
        threading.Thread(target=machine.destroy, name=f"destroy-{instance.id}").start()
    cloud().after(SHOWN_AFTER_END, _forget, instance)


def _forget(instance: Any) -> None:
    """AWS shows an ended instance for about an hour."""
    for reservation in list(instance.ec2_backend.reservations.values()):
        if instance in reservation.instances:
            reservation.instances.remove(instance)
            if not reservation.instances:
                instance.ec2_backend.reservations.pop(reservation.id, None)


_moto_terminate = Instance.terminate


@replaces(Instance, "terminate")
def _terminate_call(_: Any, self: Any) -> Any:
    before = copy.copy(self._state)
    terminate(self, _USER)
    return before


@replaces(Instance, "stop")
def _stop_call(_: Any, self: Any) -> Any:
    before = copy.copy(self._state)
    if before.name not in {"running", "stopping", "stopped"}:
        raise _wrong_state(self, "stopped")
    spot.refuse_stop(self)
    stop(self, _USER)
    return before


@replaces(Instance, "start")
def _start_call(original: Any, self: Any) -> Any:
    before = copy.copy(self._state)
    if before.name in {"running", "pending"}:
        return before
    if before.name != "stopped":
        raise _wrong_state(self, "started")
    original(self)
    self.launch_time = now()
    enter(self, "pending")
    cloud().after(cloud().timing.boot, _boot, self)
    return before


@replaces(Instance, "reboot")
def _reboot_call(_: Any, self: Any) -> None:
    machine = cloud().machines.get(self.id)
    if machine is not None and self._state.name == "running":
        threading.Thread(target=_power_asked, args=(machine, "reboot")).start()


def _wrong_state(instance: Any, verb: str) -> AwsError:
    return AwsError(
        "IncorrectInstanceState",
        f"The instance '{instance.id}' is not in a state from which it can be {verb}.",
    )


@replaces(InstanceResponse, "describe_instances")
def _describe_instances(original: Any, self: Any) -> Any:
    """A cloud that lies, where a fault wants it to: a state that is not, or nothing at all."""
    result = original(self)
    text = json.dumps(dict(self.data), default=str)
    for fault in cloud().faults.meet("ec2", "DescribeInstances:answer", text):
        if fault.kind == "missing":
            result.result["Reservations"] = []
        elif fault.kind == "wrong-state":
            result.result["Reservations"] = [
                _disguised(item, fault.state) for item in result.result["Reservations"]
            ]
    return result


def _disguised(reservation: Any, state: str) -> Any:
    false = copy.copy(reservation)
    false.instances = [copy.copy(instance) for instance in reservation.instances]
    for instance in false.instances:
        instance._state = copy.copy(instance._state)
        instance._state.name, instance._state.code = state, STATES[state]
    return false


assert EC2Response.run_instances is InstanceResponse.run_instances  # noqa: S101 (moto's own shape)
