"""Filling a volume from S3, on a machine that is there or on a temporary one: the operation as a plan."""

from __future__ import annotations

from typing import Any

import msgspec

from runctl.errors import CloudError, Conflict, ValidationError
from runctl.model import (
    TAG_DATASET,
    TAG_DATASET_EXTRA,
    TAG_DATASET_LEFT_OUT,
    TAG_DATASET_VERSION,
    Market,
    Offer,
)
from runctl.pricing import catalog
from runctl.providers.aws import account, disks, shell
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.volumes import Volume
from runctl.quoting import quoted
from runctl.resources import filler_launch, fillers
from runctl.resources import volumes as own_volumes
from runctl.resources.fillers import Estimate, Work
from runctl.resources.filling import dataset_tag
from runctl.resources.instance_limits import Limits, guard
from runctl.resources.operation import Operation
from runctl.resources.prefixes import Dataset
from runctl.resources.volumes import VolumeRequest
from runctl.safety.saga import Plan, PlannedStep, Request, result_of

OPERATION = "pre-warm-volume"
ROUNDS = 3
"""Machines that may be used up; the last is bought so that it is not taken away, where that is allowed."""

PATH = "/mnt/runctl-dataset"
ROOM = 0.93
"""Of a volume's size, what its file system leaves for files."""

GIB = 2**30


class WarmRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `delete` removes what we put there and the dataset has no more; `check` reads
    every file again; the lease, in minutes, ends a temporary machine that nobody looks after."""

    instance: str | None = None
    snapshot: bool = False
    delete: bool = False
    check: bool = False
    spot: bool = True
    fallback: bool = True
    instance_type: str | None = None
    profile: str = ""
    image: str | None = None
    subnets: tuple[str, ...] = ()
    security_group: str | None = None
    root_volume_gib: int = 30
    lease_minutes: int = 15
    bucket: str | None = None
    project: str = ""
    user: str = ""


class Warming(msgspec.Struct, frozen=True, kw_only=True):
    """What would be done: the plan, the ways to get a machine (none where one is given), and the estimate."""

    plan: Plan
    offers: tuple[Offer, ...]
    estimate: Estimate


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The volume to fill: `id` may stand for what an earlier step makes, whose steps come `first`.

    `attached` has the instances at which it is, and its device there.
    """

    id: Any
    subject: str
    zone: str
    size_gib: int
    mibs: float
    tags: dict[str, str]
    first: tuple[PlannedStep, ...] = ()
    attached: tuple[tuple[str, str], ...] = ()


def holds(tags: dict[str, str], dataset: Dataset) -> bool:
    """Whether tags say that this very state of the dataset is there, but for keys that cannot be files."""
    named = tags.get(TAG_DATASET) == dataset_tag(dataset.location)
    whole = tags.get(TAG_DATASET_LEFT_OUT, "0") == str(len(dataset.refused))
    return named and whole and tags.get(TAG_DATASET_VERSION) == dataset.version


def existing_target(operation: Operation, volume_id: str) -> Target:
    """A volume that is there. Raises NotFound, Conflict for one that is another machine's."""
    volume = own_volumes.existing(operation, volume_id)
    return target_of(volume)


def target_of(volume: Volume) -> Target:
    return Target(
        id=volume.id,
        subject=volume.id,
        zone=volume.zone,
        size_gib=volume.size_gib,
        mibs=fillers.volume_mibs(volume),
        tags=volume.tags,
        attached=tuple((found.instance, found.device) for found in volume.attachments),
    )


def new_target(operation: Operation, request: VolumeRequest) -> Target:
    """A volume that is made first, and is gone again where the filling fails."""
    spec = own_volumes.spec_of(operation, request)
    made = PlannedStep(name="volume", kind="create-volume", requests=({"spec": msgspec.to_builtins(spec)},))
    return Target(
        id=result_of("volume"),
        subject=request.name or f"{spec.size_gib} GiB",
        zone=spec.zone,
        size_gib=spec.size_gib or 0,
        mibs=float(spec.throughput_mibs or catalog.GP3_INCLUDED_MIBS),
        tags={},
        first=(made,),
    )


def check(dataset: Dataset, target: Target, request: WarmRequest) -> None:
    """Raises ValidationError for a dataset that the volume cannot hold, Conflict for another one on it and
    for a volume that is at another machine."""
    for instance, _ in target.attached:
        if instance != request.instance:
            raise Conflict(
                f"{target.subject} is attached to {instance}",
                why="a volume is filled where it is, or where nobody uses it",
                next=f"--instance {quoted(instance)}, or runctl aws ebs detach {quoted(target.subject)}",
            )
    if target.size_gib and dataset.bytes > target.size_gib * GIB * ROOM:
        needed = size_for(dataset)
        raise ValidationError(
            f"{dataset.location} does not fit on {target.subject}",
            why=f"it has {dataset.bytes / GIB:.1f} GiB, the volume {target.size_gib}",
            next=f"--size {needed}, or runctl aws ebs modify {quoted(target.subject)} --size {needed}",
        )
    before = target.tags.get(TAG_DATASET)
    if before not in {None, dataset_tag(dataset.location)} and not request.delete:
        raise Conflict(
            f"{target.subject} holds another dataset",
            why=f"it was filled from {before}",
            next="--delete removes that from it; or another volume",
        )


def size_for(dataset: Dataset) -> int:
    """GiB of a volume for a dataset, with room for a file system and for what is on its way."""
    return max(8, int(dataset.bytes / GIB * 1.15) + 2)


def plan(
    operation: Operation, dataset: Dataset, target: Target, request: WarmRequest, limits: Limits
) -> Warming:
    """The operation. Raises ValidationError, ConfigError, Conflict, NotFound before anything is touched."""
    check(dataset, target, request)
    work = Work(files=dataset.files, bytes=dataset.bytes, volume_mibs=target.mibs)
    if request.instance:
        instance = _given(operation, target, request.instance)
        price = catalog.on_demand(instance.instance_type, operation.session.region)
        found = fillers.estimate(work, instance.instance_type, price)
        middle, ways = _on_given(operation, dataset, target, request, instance), ()
        stagings = ["copy-1"]
    else:
        guard(operation.session, limits, emit=operation.emit)
        if request.profile:
            account.require_profile(operation.session, request.profile)
        ways = tuple(filler_launch.ways(operation, target, request, work))
        found = fillers.estimate(work, ways[0].instance_type, ways[0].price)
        middle = _on_temporary(operation, dataset, target, request, ways)
        stagings = [f"copy-{number}" for number in range(1, ROUNDS + 1)]
    steps = [*target.first, *middle, _marked(dataset, target, stagings)]
    if request.snapshot:
        state = {
            TAG_DATASET_VERSION: result_of("mark", "version"),
            TAG_DATASET_EXTRA: result_of("mark", "extra"),
        }
        steps += _snapshot(operation, dataset, target, request, state)
    whole = operation.plan(OPERATION, f"{target.subject} from {dataset.location}", steps)
    return Warming(plan=whole, offers=ways, estimate=found)


def plan_snapshot(operation: Operation, dataset: Dataset, target: Target, request: WarmRequest) -> Plan:
    """A snapshot of a volume that holds the dataset already."""
    state = {name: target.tags.get(name, "0") for name in (TAG_DATASET_VERSION, TAG_DATASET_EXTRA)}
    steps = _snapshot(operation, dataset, target, request, state)
    return operation.plan("create-snapshot", target.subject, steps)


# The steps


def _unmark(target: Target, number: int, after: str | None) -> list[PlannedStep]:
    """What is about to change says so, once it can be reached."""
    if not target.tags.get(TAG_DATASET_VERSION):
        return []
    asked: Request = {"volume": target.id}
    only_if = (result_of(after),) if after else ()
    return [PlannedStep(name=f"unmark-{number}", kind="unmark-volume", requests=(asked,), only_if=only_if)]


def _on_temporary(
    operation: Operation, dataset: Dataset, target: Target, request: WarmRequest, ways: tuple[Offer, ...]
) -> list[PlannedStep]:
    """Rounds: each has a machine of its own, and is left out once the dataset is there."""
    steps = [_step("free-1", "free-volume", {"volume": target.id})]
    tags = filler_launch.tags(operation, request, target)
    for number in range(1, ROUNDS + 1):
        staged = tuple(result_of(f"copy-{earlier}", "complete") for earlier in range(1, number))
        lasting = [offer for offer in ways if offer.market is Market.ON_DEMAND]
        chosen = lasting if number == ROUNDS and lasting else ways
        launches = tuple(filler_launch.launch(operation, request, offer, tags) for offer in chosen)
        machine = result_of(f"machine-{number}")
        place: Request = {"volume": target.id, "instance": machine}
        staging = _staging(operation, dataset, target, request, machine, temporary=True)
        staging["usd_per_hour"] = result_of(f"machine-{number}", "usd_per_hour")

        def step(name: str, kind: str, asked: Request, after: str, number: int = number) -> PlannedStep:
            only_if = (result_of(f"{after}-{number}"),)
            return PlannedStep(name=f"{name}-{number}", kind=kind, requests=(asked,), only_if=only_if)

        steps += [
            PlannedStep(name=f"machine-{number}", kind="run-temporary", requests=launches, unless=staged),
            step("online", "reach-temporary", {"instance": machine}, "machine"),
            step("attach", "attach-to-temporary", place, "online"),
            step("mount", "mount-on-temporary", {**place, "path": PATH}, "attach"),
            *_unmark(target, number, f"mount-{number}"),
            step("copy", "stage-on-temporary", staging, "mount"),
            step("release", "release-from-temporary", {**place, "mounted": True, "attached": True}, "attach"),
            step("end", "end-temporary", {"instance": machine}, "machine"),
            PlannedStep(
                name=f"free-{number + 1}",
                kind="free-volume",
                requests=({"volume": target.id},),
                only_if=(machine,),
            ),
        ]
    return steps


def _on_given(
    operation: Operation, dataset: Dataset, target: Target, request: WarmRequest, instance: Instance
) -> list[PlannedStep]:
    """On the user's own machine: what was attached or mounted before stays so."""
    attached = any(where == instance.id for where, _ in target.attached)
    if any(device == instance.root_device for _, device in target.attached):
        raise Conflict(f"{target.subject} is the root volume of {instance.id}", next="another volume")
    at = disks.mounted_at(operation.session, instance.id, str(target.id)) if attached else None
    place: Request = {"volume": target.id, "instance": instance.id}
    staging = _staging(operation, dataset, target, request, instance.id, temporary=False)
    staging = {**staging, "path": at or PATH, "spec": {**staging["spec"], "folder": at or PATH}}
    steps: list[PlannedStep] = []
    if not attached:
        steps.append(_step("free-1", "free-volume", {"volume": target.id}))
        steps.append(_step("attach-1", "attach-volume", place))
    if at is None:
        steps.append(_step("mount-1", "mount", {**place, "path": PATH}))
    steps += _unmark(target, 1, steps[-1].name if steps else None)
    steps.append(_step("copy-1", "stage-dataset", staging))
    if at is None:
        release = {**place, "mounted": True, "attached": not attached, "device": ""}
        steps.append(_step("release-1", "release-volume", release))
    return steps


def _staging(
    operation: Operation,
    dataset: Dataset,
    target: Target,
    request: WarmRequest,
    instance: Any,
    *,
    temporary: bool,
) -> Request:
    session = operation.session
    spec = {
        "format": 1,
        "bucket": dataset.bucket,
        "prefix": dataset.prefix,
        "region": dataset.region,
        "host": session.s3_host(dataset.region),
        "folder": PATH,
        "delete": request.delete,
        "check": request.check,
        "lease_seconds": request.lease_minutes * 60 if temporary else 0,
        "machine": {"disposable": temporary, "watch_notice": True},
    }
    return {
        "instance": instance,
        "volume": target.id,
        "path": PATH,
        "location": dataset.location,
        "agent_bucket": request.bucket or operation.once("bucket", lambda: account.default_bucket(session)),
        "spec": spec,
    }


def _marked(dataset: Dataset, target: Target, stagings: list[str]) -> PlannedStep:
    fields = ("version", "files", "bytes", "left_out_files", "extra_files")
    asked = {
        "volume": target.id,
        "location": dataset.location,
        "stagings": [{field: result_of(name, field) for field in fields} for name in stagings],
    }
    return _step("mark", "mark-volume", asked)


def _snapshot(
    operation: Operation,
    dataset: Dataset,
    target: Target,
    request: WarmRequest,
    state: dict[str, Any],
) -> list[PlannedStep]:
    """A snapshot with the tags that say what is on it."""
    own = VolumeRequest(project=request.project, user=request.user, purpose="data")
    tags: dict[str, Any] = own_volumes.tags_of(operation, own)
    tags |= {
        "Name": target.tags.get("Name") or dataset.location[:200],
        TAG_DATASET: dataset_tag(dataset.location),
        **state,
    }
    taken = {"volume": target.id, "description": f"{dataset.location}"[:255], "tags": tags}
    return [
        _step("snapshot", "create-snapshot", taken),
        _step("complete", "wait-snapshot", {"snapshot": result_of("snapshot")}),
    ]


def _step(name: str, kind: str, request: Request) -> PlannedStep:
    return PlannedStep(name=name, kind=kind, requests=(request,))


# The machine


def _given(operation: Operation, target: Target, instance_id: str) -> Instance:
    instance = own_volumes.existing_instance(operation, instance_id)
    if instance.zone != target.zone:
        raise Conflict(
            f"{target.subject} is in {target.zone}, {instance_id} in {instance.zone}",
            why="a volume can be attached in its own zone alone",
            next=f"without --instance a temporary machine in {target.zone} does it; or take it there: "
            f"runctl aws ebs restore {quoted(target.subject)} --availability-zone {quoted(instance.zone)}",
        )
    if instance.state != "running" or not shell.is_online(operation.session, instance_id):
        raise Conflict(
            f"{instance_id} cannot be reached through SSM",
            why=f"it is {instance.state}",
            next=f"runctl aws start {quoted(instance_id)}, or without --instance",
        )
    return instance


def staged(made: dict[str, Any]) -> dict[str, Any]:
    """What the staging that came to its end did. Raises CloudError where none did."""
    for name, result in made.items():
        if name.startswith("copy-") and result.get("complete"):
            return result
    raise CloudError("Nothing was staged", service="ssm", operation="send_command", code="NotStaged")
