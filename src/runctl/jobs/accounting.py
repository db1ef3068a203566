"""What a job's machines cost: the cloud's answers noted in the ledger, and the ledger's sums."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from runctl.errors import NotFound
from runctl.jobs.place import Place
from runctl.ledger import InstanceFacts, JobRecord, Ledger, ResourceRecord, VolumeFacts
from runctl.ledger.prices import spot_pool
from runctl.model import Market, Price, PricePoint
from runctl.pricing import catalog, meter
from runctl.providers.base import Disk, Machine, MachineState


class Spent(msgspec.Struct, frozen=True):
    """What one attempt, or a whole job, cost so far; `on_demand` is the same time at on-demand prices."""

    compute: meter.Cost
    disks: meter.Cost
    on_demand: Decimal | None

    @property
    def total(self) -> meter.Cost:
        return self.compute + self.disks


def note_machine(ledger: Ledger, place: Place, job: JobRecord, attempt: int, machine: Machine) -> None:
    """Write what the cloud says of a machine into the ledger; repeating it changes nothing."""
    if place.session is None:
        return
    known = _known(ledger, machine.id)
    if known is None:
        _save_instance(ledger, place, job, attempt, machine)
    elif known.ended is not None:
        return
    price, name = _price_of(place, machine)
    last = ledger.resources.intervals(machine.id)[-1:]
    # EC2 shows no moment of entering `running`: from the launch on is never too little, nor is from the last
    # time that an inventory saw it pending.
    pending = bool(last) and last[0].state == "pending" and machine.state is not MachineState.PENDING
    if not last or pending:
        seen = known.seen if known and pending else None
        since = max(machine.launched, seen) if seen else machine.launched
        ledger.resources.observe(
            machine.id, MachineState.RUNNING, at=since, billable=True, price=price, pool=name
        )
    if machine.state in {MachineState.PENDING, MachineState.RUNNING}:
        _note_disks(ledger, place, job, attempt, machine)
        return
    if machine.state is MachineState.STOPPED:
        ended = machine.ended or place.clock.now()
        ledger.resources.observe(
            machine.id, MachineState.STOPPED, at=ended, billable=False, price=None, pool=None
        )
        return
    close_machine(ledger, place, machine.id, at=machine.ended or place.clock.now(), ended_by=machine.ended_by)


def note_use(
    ledger: Ledger, place: Place, job: JobRecord, attempt: int, machine: Machine, since: datetime
) -> None:
    """A machine of the user's own: the job's is its use, from the attempt's start, not the machine itself."""
    use = use_of(machine.id, job.id, attempt)
    if place.session is None or _known(ledger, use) is not None:
        return
    _save_instance(ledger, place, job, attempt, msgspec.structs.replace(machine, id=use, launched=since))
    price, name = _price_of(place, machine)
    ledger.resources.observe(use, MachineState.RUNNING, at=since, billable=True, price=price, pool=name)


def use_of(machine_id: str, job: str, attempt: int) -> str:
    """The ledger's name for a job's use of a machine that is not its own."""
    return f"{machine_id}/{job}/{attempt}"


def close_machine(
    ledger: Ledger, place: Place, machine_id: str, *, at: datetime, ended_by: str | None
) -> None:
    """Close a machine and the disks that died with it, with the prices that were in force; idempotent."""
    known = _known(ledger, machine_id)
    if known is None or known.ended is not None:
        return
    start = known.created
    at = max(at, start)
    facts = msgspec.json.decode(known.facts, type=InstanceFacts)
    if facts.market is Market.SPOT:
        note_prices(ledger, place, facts.instance_type, known.zone, start=start, end=at)
    ledger.resources.close(machine_id, at=at, ended_by=ended_by)
    for disk in ledger.resources.list(kind="volume", job=known.job):
        if disk.ended is None and msgspec.json.decode(disk.facts, type=VolumeFacts).instance == machine_id:
            ledger.resources.close(disk.id, at=max(at, disk.created), ended_by=ended_by)


def note_prices(
    ledger: Ledger, place: Place, instance_type: str, zone: str, *, start: datetime, end: datetime
) -> None:
    """Bring the spot prices of a pool into the ledger for a stretch of time."""
    if place.session is not None:
        from runctl.providers.aws import market

        history = market.spot_history(
            place.session, instance_type, start=start, end=end + timedelta(seconds=1), zones=[zone]
        )
        ledger.prices.add(spot_pool(place.cloud_key, zone, instance_type), history.get(zone, []))


def spent(ledger: Ledger, job: str, now: datetime, *, attempt: int | None = None) -> Spent:
    """What a job, or one attempt of it, cost so far by the ledger."""
    compute, disks = meter.Cost(), meter.Cost()
    on_demand: Decimal | None = Decimal(0)
    for resource in ledger.resources.list(job=job):
        if attempt is not None and resource.attempt != attempt:
            continue
        intervals = ledger.resources.intervals(resource.id)
        if resource.kind == "volume":
            disks += meter.volume_cost(intervals, now)
            continue
        facts = msgspec.json.decode(resource.facts, type=InstanceFacts)
        points: dict[str, list[PricePoint]] = {
            name: ledger.prices.points(name) for name in {interval.pool for interval in intervals} if name
        }
        interrupted = facts.market is Market.SPOT and resource.ended_by == "cloud"
        compute += meter.instance_cost(intervals, now, points=points, interrupted=interrupted)
        on_demand = _plus_on_demand(on_demand, facts, intervals_seconds(ledger, resource.id, now))
    return Spent(compute, disks, on_demand)


def intervals_seconds(ledger: Ledger, resource_id: str, now: datetime) -> Decimal:
    """The billable seconds of an instance up to now."""
    total = sum(
        (
            ((interval.end or now) - interval.start)
            for interval in ledger.resources.intervals(resource_id)
            if interval.billable
        ),
        timedelta(0),
    )
    return Decimal(total // timedelta(microseconds=1)) / 1_000_000


def _plus_on_demand(so_far: Decimal | None, facts: InstanceFacts, seconds: Decimal) -> Decimal | None:
    price = catalog.on_demand(facts.instance_type, facts.region)
    if so_far is None or price is None:
        return None
    return so_far + price.usd_per_hour * seconds / 3600


def _price_of(place: Place, machine: Machine) -> tuple[Price | None, str | None]:
    """The price to begin with, and the pool whose price points override it."""
    if machine.market is Market.SPOT:
        name = spot_pool(place.cloud_key, machine.zone, machine.instance_type)
        return catalog.spot_estimate(machine.instance_type, machine.region), name
    return catalog.on_demand(machine.instance_type, machine.region), None


def _save_instance(ledger: Ledger, place: Place, job: JobRecord, attempt: int, machine: Machine) -> None:
    facts = InstanceFacts(instance_type=machine.instance_type, market=machine.market, region=machine.region)
    ledger.resources.save(
        ResourceRecord(
            id=machine.id,
            kind="instance",
            cloud=place.cloud_key,
            region=machine.region,
            zone=machine.zone,
            name=f"{job.id}/{attempt}",
            project=job.project,
            user=job.user,
            job=job.id,
            attempt=attempt,
            facts=msgspec.json.encode(facts),
            created=machine.launched,
        )
    )


def _note_disks(ledger: Ledger, place: Place, job: JobRecord, attempt: int, machine: Machine) -> None:
    """Note the disks once, when the cloud shows them."""
    if place.session is None or all(_known(ledger, disk.id) for disk in machine.disks):
        return
    from runctl.providers.aws import instances

    for disk in instances.describe_disks(place.session, machine.id):
        if disk.id in {mine.id for mine in machine.disks}:
            _save_disk(ledger, place, job, attempt, machine, disk)


def _save_disk(
    ledger: Ledger, place: Place, job: JobRecord, attempt: int, machine: Machine, disk: Disk
) -> None:
    ledger.resources.save(
        ResourceRecord(
            id=disk.id,
            kind="volume",
            cloud=place.cloud_key,
            region=machine.region,
            zone=machine.zone,
            name=f"{job.id}/{attempt} root",
            project=job.project,
            user=job.user,
            job=job.id,
            attempt=attempt,
            facts=msgspec.json.encode(
                VolumeFacts(volume_type=disk.volume_type, size_gib=disk.size_gib, instance=machine.id)
            ),
            created=machine.launched,
        )
    )
    rate: Price | None = catalog.volume_rate(
        disk.volume_type,
        size_gib=disk.size_gib,
        iops=disk.iops,
        throughput_mibs=disk.throughput_mibs,
        region=machine.region,
    )
    ledger.resources.observe(disk.id, "in-use", at=machine.launched, billable=True, price=rate)


def _known(ledger: Ledger, resource_id: str) -> ResourceRecord | None:
    try:
        return ledger.resources.get(resource_id)
    except NotFound:
        return None
