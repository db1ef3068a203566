"""Which instances, volumes, snapshots, images, jobs, checkpoints and buckets depend on which. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from runctl import config
from runctl.ledger import AttemptRecord, JobRecord
from runctl.model import HOURS_PER_MONTH, TAG_JOB, TAG_MANAGED, TAG_PERSISTENT, TAG_PROJECT, TAG_USER, Price
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.snapshots import MachineImage, Snapshot
from runctl.providers.aws.volumes import Attachment, Volume
from runctl.safety.graph import NOTHING, Edge, Graph, Node, NodeKind, Relation
from runctl.safety.protection import evaluate, marked
from runctl.safety.vocabulary import Action, Activity, Disk, Effect, Facts, Request, ResourceKind

_MICRODOLLAR = Decimal("0.000001")
_LASTING = frozenset(
    {"unmanaged", "another user's", "protected tag", "persistent volume", "snapshot of an image"}
)
"""Rules that speak of what a resource is, not of what goes on at the moment."""


def graph_of(
    *,
    instances: Sequence[Instance] = (),
    volumes: Sequence[Volume] = (),
    snapshots: Sequence[Snapshot] = (),
    images: Sequence[MachineImage] = (),
    jobs: Sequence[JobRecord] = (),
    attempts: Sequence[AttemptRecord] = (),
    rates: Mapping[str, Price | None],
    protected: Mapping[str, str],
) -> Graph:
    """The graph of these resources; `rates` in USD/h by id, `protected` the rule's name by id.

    Public images are left out: they are nobody's cost and no deletion's business. A resource that another
    names and that is not among these is a node that is `gone`.
    """
    nodes: dict[str, Node] = {}
    for node in (
        *map(_instance_node, instances),
        *map(_volume_node, volumes),
        *map(_snapshot_node, snapshots),
        *map(_image_node, images),
        *map(_job_node, jobs),
        *_checkpoint_nodes(jobs, attempts),
        *_bucket_nodes(jobs),
    ):
        rate = rates.get(node.id)
        usd = node.usd_per_month if rate is None else _per_month(rate)
        nodes[node.id] = msgspec.structs.replace(
            node, usd_per_month=usd, protected_by=protected.get(node.id, "")
        )
    edges = {
        *_instance_edges(instances, {image.id for image in images}),
        *_disk_edges(volumes, snapshots, images),
        *_job_edges(instances, jobs, attempts),
    }
    for edge in sorted(edges):
        if edge.source not in nodes:
            nodes[edge.source] = _gone(edge.source)
        if edge.target not in nodes:
            nodes[edge.target] = _gone(edge.target)
    kinds = list(NodeKind)
    return Graph(
        nodes=tuple(sorted(nodes.values(), key=lambda node: (kinds.index(node.kind), node.id))),
        edges=tuple(sorted(edges)),
    )


def marks(
    *,
    instances: Sequence[Instance] = (),
    volumes: Sequence[Volume] = (),
    snapshots: Sequence[Snapshot] = (),
    images: Sequence[MachineImage] = (),
    user: str,
    now: datetime,
) -> dict[str, str]:
    """The rule that holds each resource for good, by id: what listings alone tell, no call is made."""
    tags_of = {volume.id: volume.tags for volume in volumes}
    attached: dict[str, dict[str, Attachment]] = {}
    # Instances and volumes are listed one after the other: what either tells of counts.
    for disk in [
        *(disk for volume in volumes for disk in volume.attachments),
        *(disk for instance in instances for disk in instance.disks),
    ]:
        attached.setdefault(disk.instance, {})[disk.volume] = disk
    users = {snapshot: image.id for image in images for snapshot in image.snapshots}
    asked: list[tuple[Action, str, Facts]] = []
    for instance in instances:
        disks = tuple(
            Disk(
                volume=disk.volume,
                device=disk.device,
                dies_with_instance=disk.delete_on_termination,
                tags=tags_of.get(disk.volume, {}),
            )
            for disk in attached.get(instance.id, {}).values()
        )
        facts = Facts(
            kind=ResourceKind.INSTANCE, tags=instance.tags, disks=disks, activity=Activity.IDLE, created=now
        )
        asked.append((Action.TERMINATE, instance.id, facts))
    asked += [
        (Action.DELETE, volume.id, Facts(kind=ResourceKind.VOLUME, tags=volume.tags)) for volume in volumes
    ]
    for snapshot in snapshots:
        needed_by = (users[snapshot.id],) if snapshot.id in users else ()
        facts = Facts(kind=ResourceKind.SNAPSHOT, tags=snapshot.tags, images=needed_by)
        asked.append((Action.DELETE, snapshot.id, facts))
    request = Request(bulk=True, user=user)
    found: dict[str, str] = {}
    for action, resource, facts in asked:
        verdict = evaluate(action, resource, facts, request, now, config.Protection())
        for finding in verdict.findings:
            if finding.rule in _LASTING and finding.effect in {Effect.FORCE, Effect.FORBID}:
                found.setdefault(resource, finding.rule)
    return found


def _per_month(rate: Price) -> Decimal:
    return (rate.usd_per_hour * HOURS_PER_MONTH).quantize(_MICRODOLLAR)


def _of_tags(tags: Mapping[str, str]) -> dict[str, object]:
    return {
        "project": tags.get(TAG_PROJECT, ""),
        "user": tags.get(TAG_USER, ""),
        "managed": tags.get(TAG_MANAGED) == "true",
    }


def _instance_node(found: Instance) -> Node:
    return msgspec.structs.replace(
        Node(
            id=found.id,
            kind=NodeKind.INSTANCE,
            name=found.name,
            detail=f"{found.instance_type} {found.market} in {found.zone}",
            state=found.state,
            region=found.region,
        ),
        **_of_tags(found.tags),
    )


def _volume_node(found: Volume) -> Node:
    return msgspec.structs.replace(
        Node(
            id=found.id,
            kind=NodeKind.VOLUME,
            name=found.name,
            detail=f"{found.size_gib} GiB {found.volume_type} in {found.zone}",
            state=found.state,
            region=found.region,
        ),
        **_of_tags(found.tags),
    )


def _snapshot_node(found: Snapshot) -> Node:
    return msgspec.structs.replace(
        Node(
            id=found.id,
            kind=NodeKind.SNAPSHOT,
            name=found.name,
            detail=f"of {found.size_gib} GiB, {found.started:%Y-%m-%d}",
            state=found.state,
            region=found.region,
        ),
        **_of_tags(found.tags),
    )


def _image_node(found: MachineImage) -> Node:
    # An image costs nothing beyond the snapshots that it needs.
    return msgspec.structs.replace(
        Node(
            id=found.id,
            kind=NodeKind.IMAGE,
            name=found.name,
            detail=f"{found.created:%Y-%m-%d}" if found.created else "",
            region=found.region,
            usd_per_month=NOTHING,
        ),
        **_of_tags(found.tags),
    )


def _job_node(job: JobRecord) -> Node:
    return Node(
        id=job.id,
        kind=NodeKind.JOB,
        name=job.name,
        detail=f"on {job.target}",
        state=job.state,
        project=job.project,
        user=job.user,
        usd_per_month=NOTHING,
    )


def _checkpoint_id(attempt: AttemptRecord) -> str:
    return f"{attempt.job}/{attempt.committed_name}"


def _checkpoint_nodes(jobs: Sequence[JobRecord], attempts: Sequence[AttemptRecord]) -> Iterator[Node]:
    """The newest committed checkpoint of each attempt; it costs nothing beyond its bucket."""
    by_id = {job.id: job for job in jobs}
    for attempt in attempts:
        if attempt.committed_name and (job := by_id.get(attempt.job)):
            step = "" if attempt.committed_step is None else f"step {attempt.committed_step}, "
            yield Node(
                id=_checkpoint_id(attempt),
                kind=NodeKind.CHECKPOINT,
                name=attempt.committed_name,
                detail=f"{step}attempt {attempt.number}",
                project=job.project,
                user=job.user,
                usd_per_month=NOTHING,
            )


def _bucket_of(job: JobRecord) -> str | None:
    return "s3://" + job.store[5:].partition("/")[0] if job.store.startswith("s3://") else None


def _bucket_nodes(jobs: Sequence[JobRecord]) -> Iterator[Node]:
    for bucket in {found for job in jobs if (found := _bucket_of(job))}:
        yield Node(id=bucket, kind=NodeKind.BUCKET, name=bucket.removeprefix("s3://"))


def _instance_edges(instances: Sequence[Instance], own_images: set[str]) -> Iterator[Edge]:
    for instance in instances:
        if instance.image in own_images:
            yield Edge(source=instance.id, target=instance.image, relation=Relation.STARTED_FROM)


def _disk_edges(
    volumes: Sequence[Volume], snapshots: Sequence[Snapshot], images: Sequence[MachineImage]
) -> Iterator[Edge]:
    for volume in volumes:
        for attachment in volume.attachments:
            # What is persistent is detached and kept, whatever EC2 was told at the attachment.
            dies = attachment.delete_on_termination and not marked(volume.tags, TAG_PERSISTENT)
            yield Edge(
                source=attachment.instance, target=volume.id, relation=Relation.USES, ends_together=dies
            )
        if volume.snapshot:
            yield Edge(source=volume.id, target=volume.snapshot, relation=Relation.RESTORED_FROM)
    for snapshot in snapshots:
        if snapshot.volume:
            yield Edge(source=snapshot.id, target=snapshot.volume, relation=Relation.MADE_FROM)
    for image in images:
        for snapshot_id in image.snapshots:
            yield Edge(source=image.id, target=snapshot_id, relation=Relation.NEEDS)


def _job_edges(
    instances: Sequence[Instance], jobs: Sequence[JobRecord], attempts: Sequence[AttemptRecord]
) -> Iterator[Edge]:
    by_id = {str(job.id): job for job in jobs}
    shown = {instance.id for instance in instances}
    newest: dict[str, str] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.number):
        if attempt.committed_name:
            newest[attempt.job] = _checkpoint_id(attempt)
    for job in jobs:
        # One with checkpoints is bound to its bucket through them.
        if job.id not in newest and (bucket := _bucket_of(job)):
            yield Edge(source=job.id, target=bucket, relation=Relation.KEEPS_IN)
    pairs = {(instance.tags.get(TAG_JOB, ""), instance.id) for instance in instances}
    # Instances of attempts that are long over are history, not resources.
    pairs |= {(attempt.job, attempt.instance_id) for attempt in attempts if attempt.instance_id in shown}
    for job_id, instance_id in pairs:
        if job := by_id.get(job_id):
            relation = Relation.RAN_ON if job.state.final else Relation.RUNS_ON
            yield Edge(source=job.id, target=instance_id, relation=relation)
    for attempt in attempts:
        if attempt.committed_name and (job := by_id.get(attempt.job)):
            checkpoint = _checkpoint_id(attempt)
            resumes = not job.state.final and checkpoint == newest[attempt.job]
            relation = Relation.RESUMES_FROM if resumes else Relation.WROTE
            yield Edge(source=attempt.job, target=checkpoint, relation=relation)
            if bucket := _bucket_of(job):
                yield Edge(source=checkpoint, target=bucket, relation=Relation.STORED_IN)


_PREFIXES = (
    ("i-", NodeKind.INSTANCE),
    ("vol-", NodeKind.VOLUME),
    ("snap-", NodeKind.SNAPSHOT),
    ("ami-", NodeKind.IMAGE),
)


def _gone(resource: str) -> Node:
    kind = next((kind for prefix, kind in _PREFIXES if resource.startswith(prefix)), NodeKind.VOLUME)
    return Node(id=resource, kind=kind, gone=True, usd_per_month=NOTHING)
