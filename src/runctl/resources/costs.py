"""What things cost: the rate of one resource now, and the sums of the ledger with their arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec

from runctl.config import Thresholds
from runctl.ledger import InstanceFacts, Interval, Ledger, ResourceRecord, decoded
from runctl.ledger.prices import spot_pool
from runctl.model import Market, Price, PricePoint
from runctl.pricing import catalog, live, meter, thresholds
from runctl.pricing.meter import Cost, Stretch
from runctl.pricing.thresholds import Spending
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Volume
from runctl.resources import prices

DAY = timedelta(hours=24)
_FREE = Decimal(0)


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """USD/h as things run now, and USD of the last 24 hours, this month (UTC), and in all.

    `unknown` counts the resources of which a part has no known price; it is never counted as 0.
    """

    usd_per_hour: Decimal = Decimal(0)
    usd_last_day: Decimal = Decimal(0)
    usd_month: Decimal = Decimal(0)
    usd_total: Decimal = Decimal(0)
    unknown: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            usd_per_hour=self.usd_per_hour + other.usd_per_hour,
            usd_last_day=self.usd_last_day + other.usd_last_day,
            usd_month=self.usd_month + other.usd_month,
            usd_total=self.usd_total + other.usd_total,
            unknown=self.unknown + other.unknown,
        )


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One resource's part: what it is, its sums, and every stretch of its bill."""

    resource: ResourceRecord
    state: str
    sums: Sums
    stretches: tuple[Stretch, ...]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a cloud costs by the ledger, at `now`."""

    now: datetime
    total: Sums
    running: int
    by_kind: dict[str, Sums]
    by_project: dict[str, Sums]
    by_user: dict[str, Sums]
    warnings: tuple[str, ...]


def rate(session: Session, ledger: Ledger, resource: Instance | Volume | Snapshot) -> Price | None:
    """USD/h of a resource as it is now: a stopped instance costs nothing itself. None is unknown.

    Of a spot instance it is the price in force, by the price history that the ledger has.
    """
    if isinstance(resource, Instance):
        now = session.cloud.clock.now()
        if resource.state not in {"pending", "running"}:
            return Price(usd_per_hour=_FREE, source=resource.state, as_of=now)
        if resource.market is Market.SPOT:
            pool = spot_pool(session.cloud.key, resource.zone, resource.instance_type)
            if point := ledger.prices.in_force(pool, now):
                return Price(usd_per_hour=point.usd_per_hour, source=point.source, as_of=point.at)
        return running_rate(session, resource)
    cloud = session.cloud.key
    if isinstance(resource, Volume):
        return volume_rate(resource, cloud)
    return snapshot_rate(resource, cloud)


def running_rate(session: Session, instance: Instance) -> Price | None:
    """USD/h of an instance that runs, without its disks; of spot, what it usually is. None is unknown."""
    if instance.market is Market.SPOT:
        return catalog.spot_estimate(instance.instance_type, session.region)
    return prices.on_demand(session, instance.instance_type)


def volume_rate(volume: Volume, cloud: str) -> Price | None:
    """USD/h of a volume, attached or not, by what is known here of a cloud's prices. None is unknown."""
    return catalog.volume_rate(
        volume.volume_type,
        size_gib=volume.size_gib,
        iops=volume.iops,
        throughput_mibs=volume.throughput_mibs,
        region=volume.region,
        gib=prices.gib(cloud, volume.region, volume.volume_type),
    )


def snapshot_rate(snapshot: Snapshot, cloud: str) -> Price | None:
    """USD/h of a snapshot by what it stores. None where EBS does not tell."""
    gib = prices.gib(cloud, snapshot.region, live.SNAPSHOT)
    return catalog.snapshot_rate(snapshot.stored_bytes, region=snapshot.region, gib=gib)


def accounts(ledger: Ledger, cloud: str, now: datetime) -> list[Account]:
    """Every resource that the ledger knows of a cloud, with its bill up to now."""
    intervals = ledger.resources.all_intervals(cloud=cloud)
    pools = {interval.pool for found in intervals.values() for interval in found if interval.pool}
    points = {name: ledger.prices.points(name) for name in pools}
    resources = ledger.resources.list(cloud=cloud)
    known = {resource.id for resource in resources}
    return [
        _account(resource, intervals.get(resource.id, []), now, points)
        for resource in resources
        if not _is_part_of(resource, known)
    ]


def _is_part_of(resource: ResourceRecord, known: Collection[str]) -> bool:
    """Whether it is a job's use (`i-1/job/2`) of an instance that is counted itself, and not twice."""
    whole, _, part = resource.id.partition("/")
    return bool(part) and whole in known


def summary(ledger: Ledger, cloud: str, now: datetime, limits: Thresholds) -> Summary:
    """The sums of the ledger, with a warning for each threshold that is reached."""
    total, running = Sums(), 0
    by_kind: dict[str, Sums] = {}
    by_project: dict[str, Sums] = {}
    by_user: dict[str, Sums] = {}
    for account in accounts(ledger, cloud, now):
        resource = account.resource
        total += account.sums
        running += resource.kind == "instance" and account.state == "running"
        for sums, key in (
            (by_kind, resource.kind),
            (by_project, resource.project or "(none)"),
            (by_user, resource.user or "(unknown)"),
        ):
            sums[key] = sums.get(key, Sums()) + account.sums
    return Summary(
        now=now,
        total=total,
        running=running,
        by_kind=by_kind,
        by_project=by_project,
        by_user=by_user,
        warnings=tuple(_warnings(total, limits)),
    )


def warnings(ledger: Ledger, cloud: str, now: datetime, limits: Thresholds) -> list[str]:
    """A sentence for each threshold that is reached, from the ledger alone."""
    total = Sums()
    for account in accounts(ledger, cloud, now):
        total += account.sums
    return _warnings(total, limits)


def _warnings(total: Sums, limits: Thresholds) -> list[str]:
    spending = Spending(total.usd_per_hour, total.usd_last_day, total.usd_total, unknown=total.unknown > 0)
    return thresholds.warnings(spending, limits)


def _account(
    resource: ResourceRecord,
    intervals: list[Interval],
    now: datetime,
    points: Mapping[str, list[PricePoint]],
) -> Account:
    if resource.kind == "instance":
        facts = decoded(resource.facts, InstanceFacts, resource.id)
        interrupted = facts.market is Market.SPOT and resource.ended_by == "cloud"
        stretches = meter.instance_stretches(intervals, now, points=points, interrupted=interrupted)
    else:
        stretches = meter.volume_stretches(intervals, now)
    whole = meter.total(stretches)
    month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    open_now = intervals[-1] if intervals and intervals[-1].end is None else None
    rate_now, known = _rate_now(open_now, now, points)
    return Account(
        resource=resource,
        state=open_now.state if open_now else "ended",
        sums=Sums(
            usd_per_hour=rate_now,
            usd_last_day=_between(stretches, now - DAY, now),
            usd_month=_between(stretches, month, now),
            usd_total=whole.usd,
            unknown=int(whole.known is None or not known),
        ),
        stretches=tuple(stretches),
    )


def _between(stretches: list[Stretch], since: datetime, until: datetime) -> Decimal:
    cost: Cost = thresholds.cost_between(stretches, since, until)
    return cost.usd


def _rate_now(
    interval: Interval | None, now: datetime, points: Mapping[str, list[PricePoint]]
) -> tuple[Decimal, bool]:
    """USD/h of what is open now, and whether it is known."""
    if interval is None or not interval.billable:
        return _FREE, True
    known = [point for point in points.get(interval.pool or "", []) if point.at <= now]
    if known:
        return known[-1].usd_per_hour, True
    if interval.price is None:
        return _FREE, False
    return interval.price.usd_per_hour, True
