"""What a job's machines cost: the cloud's answers noted in the ledger, and the ledger's sums."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from runctl.errors import NotFound
from runctl.jobs.place import Place
from runctl.ledger import InstanceFacts, JobRecord, Ledger, ResourceRecord, VolumeFacts, decoded
from runctl.ledger.prices import spot_pool
from runctl.model import Market, Price, PricePoint
from runctl.pricing import catalog, meter
from runctl.providers.base import Disk, Machine, MachineState

BOOT_PATIENCE = timedelta(minutes=5)
"""From the launch on: how long the exact moment of the boot is waited for before a machine is counted."""


SIGHT_NOTED = timedelta(seconds=10)
"""On the cloud's clock: how old the note of a machine's last sight may become."""


class Spent(msgspec.Struct, frozen=True):
    """What one attempt, or a whole job, cost so far; `on_demand` is the same time at on-demand prices."""

    compute: meter.Cost
    disks: meter.Cost
    on_demand: Decimal | None

    @property
    def total(self) -> meter.Cost:
        return self.compute + self.disks


def note_machine(
    ledger: Ledger,
    place: Place,
    job: JobRecord,
    attempt: int,
    machine: Machine,
    *,
    asked: datetime,
    booted: datetime | None = None,
) -> None:
    """Write what the cloud, `asked` at that time, says of a machine into the ledger; idempotent.

    `booted` is when the machine's own agent says that it began to run.
    """
    if place.session is None:
        return
    known = _known(ledger, machine.id)
    if known is None:
        _save_instance(ledger, place, job, attempt, machine)
        ledger.resources.observe(
            machine.id, MachineState.PENDING, at=machine.launched, billable=False, price=None
        )
    elif known.ended is not None:
        return
    if machine.state is MachineState.PENDING:
        ledger.resources.seen([machine.id], asked)
    elif machine.state is not MachineState.RUNNING or booted or asked - machine.launched > BOOT_PATIENCE:
        _note_running(ledger, place, machine.id, booted)
    if machine.state in {MachineState.PENDING, MachineState.RUNNING}:
        _note_disks(ledger, place, job, attempt, machine)
        _note_sight(ledger, machine, asked)
        return
    ended = machine.ended or place.clock.now()
    if machine.state is MachineState.STOPPED:
        since = max(ended, ledger.resources.last_start(machine.id) or ended)
        ledger.resources.observe(machine.id, MachineState.STOPPED, at=since, billable=False, price=None)
        return
    close_machine(ledger, place, machine.id, at=ended, ended_by=machine.ended_by)


def _note_running(ledger: Ledger, place: Place, machine_id: str, booted: datetime | None) -> None:
    """From when on a machine is billed that was last noted as pending; nothing where it is noted already.

    EC2 bills from `running` on and does not tell when that was. The machine knows when it booted; where its
    agent never spoke, it is counted from when it was last seen to be pending, which is never too late.
    """
    last = ledger.resources.open_interval(machine_id)
    if last is None or last.state != MachineState.PENDING:
        return
    known = ledger.resources.get(machine_id)
    since = max(last.start, known.seen or last.start)
    if booted is not None:
        since = max(since, min(booted, place.clock.now()))
    facts = decoded(known.facts, InstanceFacts, machine_id)
    price, pool = _price_of(place, facts, known.zone)
    ledger.resources.observe(
        machine_id, MachineState.RUNNING, at=since, billable=True, price=price, pool=pool
    )


def _note_sight(ledger: Ledger, machine: Machine, asked: datetime) -> None:
    """Until when a machine that is billed was seen, now and then: a cloud that ends tells no more."""
    now = ledger.resources.open_interval(machine.id)
    known = ledger.resources.get(machine.id)
    if now is None or now.state != MachineState.RUNNING:
        return  # until when it was pending is noted as such
    if known.seen is None or asked - known.seen >= SIGHT_NOTED:
        ledger.resources.seen([machine.id, *(disk.id for disk in machine.disks)], asked)


def note_use(
    ledger: Ledger, place: Place, job: JobRecord, attempt: int, machine: Machine, since: datetime
) -> None:
    """A machine of the user's own: the job's is its use, from the attempt's start, not the machine itself."""
    use = use_of(machine.id, job.id, attempt)
    if place.session is None or _known(ledger, use) is not None:
        return
    _save_instance(ledger, place, job, attempt, msgspec.structs.replace(machine, id=use, launched=since))
    price, name = _price_of(place, _facts(machine), machine.zone)
    ledger.resources.observe(use, MachineState.RUNNING, at=since, billable=True, price=price, pool=name)


def use_of(machine_id: str, job: str, attempt: int) -> str:
    """The ledger's name for a job's use of a machine that is not its own."""
    return f"{machine_id}/{job}/{attempt}"


def close_machine(
    ledger: Ledger,
    place: Place,
    machine_id: str,
    *,
    at: datetime,
    ended_by: str | None,
    booted: datetime | None = None,
) -> None:
    """Close a machine and the disks that died with it, with the prices that were in force; idempotent."""
    known = _known(ledger, machine_id)
    if known is None or known.ended is not None:
        return
    _note_running(ledger, place, machine_id, booted)
    start = known.created
    at = max(at, start, ledger.resources.last_start(machine_id) or start)
    facts = decoded(known.facts, InstanceFacts, machine_id)
    if facts.market is Market.SPOT:
        note_prices(ledger, place, facts.instance_type, known.zone, start=start, end=at)
    ledger.resources.close(machine_id, at=at, ended_by=ended_by)
    for disk in ledger.resources.list(kind="volume", job=known.job):
        if disk.ended is None and decoded(disk.facts, VolumeFacts, disk.id).instance == machine_id:
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
        facts = decoded(resource.facts, InstanceFacts, resource.id)
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


def _price_of(place: Place, facts: InstanceFacts, zone: str) -> tuple[Price | None, str | None]:
    """The price to begin with, and the pool whose price points override it."""
    if facts.market is Market.SPOT:
        pool = spot_pool(place.cloud_key, zone, facts.instance_type)
        return catalog.spot_estimate(facts.instance_type, facts.region), pool
    return catalog.on_demand(facts.instance_type, facts.region), None


def _facts(machine: Machine) -> InstanceFacts:
    return InstanceFacts(instance_type=machine.instance_type, market=machine.market, region=machine.region)


def _save_instance(ledger: Ledger, place: Place, job: JobRecord, attempt: int, machine: Machine) -> None:
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
            facts=msgspec.json.encode(_facts(machine)),
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
