"""The steps that operations on resources are made of: how each is done, found again and undone."""

# ruff: noqa: ARG002 (every kind has the same form)

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from runctl.errors import CloudError, Conflict, NotFound
from runctl.events import Emit
from runctl.ledger import Ledger
from runctl.model import TAG_STEP, TAG_TRANSACTION, Offer
from runctl.providers.aws import disks, instances, shell, snapshots, volumes
from runctl.providers.aws.session import Session
from runctl.providers.base import LaunchRequest
from runctl.quoting import quoted
from runctl.resources import carrying
from runctl.safety import protection
from runctl.safety.destroy import Door
from runctl.safety.protection import ResourceKind
from runctl.safety.saga import Call, Kind, Result

BOOT_PATIENCE = timedelta(minutes=15)
VOLUME_PATIENCE = timedelta(minutes=10)
HELD_PATIENCE = timedelta(minutes=2)
"""A volume that no mount holds is detached in seconds."""
SNAPSHOT_PATIENCE = timedelta(hours=6)


class Surroundings(msgspec.Struct, frozen=True):
    """What every step needs: the cloud, the one door to destruction, and who listens."""

    session: Session
    door: Door
    emit: Emit
    ledger: Ledger | None = None


def kinds(around: Surroundings) -> Mapping[str, Kind]:
    """Every kind of step by its name in plans."""
    from runctl.resources import filling

    return {
        **filling.kinds(around),
        "run-instance": RunInstance(around),
        "wait-instance": WaitInstance(around),
        "create-volume": CreateVolume(around),
        "wait-volume": WaitVolume(around),
        "attach-volume": AttachVolume(around),
        "keep-volume": KeepVolume(around),
        "end-training": EndTraining(around),
        "detach-volume": DetachVolume(around),
        "mount": Mount(around),
        "unmount": Unmount(around),
        "create-snapshot": CreateSnapshot(around),
        "wait-snapshot": WaitSnapshot(around),
        "terminate-instance": TerminateInstance(around),
        "delete-volume": DeleteVolume(around),
        **carrying.kinds(around.session, around.emit),
    }


class _Step:
    final = False

    def __init__(self, around: Surroundings) -> None:
        self._session = around.session
        self._door = around.door
        self._emit = around.emit

    def find(self, call: Call) -> Result | None:
        """A step that only waits, or whose state is set again without harm, left nothing to be found."""
        return None

    def undo(self, call: Call, result: Result) -> None:
        """Nothing to undo."""


class RunInstance(_Step):
    """Launch one instance: `parameters` of RunInstances and the `offer` that they are for."""

    def do(self, call: Call) -> Result:
        parameters: dict[str, Any] = {**call.request["parameters"], "ClientToken": call.token}
        parameters["TagSpecifications"] = [
            {**kind, "Tags": [*kind["Tags"], {"Key": TAG_TRANSACTION, "Value": call.tx}]}
            for kind in parameters["TagSpecifications"]
        ]
        offer = msgspec.convert(call.request["offer"], Offer)
        machine = instances.run(self._session, LaunchRequest(call.token, offer, json.dumps(parameters)))
        return {"id": machine.id, "zone": machine.zone, "usd_per_hour": _rate(offer)}

    def find(self, call: Call) -> Result | None:
        # A launch that is on its way may not be seen yet; the same token again is the surest way to know.
        found = instances.find_by_token(self._session, call.token)
        if found is not None:
            rate = _rate(msgspec.convert(call.request["offer"], Offer))
            return {"id": found.id, "zone": found.zone, "usd_per_hour": rate}
        try:
            return self.do(call)
        except CloudError as error:
            if error.retryable or error.lost_answer:
                raise
            return None

    def undo(self, call: Call, result: Result) -> None:
        self._door.remove_created(ResourceKind.INSTANCE, result["id"], tx=call.tx)


class WaitInstance(_Step):
    """Wait until an `instance` is in a `state`; `online` means that its shell answers."""

    def do(self, call: Call) -> Result:
        if call.request["state"] == "online":
            shell.wait_online(self._session, call.request["instance"], timeout=BOOT_PATIENCE, emit=self._emit)
            return {"id": call.request["instance"]}
        found = instances.wait_state(
            self._session,
            call.request["instance"],
            call.request["state"],
            timeout=BOOT_PATIENCE,
            emit=self._emit,
        )
        return {"id": found.id, "zone": found.zone}


class CreateVolume(_Step):
    """Create a volume as its `spec` says."""

    def do(self, call: Call) -> Result:
        spec = msgspec.convert(call.request["spec"], volumes.VolumeSpec)
        spec = msgspec.structs.replace(spec, tags={**spec.tags, TAG_TRANSACTION: call.tx})
        made = volumes.create(self._session, volumes.create_parameters(spec, call.token))
        return {"id": made.id, "zone": made.zone}

    def find(self, call: Call) -> Result | None:
        try:
            return self.do(call)
        except CloudError as error:
            if error.retryable or error.lost_answer:
                raise
            return None

    def undo(self, call: Call, result: Result) -> None:
        self._door.remove_created(ResourceKind.VOLUME, result["id"], tx=call.tx)


class WaitVolume(_Step):
    """Wait until a `volume` can be attached."""

    def do(self, call: Call) -> Result:
        found = volumes.wait_available(
            self._session, call.request["volume"], timeout=VOLUME_PATIENCE, emit=self._emit
        )
        return {"id": found.id}


class AttachVolume(_Step):
    """Attach a `volume` to an `instance` at the `device` that is named, or the first free one.

    One that `was_attached` there before stays so when the operation is undone.
    """

    def do(self, call: Call) -> Result:
        volume, instance_id = call.request["volume"], call.request["instance"]
        device = _device(self._session, volume, instance_id)
        if device is None:
            instance = instances.get(self._session, instance_id)
            if instance is None:
                raise NotFound(f"There is no instance {instance_id}", next="runctl resources list")
            if instance.state == "pending":  # EC2 refuses a machine that boots still
                instances.wait_state(
                    self._session, instance_id, "running", timeout=BOOT_PATIENCE, emit=self._emit
                )
            device = call.request.get("device") or volumes.free_device(instance)
            volumes.attach(self._session, volume, instance_id, device)
        volumes.wait_attached(self._session, volume, instance_id, timeout=VOLUME_PATIENCE, emit=self._emit)
        return {"id": volume, "instance": instance_id, "device": device}

    def find(self, call: Call) -> Result | None:
        device = _device(self._session, call.request["volume"], call.request["instance"])
        if device is None:
            return None
        return {"id": call.request["volume"], "instance": call.request["instance"], "device": device}

    def undo(self, call: Call, result: Result) -> None:
        if call.request.get("was_attached"):
            return
        volume, instance_id = result["id"], result["instance"]
        if _device(self._session, volume, instance_id) is not None:
            volumes.detach(self._session, volume, instance_id)
        elif not _is_leaving(self._session, volume, instance_id):
            return
        try:
            volumes.wait_detached(self._session, volume, timeout=HELD_PATIENCE, emit=self._emit)
        except CloudError as error:
            if error.code != "TimedOut":
                raise
            # A mount whose answer was lost may run after its own undoing: then it holds the volume.
            disks.unmount(self._session, instance_id, volume)
            volumes.wait_detached(self._session, volume, timeout=VOLUME_PATIENCE, emit=self._emit)


class KeepVolume(_Step):
    """See to it that a `volume` outlives its `instance`."""

    def do(self, call: Call) -> Result:
        instances.set_delete_on_termination(
            self._session, call.request["instance"], call.request["device"], delete=False
        )
        return {"id": call.request["volume"]}

    def find(self, call: Call) -> Result | None:
        return {"id": call.request["volume"]}

    def undo(self, call: Call, result: Result) -> None:
        if call.request["was_deleted"]:
            self._door.end_with_instance(
                call.request["volume"], call.request["instance"], call.request["device"]
            )


class EndTraining(_Step):
    """Let what trains on an `instance` save and end, while its volumes are still in their places.

    Its agent may end the machine, too: then nothing `lives` there, and nothing `runs`.
    """

    def do(self, call: Call) -> Result:
        found = self._door.end_training(call.request["instance"], _asked(call))
        if found is not None and found.state == "stopping":
            found = instances.wait_state(
                self._session, found.id, "stopped", timeout=BOOT_PATIENCE, emit=self._emit
            )
        return {
            "id": call.request["instance"],
            "lives": found is not None,
            "runs": found is not None and found.state == "running",
        }


class DetachVolume(_Step):
    """Detach a `volume` from its `instance`; undone by attaching it at its `device` again."""

    def do(self, call: Call) -> Result:
        volume = call.request["volume"]
        if _device(self._session, volume, call.request["instance"]) is not None:
            volumes.detach(self._session, volume, call.request["instance"])
        volumes.wait_detached(self._session, volume, timeout=VOLUME_PATIENCE, emit=self._emit)
        return {"id": volume}

    def find(self, call: Call) -> Result | None:
        # Attached still, or not: the undoing attaches what is not.
        return {"id": call.request["volume"]}

    def undo(self, call: Call, result: Result) -> None:
        volume, instance_id = call.request["volume"], call.request["instance"]
        instance = instances.get(self._session, instance_id)
        if instance is None or instance.state not in {"running", "stopped"}:
            return  # there is nothing to attach it to any more; the volume is kept
        if _device(self._session, volume, instance_id) is None:
            volumes.wait_available(self._session, volume, timeout=VOLUME_PATIENCE, emit=self._emit)
            volumes.attach(self._session, volume, instance_id, call.request["device"])
            volumes.wait_attached(
                self._session, volume, instance_id, timeout=VOLUME_PATIENCE, emit=self._emit
            )


class Mount(_Step):
    """Mount a `volume` at a `path` of its `instance`, with a file system made if it is blank.

    One that `was_mounted` there before stays so when the operation is undone.
    """

    def do(self, call: Call) -> Result:
        disks.mount(self._session, call.request["instance"], call.request["volume"], call.request["path"])
        return {"id": call.request["volume"], "path": call.request["path"]}

    def find(self, call: Call) -> Result | None:
        return {"id": call.request["volume"], "path": call.request["path"]}

    def undo(self, call: Call, result: Result) -> None:
        if not call.request.get("was_mounted"):
            disks.unmount(self._session, call.request["instance"], call.request["volume"])


class Unmount(_Step):
    """Unmount a `volume` on its `instance`; one that is not mounted is left as it is.

    Undone by mounting it at its `path` again, which is None where it was not mounted.
    """

    def do(self, call: Call) -> Result:
        disks.unmount(self._session, call.request["instance"], call.request["volume"])
        return {"id": call.request["volume"]}

    def find(self, call: Call) -> Result | None:
        # Mounted still, or not: the undoing mounts what is not.
        return {"id": call.request["volume"]}

    def undo(self, call: Call, result: Result) -> None:
        volume, instance_id = call.request["volume"], call.request["instance"]
        instance = instances.get(self._session, instance_id)
        if not call.request.get("path") or instance is None or instance.state != "running":
            return
        if _device(self._session, volume, instance_id) is not None:
            disks.mount(self._session, instance_id, volume, call.request["path"])


class CreateSnapshot(_Step):
    """Take a snapshot of a `volume`; CreateSnapshot has no token, so that it is found again by its tags."""

    def do(self, call: Call) -> Result:
        return self.find(call) or self._create(call)

    def find(self, call: Call) -> Result | None:
        found = snapshots.find(self._session, tx=call.tx, step=call.token)
        return None if found is None else {"id": found.id}

    def undo(self, call: Call, result: Result) -> None:
        self._door.remove_created(ResourceKind.SNAPSHOT, result["id"], tx=call.tx)

    def _create(self, call: Call) -> Result:
        tags = {**call.request["tags"], TAG_TRANSACTION: call.tx, TAG_STEP: call.token}
        made = snapshots.create(
            self._session, call.request["volume"], description=call.request["description"], tags=tags
        )
        return {"id": made.id}


class WaitSnapshot(_Step):
    """Wait until a `snapshot` is complete: nothing relies on it before."""

    def do(self, call: Call) -> Result:
        found = snapshots.wait_completed(
            self._session, call.request["snapshot"], timeout=SNAPSHOT_PATIENCE, emit=self._emit
        )
        return {"id": found.id}


class TerminateInstance(_Step):
    """Terminate an `instance` through the door, as the user's `request` allows; cannot be undone."""

    final = True

    def do(self, call: Call) -> Result:
        self._door.terminate_instance(call.request["instance"], _asked(call))
        return {"id": call.request["instance"]}

    def find(self, call: Call) -> Result | None:
        return {"id": call.request["instance"]}


class DeleteVolume(_Step):
    """Delete a `volume` through the door; cannot be undone."""

    final = True

    def do(self, call: Call) -> Result:
        if call.request.get("relies_on"):
            _require_complete(self._session, call.request["relies_on"])
        self._door.delete_volume(call.request["volume"], _asked(call))
        return {"id": call.request["volume"]}

    def find(self, call: Call) -> Result | None:
        return {"id": call.request["volume"]}


def _rate(offer: Offer) -> str | None:
    return None if offer.price is None else str(offer.price.usd_per_hour)


def _asked(call: Call) -> protection.Request:
    return msgspec.convert(call.request["request"], protection.Request)


def _require_complete(session: Session, snapshot_id: str) -> None:
    found = snapshots.describe(session, snapshot_id)
    if found is None or found.state != "completed":
        raise Conflict(
            "The volume is not deleted",
            why=f"its snapshot {snapshot_id} is {found.state if found else 'gone'}, not completed",
            next=f"runctl aws ebs snapshot-list {quoted(snapshot_id)}",
        )


def _device(session: Session, volume_id: str, instance_id: str) -> str | None:
    """The device at which a volume is, or is becoming, attached to an instance; None where it is not."""
    volume = volumes.describe(session, volume_id)
    if volume is None:
        raise NotFound(f"There is no volume {volume_id}", next="runctl aws ebs list")
    for attachment in volume.attachments:
        if attachment.instance == instance_id and attachment.state in {"attaching", "attached", "busy"}:
            return attachment.device
    return None


def _is_leaving(session: Session, volume_id: str, instance_id: str) -> bool:
    """Whether a volume is being detached from an instance, and not yet free."""
    volume = volumes.describe(session, volume_id)
    attachments = volume.attachments if volume else ()
    return any(one.instance == instance_id and one.state == "detaching" for one in attachments)
