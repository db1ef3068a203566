"""Spot over HTTP: requests, prices that move, notices, and machines that are taken away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from runctl.errors import NotFound, ValidationError

if TYPE_CHECKING:
    from conftest import LiveSandbox

SPOT = {"InstanceMarketOptions": {"MarketType": "spot"}, "InstanceType": "g5.xlarge"}
LASTING = {
    "InstanceMarketOptions": {
        "MarketType": "spot",
        "SpotOptions": {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop"},
    },
    "InstanceType": "g5.xlarge",
}
IMDS = "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest"
ACTION = (
    f"t=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {IMDS}/api/token); "
    f"curl -s -w ' %%{{http_code}}' -H \"X-aws-ec2-metadata-token: $t\" {IMDS}/meta-data/%s"
)


def request_of(cloud: LiveSandbox, machine: str) -> dict[str, Any]:
    request = cloud.instance(machine)["SpotInstanceRequestId"]
    asked = {"SpotInstanceRequestIds": [request]}
    return cloud.client("ec2").describe_spot_instance_requests(**asked)["SpotInstanceRequests"][0]


def metadata(cloud: LiveSandbox, machine: str, path: str) -> str:
    return cloud.command(machine, ACTION % path)["StandardOutputContent"]


def test_a_spot_machine_carries_its_market_and_its_request(sandbox_cloud: LiveSandbox) -> None:
    tags = [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "who", "Value": "me"}]}]
    machine = sandbox_cloud.launch(**SPOT, TagSpecifications=tags)
    assert sandbox_cloud.instance(machine)["InstanceLifecycle"] == "spot"
    request = request_of(sandbox_cloud, machine)
    assert request["InstanceId"] == machine
    assert (request["State"], request["Status"]["Code"]) == ("active", "fulfilled")
    assert request["Tags"] == [{"Key": "who", "Value": "me"}]
    by_request = [{"Name": "spot-instance-request-id", "Values": [request["SpotInstanceRequestId"]]}]
    found = sandbox_cloud.client("ec2").describe_instances(Filters=by_request)
    assert found["Reservations"][0]["Instances"][0]["InstanceId"] == machine
    assert "InstanceLifecycle" not in sandbox_cloud.instance(sandbox_cloud.launch())


def test_a_notice_comes_before_the_end_and_the_cloud_says_why(each_sandbox_cloud: LiveSandbox) -> None:
    cloud = each_sandbox_cloud
    machine = cloud.running(**SPOT)
    assert metadata(cloud, machine, "spot/instance-action").endswith("404")
    cloud.control.interrupt(machine, notice=120, rebalance_first=5)
    cloud.until(lambda: "200" in metadata(cloud, machine, "events/recommendations/rebalance"))
    cloud.until(lambda: '"action": "terminate"' in metadata(cloud, machine, "spot/instance-action"))
    assert cloud.state(machine) == "running"
    assert request_of(cloud, machine)["Status"]["Code"] == "marked-for-termination"
    cloud.until(lambda: cloud.state(machine) == "terminated")
    told, request = cloud.instance(machine), request_of(cloud, machine)
    assert told["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert told["StateTransitionReason"] == "Server.SpotInstanceTermination"
    assert (request["State"], request["Status"]["Code"]) == (
        "closed",
        "instance-terminated-no-capacity",
    )


def test_a_persistent_machine_is_stopped_and_a_one_time_one_cannot_be(sandbox_cloud: LiveSandbox) -> None:
    stop = sandbox_cloud.client("ec2").stop_instances
    once, lasting = sandbox_cloud.launch(**SPOT), sandbox_cloud.launch(**LASTING)
    for machine in (once, lasting):
        sandbox_cloud.until(lambda machine=machine: sandbox_cloud.state(machine) == "running")
    assert sandbox_cloud.refusal(stop, InstanceIds=[once]) == "UnsupportedOperation"
    sandbox_cloud.control.interrupt(lasting, action="stop", notice=1)
    sandbox_cloud.until(lambda: sandbox_cloud.state(lasting) == "stopped")
    assert sandbox_cloud.instance(lasting)["StateReason"]["Code"] == "Server.SpotInstanceShutdown"
    odd = {"SpotOptions": {"InstanceInterruptionBehavior": "stop"}, "MarketType": "spot"}
    assert (
        sandbox_cloud.refusal(sandbox_cloud.launch, InstanceMarketOptions=odd)
        == "InvalidParameterCombination"
    )


def test_a_cancelled_request_stays_to_be_seen_and_its_machine_goes_on(sandbox_cloud: LiveSandbox) -> None:
    ec2, machine = sandbox_cloud.client("ec2"), sandbox_cloud.launch(**SPOT)
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "running")
    request = request_of(sandbox_cloud, machine)["SpotInstanceRequestId"]
    ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request])
    told = request_of(sandbox_cloud, machine)
    assert (told["State"], told["Status"]["Code"]) == (
        "cancelled",
        "request-canceled-and-instance-running",
    )
    assert sandbox_cloud.state(machine) == "running"
    ec2.terminate_instances(InstanceIds=[machine])
    assert request_of(sandbox_cloud, machine)["Status"]["Code"] == "instance-terminated-by-user"
    unknown = {"SpotInstanceRequestIds": ["sir-00000000"]}
    assert sandbox_cloud.refusal(ec2.cancel_spot_instance_requests, **unknown) == (
        "InvalidSpotInstanceRequestID.NotFound"
    )


def test_prices_move_stay_below_on_demand_and_are_the_same_when_asked_twice(
    sandbox_cloud: LiveSandbox,
) -> None:
    ec2 = sandbox_cloud.client("ec2")
    now = datetime.fromtimestamp(sandbox_cloud.control.status()["now"], UTC)
    start = now - timedelta(hours=30)
    asked = {"InstanceTypes": ["g5.xlarge"], "StartTime": start, "EndTime": now}
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        **asked, PaginationConfig={"PageSize": 40}
    )
    rows = [row for page in pages for row in page["SpotPriceHistory"]]
    assert rows == ec2.describe_spot_price_history(**asked)["SpotPriceHistory"]
    here = [row for row in rows if row["AvailabilityZone"] == "us-east-1a"]
    assert len(here) == 31
    assert sum(row["Timestamp"] < start for row in here) == 1
    prices = {Decimal(row["SpotPrice"]) for row in here}
    assert len(prices) > 10
    assert all(Decimal("0.1") < price < Decimal("1.006") for price in prices)
    assert len({row["AvailabilityZone"] for row in rows}) == 6


def test_a_ceiling_below_the_price_is_refused(sandbox_cloud: LiveSandbox) -> None:
    market = {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.01"}}
    refused = sandbox_cloud.refusal(
        sandbox_cloud.launch, InstanceMarketOptions=market, InstanceType="g5.xlarge"
    )
    assert refused == "SpotMaxPriceTooLow"


def test_only_a_running_spot_machine_can_be_interrupted(sandbox_cloud: LiveSandbox) -> None:
    machine = sandbox_cloud.launch()
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "running")
    with pytest.raises(ValidationError) as refused:
        sandbox_cloud.control.interrupt(machine)
    assert "on-demand" in refused.value.why
    with pytest.raises(NotFound):
        sandbox_cloud.control.interrupt("i-0123456789abcdef0")
