"""The sandbox's own bill and history, held against its own prices, in a sandbox of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import LiveSandbox

ON_DEMAND = Decimal("1.006")  # g5.xlarge
MONTH = Decimal(730 * 3600)
GP3, IOPS, MIBPS = Decimal("0.08"), Decimal("0.005"), Decimal("0.04")
MILLIONTH = Decimal("0.000001")
G5 = {"InstanceType": "g5.xlarge"}
SPOT = {**G5, "InstanceMarketOptions": {"MarketType": "spot"}}


# Its tests tell one story of one cloud: one worker runs them all, in order.
pytestmark = pytest.mark.xdist_group("cloud-bill")


@pytest.fixture(scope="module")
def cloud(
    tmp_path_factory: pytest.TempPathFactory,
    start_sandbox: Callable[..., contextlib.AbstractContextManager[LiveSandbox]],
) -> Iterator[LiveSandbox]:
    """A sandbox whose hours pass in seconds."""
    with start_sandbox(tmp_path_factory.mktemp("home"), isolation="plain", speed=40) as live:
        yield live


def lines(cloud: LiveSandbox) -> dict[str, dict[str, Any]]:
    return {line["id"]: line for line in cloud.control.bill()["lines"]}


def times(cloud: LiveSandbox, machine: str) -> dict[str, float]:
    return {row["state"]: row["at"] for row in cloud.control.history() if row["instance"] == machine}


def ended(cloud: LiveSandbox, machine: str, state: str = "terminated") -> dict[str, float]:
    cloud.client("ec2").terminate_instances(InstanceIds=[machine])
    cloud.until(lambda: cloud.state(machine) == state)
    return times(cloud, machine)


def wait_cloud_seconds(cloud: LiveSandbox, seconds: float) -> None:
    end = cloud.control.status()["now"] + seconds
    cloud.until(lambda: cloud.control.status()["now"] >= end)


def test_a_short_run_costs_a_minute_and_carries_its_job(cloud: LiveSandbox) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "runctl:job", "Value": "digits-1"}]}]
    length = 60.0
    cloud.control.set_speed(5)
    while length >= 60:  # a busy host may see late that it runs
        machine = cloud.launch(**G5, TagSpecifications=tags)
        cloud.until(lambda machine=machine: cloud.state(machine) == "running")
        at = ended(cloud, machine)
        line = lines(cloud)[machine]
        assert (line["job"], line["kind"]) == ("digits-1", "instance")
        length = at["shutting-down"] - at["running"]
        assert line["seconds"] == pytest.approx(length, abs=0.01)
    cloud.control.set_speed(40)
    assert abs(Decimal(line["usd"]) - ON_DEMAND / 60) < MILLIONTH


def test_a_longer_run_costs_its_seconds(cloud: LiveSandbox) -> None:
    machine = cloud.launch(**G5)
    cloud.until(lambda: cloud.state(machine) == "running")
    wait_cloud_seconds(cloud, 70)
    at = ended(cloud, machine)
    length = Decimal(at["shutting-down"] - at["running"])
    assert length > 70
    assert abs(Decimal(lines(cloud)[machine]["usd"]) - ON_DEMAND * length / 3600) < MILLIONTH


def test_what_the_cloud_takes_back_in_its_first_hour_is_free(cloud: LiveSandbox) -> None:
    machine = cloud.launch(**SPOT)
    cloud.until(lambda: cloud.state(machine) == "running")
    cloud.control.interrupt(machine, notice=10)
    cloud.until(lambda: cloud.state(machine) == "terminated")
    line = lines(cloud)[machine]
    assert Decimal(line["usd"]) == 0
    assert line["seconds"] > 5


def test_spot_costs_the_price_in_force_hour_by_hour(cloud: LiveSandbox) -> None:
    machine = cloud.launch(**SPOT)
    cloud.until(lambda: cloud.state(machine) == "running")
    cloud.control.set_speed(4_000)
    try:
        wait_cloud_seconds(cloud, 2.5 * 3600)
    finally:
        cloud.control.set_speed(40)
    at = ended(cloud, machine)
    start, end = at["running"], at["shutting-down"]
    history = cloud.client("ec2").describe_spot_price_history(
        InstanceTypes=["g5.xlarge"],
        AvailabilityZone="us-east-1a",
        StartTime=datetime.fromtimestamp(start, UTC),
        EndTime=datetime.fromtimestamp(end, UTC),
    )["SpotPriceHistory"]
    points = [(row["Timestamp"].timestamp(), Decimal(row["SpotPrice"])) for row in reversed(history)]
    assert len(points) >= 3
    bounds = [*(since for since, _ in points[1:]), end]
    expected = sum(
        (
            price * Decimal(until - max(since, start)) / 3600
            for (since, price), until in zip(points, bounds, strict=True)
        ),
        Decimal(0),
    )
    assert abs(Decimal(lines(cloud)[machine]["usd"]) - expected) < MILLIONTH


def test_a_stopped_machine_costs_its_disk_alone(cloud: LiveSandbox) -> None:
    ec2 = cloud.client("ec2")
    machine = cloud.launch(**G5)
    cloud.until(lambda: cloud.state(machine) == "running")
    ec2.stop_instances(InstanceIds=[machine])
    cloud.until(lambda: cloud.state(machine) == "stopped")
    root = cloud.instance(machine)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    before = lines(cloud)
    wait_cloud_seconds(cloud, 60)
    after = lines(cloud)
    assert after[machine]["usd"] == before[machine]["usd"]
    assert Decimal(after[root]["usd"]) > Decimal(before[root]["usd"])
    ec2.start_instances(InstanceIds=[machine])
    cloud.until(lambda: cloud.state(machine) == "running")
    ended(cloud, machine)
    assert abs(Decimal(lines(cloud)[machine]["usd"]) - 2 * ON_DEMAND / 60) < MILLIONTH


def test_a_disk_costs_what_it_is_from_creation_to_deletion(cloud: LiveSandbox) -> None:
    ec2 = cloud.client("ec2")
    disk = cloud.volume(Size=100, Iops=5_000, Throughput=325)
    wait_cloud_seconds(cloud, 20)
    ec2.delete_volume(VolumeId=disk)
    line = lines(cloud)[disk]
    month = 100 * GP3 + 2_000 * IOPS + 200 * MIBPS
    assert abs(Decimal(line["usd"]) - month * Decimal(line["seconds"]) / MONTH) < MILLIONTH
    wait_cloud_seconds(cloud, 20)
    assert lines(cloud)[disk] == line


def test_the_total_is_the_sum_and_what_status_says(cloud: LiveSandbox) -> None:
    machine = cloud.launch(**G5)
    cloud.until(lambda: cloud.state(machine) == "running")
    cloud.control.set_speed(4_000)  # so that a second look at what goes on costing would show
    try:
        wait_cloud_seconds(cloud, 70)  # the first minute costs the same however long it is
        bill = cloud.control.bill()
    finally:
        cloud.control.set_speed(40)
        ended(cloud, machine)
    total = sum((Decimal(line["usd"]) for line in bill["lines"]), Decimal(0))
    assert abs(Decimal(bill["total"]) - total) < MILLIONTH
    assert Decimal(cloud.control.status()["spent"]) >= Decimal(bill["total"])
    ran = {row["instance"] for row in cloud.control.history() if row["state"] == "running"}
    assert ran <= {line["id"] for line in bill["lines"]}


def test_the_log_of_states_ends_for_every_machine(cloud: LiveSandbox) -> None:
    last = {row["instance"]: row["state"] for row in cloud.control.history()}
    assert set(last.values()) == {"terminated"}
