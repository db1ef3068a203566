"""Everything that costs, as rows: read from the cloud, filtered, sorted, each with its cost."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from runctl.ledger import JobRecord, Ledger
from runctl.model import (
    HOURS_PER_MONTH,
    TAG_IMPORTANT,
    TAG_JOB,
    TAG_MANAGED,
    TAG_PERSISTENT,
    TAG_PROJECT,
    TAG_PROTECTED,
    TAG_USER,
)
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.snapshots import MachineImage, Snapshot
from runctl.providers.aws.volumes import Volume
from runctl.resources import costs, inventory
from runctl.resources.operation import Operation
from runctl.safety.protection import marked

JOBS = 1000


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What to show, and in which order. None lets everything through."""

    kind: str | None = None
    platform: str | None = None
    project: str | None = None
    user: str | None = None
    state: str | None = None
    unmanaged: bool = False
    sort: str = "kind"
    limit: int | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One resource: money in USD (None is unknown), `protected` names what keeps it."""

    id: str
    kind: str
    platform: str
    name: str
    state: str
    what: str
    region: str
    zone: str
    project: str
    user: str
    job: str
    created: datetime | None
    usd_per_hour: Decimal | None
    usd_per_month: Decimal | None
    usd_so_far: Decimal | None
    protected: str
    managed: bool


def rows(
    operation: Operation, sessions: Sequence[Session], filters: Filters
) -> tuple[list[Row], tuple[str, ...]]:
    """The rows, and what could not be read. The ledger is brought up to date on the way."""
    seen = inventory.read(sessions, emit=operation.emit)
    inventory.refresh(operation.ledger, sessions, seen)
    so_far = {
        account.resource.id: None if account.sums.unknown else account.sums.usd_total
        for account in costs.accounts(operation.ledger, seen.cloud, seen.taken)
    }
    by_region = {session.region: session for session in sessions}
    found = [
        _row(by_region[resource.region], operation.ledger, resource, so_far.get(resource.id))
        for resource in (*seen.instances, *seen.volumes, *seen.snapshots)
    ]
    found += [_image(image, seen.cloud) for image in seen.images]
    found += _jobs(operation.ledger, seen.cloud, ended=filters.kind == "job")
    return _chosen(found, filters), seen.failures


def _jobs(ledger: Ledger, cloud: str, *, ended: bool) -> list[Row]:
    """The jobs of a cloud and of this machine; those that have ended only where jobs are asked for."""
    return [
        _job(job)
        for job in ledger.jobs.list(limit=JOBS)
        if (job.cloud == cloud or job.folder is not None) and (ended or not job.state.final)
    ]


def _platform(cloud: str) -> str:
    """`aws` or `sandbox`, by a cloud's key."""
    return cloud.partition(":")[0]


def _chosen(found: list[Row], filters: Filters) -> list[Row]:
    wanted = [
        row
        for row in found
        if filters.kind in {None, row.kind}
        and filters.platform in {None, row.platform}
        and filters.project in {None, row.project}
        and filters.user in {None, row.user}
        and filters.state in {None, row.state}
        and (filters.unmanaged or row.managed)
    ]
    never = datetime.max.replace(tzinfo=wanted[0].created.tzinfo) if wanted and wanted[0].created else None
    match filters.sort:
        case "age":
            wanted.sort(key=lambda row: (row.created is None, row.created or never, row.id))
        case "cost":
            wanted.sort(key=lambda row: (-(row.usd_per_hour or Decimal(0)), row.id))
        case "name":
            wanted.sort(key=lambda row: (row.name, row.id))
        case _:
            wanted.sort(key=lambda row: (_ORDER[row.kind], row.name, row.id))
    return wanted[: filters.limit]


_ORDER = {"job": 0, "instance": 1, "volume": 2, "snapshot": 3, "image": 4}


def _row(
    session: Session, ledger: Ledger, resource: Instance | Volume | Snapshot, so_far: Decimal | None
) -> Row:
    price = costs.rate(session, ledger, resource)
    hourly = price.usd_per_hour if price else None
    kind, what, zone, created = _shape(resource)
    return Row(
        id=resource.id,
        kind=kind,
        platform=_platform(session.cloud.key),
        name=resource.name,
        state=resource.state,
        what=what,
        region=resource.region,
        zone=zone,
        project=resource.tags.get(TAG_PROJECT, ""),
        user=resource.tags.get(TAG_USER, ""),
        job=resource.tags.get(TAG_JOB, ""),
        created=created,
        usd_per_hour=hourly,
        usd_per_month=None if hourly is None else hourly * HOURS_PER_MONTH,
        usd_so_far=so_far,
        protected=_protection(resource.tags),
        managed=resource.tags.get(TAG_MANAGED) == "true",
    )


def _shape(resource: Instance | Volume | Snapshot) -> tuple[str, str, str, datetime]:
    match resource:
        case Instance():
            return (
                "instance",
                f"{resource.instance_type} {resource.market}",
                resource.zone,
                resource.launched,
            )
        case Volume():
            return (
                "volume",
                f"{resource.size_gib} GiB {resource.volume_type}",
                resource.zone,
                resource.created,
            )
        case Snapshot():
            return "snapshot", f"of {resource.volume}", "", resource.started


def _image(image: MachineImage, cloud: str) -> Row:
    return Row(
        id=image.id,
        kind="image",
        platform=_platform(cloud),
        name=image.name,
        state="available",
        what=f"{len(image.snapshots)} snapshots",
        region=image.region,
        zone="",
        project=image.tags.get(TAG_PROJECT, ""),
        user=image.tags.get(TAG_USER, ""),
        job=image.tags.get(TAG_JOB, ""),
        created=image.created,
        usd_per_hour=Decimal(0),  # its snapshots are rows of their own
        usd_per_month=Decimal(0),
        usd_so_far=None,
        protected=_protection(image.tags),
        managed=image.tags.get(TAG_MANAGED) == "true",
    )


def _job(job: JobRecord) -> Row:
    return Row(
        id=job.id,
        kind="job",
        platform=_platform(job.cloud) if job.folder is None else "local",
        name=job.name,
        state=job.state,
        what=f"on {job.target}",
        region="",
        zone="",
        project=job.project,
        user=job.user,
        job=job.id,
        created=job.created,
        usd_per_hour=None,
        usd_per_month=None,
        usd_so_far=None,
        protected="",
        managed=True,
    )


def _protection(tags: dict[str, str]) -> str:
    names = ((TAG_PERSISTENT, "persistent"), (TAG_PROTECTED, "protected"), (TAG_IMPORTANT, "important"))
    return ", ".join(word for tag, word in names if marked(tags, tag))
