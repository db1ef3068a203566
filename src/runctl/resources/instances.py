"""Operations on instances: create with a data volume, start, stop, terminate with what stays of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec

from runctl.errors import CloudError, NotFound, ValidationError
from runctl.events import Notice
from runctl.model import (
    TAG_CREATED,
    TAG_LEASE_UNTIL,
    TAG_MANAGED,
    TAG_PERSISTENT,
    TAG_PROJECT,
    TAG_USER,
    InstanceType,
    Market,
    Offer,
)
from runctl.pricing import catalog
from runctl.providers.aws import account, disks, instances, market, shell, volumes
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.volumes import Attachment, Volume, VolumeSpec
from runctl.resources import leases
from runctl.resources.instance_limits import Limits, guard
from runctl.resources.offers import offers
from runctl.resources.operation import Operation
from runctl.safety.fate import Fate, fate_of_volumes
from runctl.safety.protection import Request
from runctl.safety.saga import Plan, PlannedStep, result_of

EQUIVALENTS = 2
ONLINE_PATIENCE = timedelta(minutes=10)
_TIMESTAMP = "%Y-%m-%dT%H:%M:%SZ"


class InstanceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `runctl aws create` was asked for; sizes in GiB, prices in USD/h, the lease in hours (0: none)."""

    instance_type: str | None = None
    gpus: int | None = None
    gpu_memory_gib: float = 0.0
    spot: bool = False
    spot_max_price: str | None = None
    fallback: bool = True
    zones: tuple[str, ...] = ()
    name: str = ""
    image: str | None = None
    key: str | None = None
    security_group: str | None = None
    subnets: tuple[str, ...] = ()
    profile: str = ""
    root_volume_gib: int = 30
    data_volume_gib: int | None = None
    persistent: bool = False
    mount: str | None = None
    lease_hours: float = 0.0
    project: str = ""
    user: str = ""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """A volume of an instance that is to end: what becomes of it, and why; an unknown size is None."""

    volume: str
    name: str
    size_gib: int | None
    device: str
    fate: Fate
    reason: str


def check(request: InstanceRequest) -> None:
    """Raises ValidationError for what cannot be asked for, before any call."""
    if not request.instance_type and not request.gpus:
        raise ValidationError(
            "No machine is named",
            why="neither a type nor a number of GPUs was given",
            next="runctl aws create g5.xlarge, or runctl aws create --gpus 1 --gpu-memory 24",
        )
    if request.spot_max_price is not None and not request.spot:
        raise ValidationError("--spot-max-price needs --spot", next="add --spot")
    if request.mount and request.data_volume_gib is None:
        raise ValidationError("--mount needs --data-volume-size", next="add --data-volume-size GIB")
    if request.data_volume_gib is not None:
        volumes.check(VolumeSpec(zone="", size_gib=request.data_volume_gib))


def plan_create(operation: Operation, request: InstanceRequest, limits: Limits) -> Plan:
    """The steps of a new instance, its data volume attached. Raises ValidationError, ConfigError."""
    check(request)
    session = operation.session
    guard(session, limits, emit=operation.emit)
    types = wanted_types(request)
    found = offers(
        session,
        types,
        spot=request.spot,
        fallback=request.fallback,
        zones=request.zones,
        subnets=request.subnets,
        by_price=not request.instance_type,
        emit=operation.emit,
    )
    if request.profile:
        account.require_profile(session, request.profile)
    tags = _tags(operation, request)
    launches = tuple(_launch(operation, request, offer, tags) for offer in found)
    subject = request.name or request.instance_type or f"{request.gpus} GPUs"
    steps = [
        PlannedStep(name="instance", kind="run-instance", requests=launches),
        PlannedStep(
            name="running",
            kind="wait-instance",
            requests=({"instance": result_of("instance"), "state": "running"},),
        ),
    ]
    if request.data_volume_gib is not None:
        steps += _data_volume(request, tags)
    return operation.plan("create-instance", subject, steps)


def wanted_types(request: InstanceRequest) -> list[InstanceType]:
    """The named type and what may stand in for it, or the cheapest that have the GPUs and memory.

    Raises ValidationError.
    """
    wanted = Market.SPOT if request.spot else Market.ON_DEMAND
    if request.instance_type:
        named = catalog.instance_type(request.instance_type)
        return [named, *(catalog.equivalents(named, market=wanted)[:EQUIVALENTS] if request.fallback else [])]
    types = [
        kind
        for kind in catalog.with_gpus(request.gpus or 0, market=wanted)
        if kind.gpu_memory_gib >= request.gpu_memory_gib
    ]
    if not types:
        raise ValidationError(
            f"No known machine has {request.gpus} GPUs of {request.gpu_memory_gib:g} GiB",
            next="try --gpus 1, 4 or 8, less --gpu-memory, or name a type",
        )
    return types[:3]


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What starting an instance comes to: `lease_hours` are those of its new lease, None leaves it alone."""

    instance: Instance
    lease_hours: float | None


def plan_start(
    operation: Operation, instance_id: str, *, limits: Limits, lease_hours: float | None = None
) -> Start:
    """Look whether an instance can be started, or its lease be renewed while it runs.

    Raises NotFound, Conflict, ValidationError past the limits.
    """
    instance = _existing(operation, instance_id)
    hours = leases.wanted(instance, lease_hours)
    if instance.state not in {"pending", "running"}:
        guard(operation.session, limits, emit=operation.emit)
    return Start(instance=instance, lease_hours=hours)


def start(operation: Operation, plan: Start) -> Instance:
    """Start an instance, wait until it runs, and renew its lease. Raises CapacityError, CloudError."""
    instance_id = plan.instance.id
    if plan.lease_hours is not None:
        leases.note(operation, instance_id, plan.lease_hours)
    instances.start(operation.session, instance_id)
    found = wait(operation, instance_id, "running")
    if plan.lease_hours is not None:
        leases.renew(operation, found, plan.lease_hours)
    return found


def wait(
    operation: Operation, instance_id: str, state: str, *, timeout: timedelta = ONLINE_PATIENCE
) -> Instance:
    """Wait until an instance is `running`, `stopped`, `terminated`, or `online`: its shell answers."""
    if state != "online":
        return instances.wait_state(
            operation.session, instance_id, state, timeout=timeout, emit=operation.emit
        )
    found = instances.wait_state(
        operation.session, instance_id, "running", timeout=timeout, emit=operation.emit
    )
    shell.wait_online(operation.session, instance_id, timeout=timeout, emit=operation.emit)
    return found


def plan_terminate(operation: Operation, instance_id: str, request: Request) -> Plan:
    """The steps of an end: persistent volumes are unmounted, detached and kept, then the instance ends."""
    instance = _existing(operation, instance_id)
    asked = msgspec.to_builtins(request)
    disks_there = attached(operation, instance)
    saved = {
        fate.volume
        for fate in fate_of_volumes(instance, [volume for volume, _ in disks_there])
        if fate.fate is Fate.DETACHED_AND_KEPT
    }
    kept = [(volume, disk) for volume, disk in disks_there if volume.id in saved]
    steps: list[PlannedStep] = []
    for volume, attachment in kept:
        if attachment.delete_on_termination or attachment.device == instance.root_device:
            place: dict[str, Any] = {"instance": instance_id, "volume": volume.id}
            place["device"] = attachment.device
            place["was_deleted"] = attachment.delete_on_termination
            steps.append(_step(f"keep-{volume.id}", "keep-volume", place))
    steps += _release(operation, instance, kept, asked)
    steps.append(_step("terminate", "terminate-instance", {"instance": instance_id, "request": asked}))
    return operation.plan("terminate-instance", instance_id, steps)


def _release(
    operation: Operation,
    instance: Instance,
    kept: Sequence[tuple[Volume, Attachment]],
    asked: dict[str, Any],
) -> list[PlannedStep]:
    """Take volumes from an instance once nothing trains there any more; its agent may end the machine.

    From a machine that runs and cannot be reached nothing is torn off: its end detaches them.
    """
    session = operation.session
    places: list[dict[str, Any]] = [
        {"instance": instance.id, "volume": volume.id, "device": attachment.device}
        for volume, attachment in kept
        if attachment.device != instance.root_device
    ]
    if instance.state != "running":
        return [_step(f"detach-{place['volume']}", "detach-volume", place) for place in places]
    if not places or not shell.is_online(session, instance.id):
        return []
    try:
        paths = [disks.mounted_at(session, instance.id, place["volume"]) for place in places]
    except CloudError as error:
        text = f"{instance.id} does not answer, its end detaches what is kept: {error.why or error.what}"
        operation.emit(Notice(text=text, warning=True))
        return []
    steps = [_step("training", "end-training", {"instance": instance.id, "request": asked})]
    for place, path in zip(places, paths, strict=True):
        mounted = {**place, "path": path}
        for word, kind, request, condition in (
            ("unmount", "unmount", mounted, "runs"),
            ("detach", "detach-volume", place, "lives"),
        ):
            name, only_if = f"{word}-{place['volume']}", (result_of("training", condition),)
            steps.append(PlannedStep(name=name, kind=kind, requests=(request,), only_if=only_if))
    return steps


def attached(operation: Operation, instance: Instance) -> list[tuple[Volume, Attachment]]:
    """The volumes of an instance with how each is attached."""
    found: list[tuple[Volume, Attachment]] = []
    for disk in instance.disks:
        volume = volumes.describe(operation.session, disk.volume)
        if volume is not None:
            found.append((volume, disk))
    return found


def fates(operation: Operation, instance_id: str) -> list[Ending]:
    """What a termination does to each volume of an instance, by the door's own word."""
    instance = _existing(operation, instance_id)
    known = {volume.id: volume for volume, _ in attached(operation, instance)}
    return [
        Ending(
            volume=fate.volume,
            name=known[fate.volume].name if fate.volume in known else "",
            size_gib=known[fate.volume].size_gib if fate.volume in known else None,
            device=fate.device,
            fate=fate.fate,
            reason=fate.reason,
        )
        for fate in fate_of_volumes(instance, known.values())
    ]


def _existing(operation: Operation, instance_id: str) -> Instance:
    found = instances.get(operation.session, instance_id)
    if found is None:
        raise NotFound(
            f"There is no instance {instance_id} in {operation.session.region}",
            next="runctl resources list, or another --region",
        )
    return found


def _step(name: str, kind: str, request: dict[str, Any]) -> PlannedStep:
    return PlannedStep(name=name, kind=kind, requests=(request,))


def _data_volume(request: InstanceRequest, tags: dict[str, str]) -> list[PlannedStep]:
    name = f"{request.name or request.instance_type or 'instance'} data"
    own = {**tags, "Name": name}
    if request.persistent:
        own[TAG_PERSISTENT] = "true"
    spec: dict[str, Any] = msgspec.to_builtins(
        VolumeSpec(zone="", size_gib=request.data_volume_gib, tags=own)
    )
    spec["zone"] = result_of("instance", "zone")
    place = {"volume": result_of("volume"), "instance": result_of("instance")}
    steps = [
        _step("volume", "create-volume", {"spec": spec}),
        _step("available", "wait-volume", {"volume": result_of("volume")}),
        _step("attachment", "attach-volume", place),
    ]
    if request.mount:
        online = {"instance": result_of("instance"), "state": "online"}
        steps += [
            _step("online", "wait-instance", online),
            _step("mount", "mount", {**place, "path": request.mount}),
        ]
    return steps


def _launch(
    operation: Operation, request: InstanceRequest, offer: Offer, tags: dict[str, str]
) -> dict[str, Any]:
    kind = catalog.instance_type(offer.instance_type)
    catalog.require_driven(kind, request.image)
    image = operation.once(
        f"image {kind.architecture} {bool(kind.gpus)}",
        lambda: market.image_for(
            operation.session, architecture=kind.architecture, gpus=kind.gpus, chosen=request.image
        ),
    )
    spec = instances.InstanceSpec(
        offer=offer,
        image=image.id,
        root_device=image.root_device,
        root_volume_gib=max(request.root_volume_gib, image.root_gib),
        profile=request.profile,
        user_data=leases.user_data(request.lease_hours),
        tags=tags,
        security_group=request.security_group,
    )
    parameters = instances.run_parameters(spec, "")
    # A machine of the user's own keeps its disks at a shutdown; a one-time spot machine can only end.
    parameters["InstanceInitiatedShutdownBehavior"] = "terminate" if offer.market is Market.SPOT else "stop"
    if request.key:
        parameters["KeyName"] = request.key
    if not request.profile:
        del parameters["IamInstanceProfile"]
    if offer.market is Market.SPOT and request.spot_max_price:
        parameters["InstanceMarketOptions"]["SpotOptions"]["MaxPrice"] = request.spot_max_price
    return {
        "what": f"{offer.instance_type} {offer.market} in {offer.zone}",
        "offer": msgspec.to_builtins(offer),
        "parameters": parameters,
    }


def _tags(operation: Operation, request: InstanceRequest) -> dict[str, str]:
    now = operation.session.cloud.clock.now()
    tags = {
        "Name": request.name or f"runctl {request.user}",
        TAG_MANAGED: "true",
        TAG_USER: request.user,
        TAG_PROJECT: request.project,
        TAG_CREATED: now.strftime(_TIMESTAMP),
    }
    if request.lease_hours > 0:
        tags[TAG_LEASE_UNTIL] = leases.tag(operation, request.lease_hours)
    return tags
