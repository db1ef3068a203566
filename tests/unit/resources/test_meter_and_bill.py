"""The product's meter against the sandbox's bill, which is worked out in another way from what happened."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cloud_values import KEY, SetClock, ValueSession, instance, inventory_of, snapshot, volume
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl.ledger import Ledger
from runctl.model import Market
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Volume
from runctl.resources import costs, inventory
from runctl.sandbox.prices import STEP_SECONDS, PriceBook
from runctl.sandbox.usage import InstanceUsage, Usage

BOOT = 12
HALF_A_CENT = Decimal("0.005")
TYPES = ("g5.xlarge", "m7i.xlarge", "p4d.24xlarge")
DISKS = ((100, "gp3", 3000, 125), (500, "gp3", 9000, 500), (200, "gp2", 600, 0), (64, "io2", 40_000, 0))
GIB = 2**30
STORED = (None, GIB // 7, 90 * GIB)
"""Bytes of a snapshot; None where EBS does not tell them."""

SNAPSHOT_GIB_MONTH, MONTH_HOURS = Decimal("0.05"), 730
STALE = timedelta(days=7, seconds=1)
"""After which a price that AWS told is asked for again."""

MOST_REPRICES = 4
"""Each takes a week, and spot prices are kept for ninety days."""

Usages = settings(max_examples=50, suppress_health_check=list(HealthCheck))
ManyUsages = settings(Usages, max_examples=500)


class ChangingPrices(PriceBook):
    """On-demand prices that change, too, from some moment on."""

    def __init__(self, seed: int, since: float) -> None:
        super().__init__(seed, since)
        self._first = PriceBook(seed, since)
        self._told: dict[str, list[tuple[float, Decimal]]] = {}

    def on_demand(self, instance_type: str) -> Decimal:
        told = self._told.get(instance_type)
        return told[-1][1] if told else super().on_demand(instance_type)

    def reprice(self, instance_type: str, price: Decimal, at: float) -> None:
        self._told.setdefault(instance_type, [(0.0, self.on_demand(instance_type))]).append((at, price))

    def on_demand_changes(self, instance_type: str) -> list[tuple[float, Decimal]]:
        return self._told.get(instance_type, [(0.0, self.on_demand(instance_type))])

    def _spot_step(self, instance_type: str, zone: str, step: int) -> Decimal:
        # What spot cost in the past is not what on-demand costs now.
        return self._first.spot(instance_type, zone, step * STEP_SECONDS)

    def dearest(self) -> Decimal:
        return max(price for kind in TYPES for _, price in self.on_demand_changes(kind))


class Bill(Usage):
    """The sandbox's books; a run on demand is paid at the price in force at each moment."""

    _prices: ChangingPrices

    def _run_usd(self, instance: InstanceUsage, start: float, end: float) -> Decimal:
        if instance.market == "spot":
            return super()._run_usd(instance, start, end)
        changes = self._prices.on_demand_changes(instance.instance_type)
        bounds = [*(at for at, _ in changes[1:]), float("inf")]
        usd = Decimal(0)
        for (since, price), until in zip(changes, bounds, strict=True):
            usd += price * Decimal(max(0.0, min(end, until) - max(start, since))) / 3600
        return usd


class World:
    """Machines and disks with a history, billed by the sandbox's books and shown to the product's ledger."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.clock = SetClock()
        self.random = random.Random(seed)
        self.prices = ChangingPrices(seed, self.clock.seconds)
        # The sandbox's clock speaks in seconds since the epoch.
        self.usage = Bill(_Seconds(self.clock), self.prices)  # pyright: ignore[reportArgumentType]
        self.session = ValueSession(self.clock, self._answer)
        self.ledger = ledger
        self.instances: dict[str, Instance] = {}
        self.volumes: dict[str, Volume] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.stored: list[tuple[Snapshot, float | None]] = []
        self.starts = self.reprices = 0

    def look(self) -> None:
        shown = (*self.instances.values(), *self.volumes.values(), *self.snapshots.values())
        seen = inventory_of(self.clock.now(), *shown)
        inventory.refresh(self.ledger, [self.session], seen)

    def wait(self, seconds: int) -> None:
        self.clock.sleep(seconds)

    def launch(self, kind: str, market: Market, zone: str) -> None:
        made = instance(
            len(self.instances) + 1, instance_type=kind, market=market, zone=zone, state="pending"
        )
        self._boot(made)

    def start(self) -> None:
        if found := self._one("stopped"):
            self._boot(found)

    def stop(self) -> None:
        if found := self._one("running"):
            self._end(found, "stopped", "Client.UserInitiatedShutdown", "user")

    def terminate(self) -> None:
        if found := self._one("running", "stopped"):
            self._end(found, "terminated", "Client.UserInitiatedShutdown", "user")

    def interrupt(self) -> None:
        if (found := self._one("running")) and found.market is Market.SPOT:
            self._end(found, "terminated", "Server.SpotInstanceTermination", "cloud")

    def create_volume(self, size: int, kind: str, iops: int, mibs: int) -> None:
        made = volume(len(self.usage.volumes) + 1, created=self.clock.now())
        self._shape(made.id, made, size, kind, iops, mibs)

    def modify_volume(self, size: int, kind: str, iops: int, mibs: int) -> None:
        if self.volumes:
            chosen = self.random.choice(sorted(self.volumes))
            self._shape(chosen, self.volumes[chosen], size, kind, iops, mibs)

    def delete_volume(self) -> None:
        if self.volumes:
            self.look()
            chosen = self.random.choice(sorted(self.volumes))
            del self.volumes[chosen]
            self.usage.volume_deleted(chosen)

    def create_snapshot(self, stored: int | None) -> None:
        made = snapshot(len(self.stored) + 1, started=self.clock.now(), stored_bytes=stored)
        self.snapshots[made.id] = made
        self.stored.append((made, None))

    def delete_snapshot(self) -> None:
        if self.snapshots:
            self.look()
            chosen = self.random.choice(sorted(self.snapshots))
            del self.snapshots[chosen]
            self.stored = [
                (made, self.clock.seconds if made.id == chosen else end) for made, end in self.stored
            ]

    def reprice(self, kind: str, factor: str) -> None:
        """AWS changes a price on demand, at a moment at which it is asked for again."""
        if self.reprices < MOST_REPRICES:
            self.reprices += 1
            self.wait(int(STALE.total_seconds()))
            self.prices.reprice(kind, self.prices.on_demand(kind) * Decimal(factor), self.clock.seconds)

    def billed(self, kind: str) -> Decimal:
        if kind == "snapshot":
            return sum(
                (
                    SNAPSHOT_GIB_MONTH
                    * made.stored_bytes
                    / GIB
                    * Decimal((end or self.clock.seconds) - made.started.timestamp())
                    / 3600
                    / MONTH_HOURS
                    for made, end in self.stored
                    if made.stored_bytes is not None
                ),
                Decimal(0),
            )
        lines = [line for line in self.usage.bill() if line["kind"] == kind]
        return sum((Decimal(line["usd"]) for line in lines), Decimal(0))

    def counted(self, kind: str) -> Decimal:
        found = costs.accounts(self.ledger, KEY, self.clock.now())
        unknown = {account.resource.id for account in found if account.sums.unknown}
        assert unknown == {
            made.id
            for made, end in self.stored
            if made.stored_bytes is None and end != made.started.timestamp()
        }
        for account in found:
            rates = {stretch.usd_per_hour for stretch in account.stretches if stretch.seconds}
            assert (None in rates) == (account.resource.id in unknown and bool(rates))
        return sum((one.sums.usd_total for one in found if one.resource.kind == kind), Decimal(0))

    def _one(self, *states: str) -> Instance | None:
        found = [one for one in self.instances.values() if one.state in states]
        return self.random.choice(found) if found else None

    def _boot(self, found: Instance) -> None:
        fresh = msgspec.structs.replace(
            found, state="pending", launched=self.clock.now(), ended=None, ended_by=None
        )
        self.instances[found.id] = fresh
        self.look()
        self.wait(BOOT)
        self.look()  # the last moment at which it is pending
        self.instances[found.id] = msgspec.structs.replace(fresh, state="running")
        self.usage.note(self._usage(fresh), "running")
        self.starts += 1
        self.look()

    def _end(self, found: Instance, state: str, cause: str, ended_by: str) -> None:
        self.instances[found.id] = msgspec.structs.replace(
            found,
            state=state,
            # EC2 keeps the time at which it stopped when what is stopped is terminated.
            ended=found.ended or self.clock.now(),
            ended_by=ended_by,
        )
        self.usage.note(self._usage(found), state, cause)

    def _usage(self, found: Instance) -> InstanceUsage:
        return InstanceUsage(found.id, found.instance_type, found.zone, str(found.market), "")

    def _shape(self, name: str, found: Volume, size: int, kind: str, iops: int, mibs: int) -> None:
        self.volumes[name] = msgspec.structs.replace(
            found, size_gib=size, volume_type=kind, iops=iops, throughput_mibs=mibs or None
        )
        self.usage.volume(name, kind, size, iops, mibs, "")

    def _answer(self, operation: str, **asked: Any) -> list[Any]:
        if operation == "get_products":
            wanted = {row["Field"]: row["Value"] for row in asked["Filters"]}
            if "instanceType" not in wanted:
                return []  # of disks and snapshots the bill knows the catalog's prices
            usd = str(self.prices.on_demand(wanted["instanceType"]))
            dimension = {"unit": "Hrs", "pricePerUnit": {"USD": usd}}
            terms = {"OnDemand": {"term": {"priceDimensions": {"dimension": dimension}}}}
            return [json.dumps({"terms": terms})]
        assert operation == "describe_spot_price_history"
        [kind] = asked["InstanceTypes"]
        begin, end = asked["StartTime"].timestamp(), asked["EndTime"].timestamp()
        return [
            {
                "Timestamp": datetime.fromtimestamp(when, UTC),
                "SpotPrice": str(price),
                "AvailabilityZone": zone,
            }
            for zone in {one.zone for one in self.instances.values()}
            for when, price in self.prices.changes(kind, zone, begin, end + STEP_SECONDS)
        ]


class _Seconds:
    def __init__(self, clock: SetClock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.seconds


happenings = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 40_000)),
        st.tuples(
            st.just("launch"),
            st.sampled_from(TYPES),
            st.sampled_from(list(Market)),
            st.sampled_from(["us-east-1a", "us-east-1b"]),
        ),
        st.tuples(st.sampled_from(["start", "stop", "stop", "start", "terminate", "interrupt"])),
        st.tuples(st.just("wait"), st.integers(1, 90)),
        st.tuples(st.sampled_from(["create_volume", "modify_volume"]), st.sampled_from(DISKS)).map(
            lambda pair: (pair[0], *pair[1])
        ),
        st.tuples(st.sampled_from(["delete_volume", "delete_snapshot"])),
        st.tuples(st.just("create_snapshot"), st.sampled_from(STORED)),
        st.tuples(st.just("reprice"), st.sampled_from(TYPES), st.sampled_from(["0.5", "1.25", "3"])),
    ),
    min_size=5,
    max_size=30,
)


@contextlib.contextmanager
def a_world(seed: int) -> Iterator[World]:
    """With a ledger and a file of prices of its own."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNCTL_HOME", folder)
        with Ledger.open(Path(folder)) as ledger:
            yield World(ledger, seed)


def agree(events: list[tuple[Any, ...]], seed: int) -> None:
    begun = [("launch", "g5.xlarge", market, "us-east-1a") for market in Market]
    with a_world(seed) as world:
        for name, *arguments in [*begun, *events, ("wait", 61)]:
            getattr(world, name)(*arguments)
            world.look()
        for kind in ("instance", "volume", "snapshot"):
            assert abs(world.counted(kind) - world.billed(kind)) < HALF_A_CENT, kind


@Usages
@given(happenings, st.integers(0, 10**6))
def test_the_meter_agrees_with_the_bill_to_the_cent(events: list[tuple[Any, ...]], seed: int) -> None:
    agree(events, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@ManyUsages
@given(happenings, st.integers(0, 10**6))
def test_over_many_histories_it_agrees_too(events: list[tuple[Any, ...]], seed: int) -> None:
    agree(events, seed)


def test_a_price_that_changes_in_mid_run_counts_from_then_on() -> None:
    """It was counted for the whole run, back to its launch."""
    with a_world(0) as world:
        world.launch("g5.xlarge", Market.ON_DEMAND, "us-east-1a")
        world.look()
        hours = Decimal(int(STALE.total_seconds())) / 3600
        before = world.prices.on_demand("g5.xlarge")
        world.reprice("g5.xlarge", "3")
        world.look()
        assert abs(world.counted("instance") - before * hours) < HALF_A_CENT
        world.wait(3600)
        world.look()
        assert abs(world.counted("instance") - before * (hours + 3)) < HALF_A_CENT


@Usages
@given(happenings, st.integers(0, 10**6))
def test_who_looks_seldom_counts_a_little_more_and_never_less(
    events: list[tuple[Any, ...]], seed: int
) -> None:
    """Only the boot is counted too much, where nobody saw the machine pending."""
    with a_world(seed) as world:
        seldom = Seldom(world)
        for name, *arguments in [*events, ("wait", 61)]:
            if name.endswith(("volume", "snapshot", "reprice")):
                continue
            getattr(world, name)(*arguments)
            seldom.look_where_a_run_would_be_lost()
        World.look(world)
        dearest = world.prices.dearest()
        more = world.counted("instance") - world.billed("instance")
        assert -HALF_A_CENT < more <= dearest * BOOT * world.starts / 3600 + HALF_A_CENT


class Seldom:
    """Looks at a world once in each run and each rest of a machine, and never while one boots."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runs: dict[str, str] = {}
        world.look = lambda: None  # type: ignore[method-assign]

    def look_where_a_run_would_be_lost(self) -> None:
        states = {name: one.state for name, one in self._world.instances.items()}
        if states != self._runs:
            self._runs = states
            World.look(self._world)


@pytest.mark.parametrize("kind", ["instance", "volume"])
def test_an_unknown_price_is_named_and_never_counted_as_nothing(
    ledger: Ledger, session: ValueSession, clock: SetClock, kind: str
) -> None:
    unknown = instance(1, instance_type="x9.unheard") if kind == "instance" else volume(1, volume_type="gp9")
    known = instance(2)
    inventory.refresh(ledger, [session], inventory_of(clock.now(), unknown, known))
    clock.sleep(timedelta(hours=2).total_seconds())
    found = costs.summary(ledger, KEY, clock.now(), _limits())
    assert found.total.unknown == 1
    assert found.by_kind[kind].unknown == 1
    assert found.total.usd_total == Decimal("2.012")  # two hours of the known one, at 1.006
    [account] = [one for one in costs.accounts(ledger, KEY, clock.now()) if one.sums.unknown]
    assert [stretch.usd_per_hour for stretch in account.stretches] == [None]
    assert [stretch.source for stretch in account.stretches] == ["unknown price"]


def _limits() -> Any:
    from runctl.config import Thresholds

    return Thresholds()


def test_over_http_the_meter_is_the_boot_and_the_waits_above_the_bill_and_never_below(
    sandbox_cloud: Any, ledger: Ledger
) -> None:
    session, ec2 = Session(sandbox_cloud.cloud()), sandbox_cloud.client("ec2")
    machine = sandbox_cloud.launch(InstanceType="g5.xlarge")
    disk = sandbox_cloud.volume()

    def look() -> None:
        inventory.refresh(ledger, [session], inventory.read([session], emit=lambda _: None))

    def until(state: str) -> None:
        sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == state)
        look()

    look()
    until("running")
    ec2.modify_volume(VolumeId=disk, Size=400)
    sandbox_cloud.until(lambda: sandbox_cloud.disk(disk)["Size"] == 400)
    look()
    ec2.stop_instances(InstanceIds=[machine])
    until("stopped")
    ec2.start_instances(InstanceIds=[machine])
    until("running")
    ec2.terminate_instances(InstanceIds=[machine])
    until("terminated")
    ec2.delete_volume(VolumeId=disk)
    sandbox_cloud.until(lambda: not sandbox_cloud.disk(disk))
    look()
    bill = {line["id"]: line for line in sandbox_cloud.control.bill()["lines"]}
    found = {one.resource.id: one for one in costs.accounts(ledger, session.cloud.key, _far())}
    more = found[machine].sums.usd_total - Decimal(bill[machine]["usd"])
    second = Decimal("1.006") / 3600
    assert -4 * second < more < 2 * 60 * second  # EC2 tells when a machine stopped in whole seconds
    paid = Decimal(bill[disk]["usd"])
    assert abs(found[disk].sums.usd_total - paid) < HALF_A_CENT
    assert found[disk].resource.ended is not None


def _far() -> datetime:
    return datetime(2100, 1, 1, tzinfo=UTC)
