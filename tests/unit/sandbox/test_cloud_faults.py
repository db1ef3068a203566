"""Faults over HTTP: what a call meets instead of, or beside, its true answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from runctl.errors import ValidationError

if TYPE_CHECKING:
    from conftest import LiveSandbox


@pytest.fixture
def cloud(sandbox_cloud: LiveSandbox) -> Iterator[LiveSandbox]:
    """The shared sandbox, without a fault afterwards."""
    yield sandbox_cloud
    sandbox_cloud.control.clear_faults()


def failure(call: Any, **arguments: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize(
    ("service", "operation", "refusal"),
    [
        ("ec2", "DescribeRegions", ("RequestLimitExceeded", 503)),
        ("ssm", "ListCommands", ("ThrottlingException", 400)),
        ("s3", "GetObject", ("SlowDown", 503)),
        ("iam", "ListRoles", ("Throttling", 400)),
        ("sts", "GetCallerIdentity", ("Throttling", 400)),
    ],
)
def test_throttling_speaks_each_services_own_protocol(
    cloud: LiveSandbox, service: str, operation: str, refusal: tuple[str, int]
) -> None:
    client = cloud.client(service)
    call = getattr(client, client.meta.method_to_api_mapping and _method(client, operation))
    cloud.control.add_fault(service, "throttle", operation=operation, count=1)
    asked = {"Bucket": "nobody", "Key": "nothing"} if service == "s3" else {}
    assert failure(call, **asked) == refusal


def _method(client: Any, operation: str) -> str:
    mapping: dict[str, str] = client.meta.method_to_api_mapping
    return next(name for name, api in mapping.items() if api == operation)


def test_an_sdk_that_retries_gets_past_a_throttle(cloud: LiveSandbox) -> None:
    cloud.control.add_fault("ec2", "throttle", operation="DescribeRegions", count=2)
    patient = cloud.client("ec2", retries={"total_max_attempts": 4, "mode": "standard"})
    answer = patient.describe_regions()
    assert answer["ResponseMetadata"]["RetryAttempts"] == 2


def test_a_lost_response_has_done_its_work(cloud: LiveSandbox) -> None:
    ec2, token = cloud.client("ec2"), cloud.name("token")
    asked = {"AvailabilityZone": "us-east-1a", "Size": 1, "VolumeType": "gp3", "ClientToken": token}
    cloud.control.add_fault("ec2", "lost-response", operation="CreateVolume", count=1)
    before = len(cloud.control.status()["disks"])
    with pytest.raises(ConnectionClosedError):
        ec2.create_volume(**asked)
    assert len(cloud.control.status()["disks"]) == before + 1
    ec2.create_volume(**asked)
    assert len(cloud.control.status()["disks"]) == before + 1


def test_an_error_of_ones_choice_for_every_call_is_an_outage(cloud: LiveSandbox) -> None:
    s3, bucket = cloud.client("s3"), cloud.name("bucket")
    s3.create_bucket(Bucket=bucket)
    cloud.control.add_fault("s3", "error", operation="*", code="ServiceUnavailable", status=503)
    assert failure(s3.put_object, Bucket=bucket, Key="k", Body=b"x" * 100_000) == ("ServiceUnavailable", 503)
    assert failure(s3.list_objects_v2, Bucket=bucket) == ("ServiceUnavailable", 503)
    cloud.control.clear_faults()
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_latency_delays_and_changes_nothing(cloud: LiveSandbox) -> None:
    cloud.control.add_fault("ec2", "latency", operation="DescribeRegions", latency=0.4, count=1)
    started = time.monotonic()
    cloud.client("ec2").describe_regions()
    assert time.monotonic() - started >= 0.4


def test_who_waits_goes_on_when_its_fault_is_cleared_and_the_others_stay(cloud: LiveSandbox) -> None:
    control, ec2 = cloud.control, cloud.client("ec2", read_timeout=600)
    control.add_fault("ec2", "latency", operation="DescribeRegions", latency=600, count=1)
    control.add_fault("s3", "error", operation="GetObject", status=503)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(ec2.describe_regions)
        try:
            cloud.until(lambda: control.status()["faults"][0]["hits"])
            assert not waits.done()
        finally:
            control.clear_faults("latency")
        assert waits.result(60)["Regions"]
    assert [fault["service"] for fault in control.status()["faults"]] == ["s3"]


def test_capacity_is_missing_where_it_was_taken_and_as_a_server_error(cloud: LiveSandbox) -> None:
    cloud.control.add_fault(
        "ec2", "no-capacity", operation="RunInstances", instance_type="g5.xlarge", zone="us-east-1a"
    )
    here, there = ({"AvailabilityZone": f"us-east-1{letter}"} for letter in "ab")
    assert failure(cloud.launch, InstanceType="g5.xlarge", Placement=here) == (
        "InsufficientInstanceCapacity",
        500,
    )
    assert cloud.launch(InstanceType="g5.xlarge", Placement=there)
    assert cloud.launch(InstanceType="c6i.large", Placement=here)


def test_a_count_runs_out(cloud: LiveSandbox) -> None:
    cloud.control.add_fault("ec2", "no-capacity", operation="RunInstances", count=1)
    assert failure(cloud.launch)[0] == "InsufficientInstanceCapacity"
    assert cloud.launch()
    [fault] = cloud.control.status()["faults"]
    assert (fault["hits"], fault["count"]) == (1, 0)


def test_a_rate_strikes_its_share(cloud: LiveSandbox) -> None:
    cloud.control.add_fault("ec2", "error", operation="DescribeRegions", rate=0.5)
    struck = [bool(cloud.refusal(cloud.client("ec2").describe_regions)) for _ in range(40)]
    assert 8 <= sum(struck) <= 32


@pytest.mark.parametrize("kind", ["wrong-state", "missing", "stale"])
def test_a_cloud_that_lies_about_one_machine_leaves_it_well(cloud: LiveSandbox, kind: str) -> None:
    machine, other = cloud.running(), cloud.launch()
    cloud.control.add_fault("ec2", kind, operation="DescribeInstances", instance=machine)
    told = {"wrong-state": "terminated", "missing": "", "stale": "pending"}[kind]
    assert cloud.state(machine) == told
    assert cloud.state(other)
    assert cloud.command(machine, "echo alive")["StandardOutputContent"] == "alive\n"
    cloud.control.clear_faults()
    assert cloud.state(machine) == "running"


def test_metadata_can_be_away(cloud: LiveSandbox) -> None:
    machine = cloud.running()
    script = (
        "curl -s -o /dev/null -m 0.5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 9' "
        "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/api/token"
    )
    cloud.control.add_fault("imds", "away", instance=machine)
    assert cloud.command(machine, script)["ResponseCode"] == 28  # curl: timed out
    cloud.control.clear_faults()
    assert cloud.command(machine, script)["ResponseCode"] == 0


@pytest.mark.parametrize(
    ("service", "kind", "fields"),
    [
        ("ec2", "earthquake", {}),
        ("ec2", "error", {"rate": 0}),
        ("ec2", "error", {"rate": 2}),
        ("imds", "away", {"instance": "i-0123456789abcdef0"}),
        ("ec2", "error", {"colour": "red"}),
        ("ec2", "wrong-state", {"state": "asleep"}),
    ],
)
def test_a_fault_that_cannot_be_is_refused(
    cloud: LiveSandbox, service: str, kind: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        cloud.control.add_fault(service, kind, **fields)
    assert cloud.control.status()["faults"] == []
