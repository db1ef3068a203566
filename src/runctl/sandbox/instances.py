# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""EC2 instances over moto's records: tokens, states that take time, real machines, ends with causes."""

from __future__ import annotations

import base64
import copy
import logging
import threading
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.instances import Instance, StateReason
from moto.ec2.responses.general import General

from runctl.errors import NotFound, ValidationError
from runctl.sandbox import spot
from runctl.sandbox.imds import MachineFacts, Role
from runctl.sandbox.machine import Machine
from runctl.sandbox.overlay import AwsError, asked, cloud, now, replaces, tag_of
from runctl.sandbox.state import ACCOUNT
from runctl.sandbox.usage import STATES, InstanceUsage

SHOWN_AFTER_END = 3600.0
_USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
_ITSELF = (
    "Client.InstanceInitiatedShutdown",
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
)
_BROKEN = ("Server.InternalError", "Server.InternalError: Internal error on launch")
_CHECKS_SECONDS = 120.0
"""How long status checks say `initializing`, in cloud seconds."""

log = logging.getLogger(__name__)

Instance.spot_instance_request_id = None
Instance.sandbox_console = b""
"""Of one whose machine is gone; EC2 shows it as long as the instance itself."""


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


def _backends() -> list[Any]:
    from moto.ec2.models import ec2_backends

    return list(ec2_backends[ACCOUNT].values())


def records() -> list[Any]:
    """Every instance of the account that is still shown."""
    return [record for backend in _backends() for record in backend.all_instances()]


def find(instance_id: str) -> Any:
    """The record of an instance, None where there is none."""
    return next((record for record in records() if record.id == instance_id), None)


# Booting


def boot(instance: Any) -> None:
    """Let a pending instance run, if it still may. Under the cloud's lock."""
    if instance._state.name != "pending":
        return
    for fault in cloud().faults.meet("ec2", "RunInstances", {"no-start"}, instance.id):
        code = fault.code or "Client.InternalError"
        terminate(instance, (code, f"{code}: Client error on launch"))
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
        since = cloud().usage.running_since(instance.id)
        cloud().online_from[instance.id] = cloud().clock.now() + cloud().timing.agent * cloud().jitter()
    try:
        machine.boot(since)
    except OSError:
        log.exception("%s does not boot", instance.id)
        with cloud().lock:
            terminate(instance, _BROKEN)
        return
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
    if other := cloud().s3_keys:
        return Role(profile.roles[0].name, profile.arn, *other, token="")  # it knows no others
    key = cloud().keys.of_machine(instance.id)
    return Role(profile.roles[0].name, profile.arn, key.access, key.secret, key.token or "", key.expires)


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
        cloud().online_from[machine.id] = cloud().clock.now() + cloud().timing.agent
    _boot_again(instance, machine, grace=5)


def reset(instance_id: str) -> None:
    """Crash a machine and let it boot again, as a kernel panic or a fault of its host does.

    No process hears of it, its timers are forgotten, and its user data is not run twice. Raises NotFound, or
    ValidationError for a machine that does not run.
    """
    with cloud().lock:
        instance, machine = find(instance_id), cloud().machines.get(instance_id)
        if instance is None:
            raise NotFound(f"There is no instance {instance_id}", next="runctl sandbox status")
        if instance._state.name != "running" or machine is None:
            raise ValidationError(
                f"{instance_id} cannot be reset",
                why=f"it is {instance._state.name}",
                next="reset a machine that runs",
            )
        cloud().online_from[instance_id] = cloud().clock.now() + cloud().timing.boot + cloud().timing.agent
    _boot_again(instance, machine, grace=0)


def _boot_again(instance: Any, machine: Machine, *, grace: float) -> None:
    """Unless it is ended meanwhile. EC2 says `running` all the time."""
    machine.off(grace=grace)
    machine.boot()
    with cloud().lock:
        gone = instance._state.name != "running"
    if gone:
        machine.off(grace=0)


def terminate(instance: Any, reason: tuple[str, str]) -> None:
    """Begin the end of an instance; `terminated` comes later. Under the cloud's lock."""
    if instance._state.name in {"shutting-down", "terminated"}:
        return
    _begin_end(instance, "shutting-down", reason)
    spot.close_request(instance, reason[0])
    cloud().after(cloud().timing.terminate, _terminated, instance)


def stop(instance: Any, reason: tuple[str, str]) -> None:
    if instance._state.name in {"stopping", "stopped"}:
        return
    _begin_end(instance, "stopping", reason)
    cloud().after(cloud().timing.stop, _stopped, instance)


def _stopped(instance: Any) -> None:
    """The end of a stop, unless the machine was terminated meanwhile."""
    if instance._state.name == "stopping":
        enter(instance, "stopped")


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
        instance.sandbox_console = machine.console()
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
    self.launch_time, self.state_reason = now(), None
    enter(self, "pending")
    cloud().after(cloud().timing.boot * cloud().jitter(), boot, self)
    return before


@replaces(Instance, "reboot")
def _reboot_call(_: Any, self: Any) -> None:
    machine = cloud().machines.get(self.id)
    if machine is not None and self._state.name == "running":
        threading.Thread(target=_power_asked, args=(machine, "reboot")).start()


@replaces(General, "get_console_output")
def _console_call(_: Any, self: Any) -> ActionResult:
    instance = self.ec2_backend.get_instance(asked(self, "InstanceId"))
    machine = cloud().machines.get(instance.id)
    output = machine.console() if machine is not None else instance.sandbox_console
    return ActionResult(
        {
            "InstanceId": instance.id,
            "Timestamp": now(),
            "Output": base64.b64encode(output).decode(),
        }
    )


def _wrong_state(instance: Any, verb: str) -> AwsError:
    return AwsError(
        "IncorrectInstanceState",
        f"The instance '{instance.id}' is not in a state from which it can be {verb}.",
    )


def _checks(instance: Any) -> dict[str, Any]:
    """What DescribeInstanceStatus says of both checks."""
    if instance.state != "running":
        return {"Status": "not-applicable"}
    ready = (now() - instance.launch_time).total_seconds() > _CHECKS_SECONDS
    words = ("ok", "passed") if ready else ("initializing", "initializing")
    return {"Status": words[0], "Details": [{"Name": "reachability", "Status": words[1]}]}


Instance.instance_status = property(_checks)
Instance.system_status = property(_checks)
