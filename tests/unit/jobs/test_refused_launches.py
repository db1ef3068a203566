"""Refusals of a launch that are no want of capacity: quotas, zones without a subnet, a login that ended.

All were told as "no capacity anywhere, trying again in a minute", for ever, or ended the job at once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from runctl.errors import CapacityError, CloudError, ConfigError, QuotaError
from runctl.events import Notice
from runctl.jobs import launch as launching
from runctl.jobs import spec as specs
from runctl.jobs import supervise
from runctl.jobs.supervise import Supervisor
from runctl.model import JobState, Market, Offer
from runctl.providers.aws import instances, quotas
from runctl.providers.base import LaunchRequest

SUPERVISED = Callable[[], Any]


def is_ended(live: Any, machine: str) -> bool:
    """EC2 knows a new id after a while only, and not by each of its servers at once."""
    try:
        live.client("ec2").terminate_instances(InstanceIds=[machine])
    except ClientError:
        return False
    return True


def after_an_interruption(attempt: Any, emit: Callable[[Any], None] | None = None) -> SUPERVISED:
    """What supervises the launch of a second attempt, until its machine is there."""
    spec = specs.decode(attempt.ledger.jobs.get(attempt.job).spec)
    sent = msgspec.structs.replace(spec, code=specs.Code(key="runctl/bundles/x.tar.gz", sha256="0" * 64))
    attempt.ledger.jobs.replace_spec(attempt.job, specs.encode(sent))
    attempt.ledger.jobs.transition(
        attempt.job,
        JobState.RECOVERING,
        allowed_from={JobState.RUNNING},
        at=attempt.place.clock.now(),
        attempt=1,
        cause="the machine is lost",
    )

    def run() -> Any:
        supervisor = Supervisor(attempt.ledger, attempt.place, attempt.job, emit or attempt.events.append)
        job = supervisor.run(detach_after_launch=True)
        machines = [
            one.instance_id for one in attempt.ledger.jobs.attempts(attempt.job)[1:] if one.instance_id
        ]
        for machine in machines:
            attempt.live.until(lambda machine=machine: is_ended(attempt.live, machine))
        return job

    return run


def test_a_spent_quota_is_named_and_ends_the_job_after_one_round(
    attempted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "QUOTA_PATIENCE", timedelta(0))  # as for a job that had no machine yet
    attempt = attempted(max_attempts=3)
    attempt.live.control.add_fault(
        "ec2", "error", operation="RunInstances", code="VcpuLimitExceeded", status=400
    )
    with pytest.raises(QuotaError) as refused:
        after_an_interruption(attempt)()
    assert attempt.ledger.jobs.get(attempt.job).state is JobState.FAILED
    assert refused.value.quota == "L-1216C47A"
    assert "request-service-quota-increase --service-code ec2 --quota-code L-1216C47A" in refused.value.next
    told = [text for text in attempt.warnings() if "VcpuLimitExceeded" in text or "quota" in text]
    assert len(told) == 1, told  # all zones share it: the second is not asked


def test_a_quota_that_the_lost_machine_still_counts_against_is_waited_for(
    attempted: Callable[..., Any],
) -> None:
    attempt = attempted(max_attempts=3)
    attempt.live.control.add_fault(
        "ec2", "error", operation="RunInstances", code="VcpuLimitExceeded", status=400, count=1
    )
    assert after_an_interruption(attempt)().state is JobState.STAGING
    assert any("the quota is spent" in text for text in attempt.warnings())


def test_a_zone_without_a_default_subnet_is_passed_over(attempted: Callable[..., Any]) -> None:
    attempt = attempted(max_attempts=3)
    attempt.live.control.add_fault(
        "ec2", "error", operation="RunInstances", code="MissingInput", status=400, count=1
    )
    assert after_an_interruption(attempt)().state is JobState.STAGING
    assert any("MissingInput" in text for text in attempt.warnings())


def test_credentials_that_ended_at_an_interruption_are_waited_for_and_told_once(
    attempted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "REFUSED_LOOK_SECONDS", 0.1)
    attempt = attempted(max_attempts=3)
    attempt.live.control.add_fault(
        "ec2", "error", operation="DescribeInstanceTypeOfferings", code="ExpiredToken", status=400, count=3
    )
    assert after_an_interruption(attempt)().state is JobState.STAGING
    assert len([text for text in attempt.warnings() if "waits until there are credentials" in text]) == 1


def test_a_stop_reaches_a_job_that_waits_for_credentials(
    attempted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "REFUSED_LOOK_SECONDS", 60.0)
    attempt = attempted(max_attempts=3)
    attempt.live.control.add_fault(
        "ec2", "error", operation="DescribeInstanceTypeOfferings", code="ExpiredToken", status=400
    )

    def stop(event: Any) -> None:
        attempt.events.append(event)
        if isinstance(event, Notice) and "waits until" in event.text:
            attempt.ledger.jobs.transition(
                attempt.job,
                JobState.STOPPED,
                allowed_from={JobState.PROVISIONING},
                at=attempt.place.clock.now(),
                attempt=2,
                cause="asked for",
            )

    assert after_an_interruption(attempt, stop)().state is JobState.STOPPED


def refused(code: str) -> CapacityError:
    kind = QuotaError if code in quotas.CODES else CapacityError
    return kind(code, service="ec2", operation="run_instances", code=code)


def launched(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], offers: list[Offer]
) -> tuple[list[str], CloudError | None, list[str]]:
    """Which ways a launcher asks for, what it raises and what it tells; `answers` by type or type/zone."""
    asked: list[str] = []
    told: list[str] = []

    def launch(_: Any, __: Any, offer: Offer) -> Any:
        asked.append(f"{offer.instance_type}/{offer.zone}/{offer.market}")
        code = answers.get(f"{offer.instance_type}/{offer.zone}") or answers[offer.instance_type]
        error = refused(code)
        if isinstance(error, QuotaError):
            error = quotas.exceeded(error, offer.instance_type, offer.market, "us-east-1")
        raise error

    monkeypatch.setattr(launching.Launcher, "_launch_on", launch)
    none: Any = None

    def hear(event: Any) -> None:
        assert isinstance(event, Notice)
        told.append(event.text)

    launcher = launching.Launcher(none, none, none, none, hear, lambda: True)
    with pytest.raises(CloudError) as raised:
        launcher.launch(none, offers)
    return asked, raised.value, told


def offers(*types: str, market: Market = Market.SPOT) -> list[Offer]:
    return [Offer("aws", name, zone, market, None) for name in types for zone in ("a", "b")]


def test_a_quota_rules_out_its_family_and_market_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = dict.fromkeys(
        ("g5.xlarge", "g6.2xlarge", "p4d.24xlarge", "m7i.xlarge"), "MaxSpotInstanceCountExceeded"
    )
    ways = offers("g6.2xlarge", "g5.xlarge", "p4d.24xlarge")
    asked, error, told = launched(monkeypatch, codes, ways)
    # A smaller machine of the family may fit into what is left of its quota.
    assert asked == ["g6.2xlarge/a/spot", "g5.xlarge/a/spot", "p4d.24xlarge/a/spot"]
    assert isinstance(error, QuotaError)
    assert all("request-service-quota-increase" in text for text in told)
    assert "L-3819A6DF" in told[0]
    assert "L-7212CCBC" in told[2]


def test_want_of_capacity_anywhere_is_waited_for_though_quotas_are_spent_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes = {"g5.xlarge": "MaxSpotInstanceCountExceeded", "m7i.xlarge": "InsufficientInstanceCapacity"}
    _, error, _ = launched(monkeypatch, codes, offers("m7i.xlarge", "g5.xlarge"))
    assert isinstance(error, CapacityError)
    assert not launching.is_hopeless(error)
    _, error, _ = launched(monkeypatch, {"m7i.xlarge": "Unsupported"}, offers("m7i.xlarge"))
    assert isinstance(error, CapacityError)
    assert launching.is_hopeless(error)


@pytest.mark.parametrize(
    ("instance_type", "on_demand", "spot"),
    [
        ("g5.xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("g4dn.xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("p4d.24xlarge", "L-417A185B", "L-7212CCBC"),
        ("p5.48xlarge", "L-417A185B", "L-C4BD4855"),
        ("inf2.xlarge", "L-1945791B", "L-B5D1601B"),
        ("trn1.2xlarge", "L-2C3B7624", "L-6B0D517C"),
        ("m7i.large", "L-1216C47A", "L-34B43A08"),
        ("c7g.large", "L-1216C47A", "L-34B43A08"),
        ("t3.micro", "L-1216C47A", "L-34B43A08"),
        ("r7i.large", "L-1216C47A", "L-34B43A08"),
        ("dl1.24xlarge", "L-6E869C2A", "L-85EED4F7"),
        ("x2idn.16xlarge", "L-7295265B", "L-E3A00192"),
    ],
)
def test_the_quota_of_a_family_and_market(instance_type: str, on_demand: str, spot: str) -> None:
    found = [quotas.of(instance_type, market) for market in (Market.ON_DEMAND, Market.SPOT)]
    assert [quota and quota.code for quota in found] == [on_demand, spot]


def test_offers_are_of_zones_with_a_subnet_and_name_the_chosen_one(attempted: Callable[..., Any]) -> None:
    from runctl.pricing import catalog
    from runctl.resources.offers import offers as offers_of

    attempt = attempted()
    session, kind = attempt.place.session, catalog.instance_type("m7i.xlarge")
    ec2 = attempt.live.client("ec2")
    how: dict[str, Any] = {"spot": False, "fallback": False, "emit": lambda _: None}
    assert {offer.subnet for offer in offers_of(session, [kind], **how)} == {None}
    rows = ec2.describe_subnets()["Subnets"][:2]
    own = {row["AvailabilityZone"]: row["SubnetId"] for row in rows}
    found = offers_of(session, [kind], subnets=tuple(own.values()), **how)
    assert {offer.zone: offer.subnet for offer in found}.items() <= own.items()
    spec = instances.InstanceSpec(found[0], "ami-1", "/dev/xvda", 8, "p", "", {})
    parameters = instances.run_parameters(spec, "t")
    assert parameters["SubnetId"] == found[0].subnet
    assert "Placement" not in parameters
    with pytest.raises(ConfigError, match="no such subnet"):
        offers_of(session, [kind], subnets=("subnet-0123456789abcdef0",), **how)


def test_an_account_without_a_default_vpc_is_told_what_makes_one(
    attempted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runctl.providers.aws import subnets

    session = attempted().place.session
    monkeypatch.setattr(type(session), "pages", lambda *_, **__: iter(()))
    with pytest.raises(ConfigError) as raised:
        subnets.usable(session)
    assert "create-default-vpc" in raised.value.next


def test_a_launch_request_for_a_zone_without_a_subnet_is_a_want_of_capacity(
    attempted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = attempted().place.session

    def call(*_: Any, **__: Any) -> Any:
        raise CloudError(
            "No default subnet for availability zone: 'us-east-1e'.",
            service="ec2",
            operation="run_instances",
            code="InvalidInput",
        )

    monkeypatch.setattr(type(session), "call", call)
    request = LaunchRequest("t", Offer("aws", "m7i.large", "us-east-1e", Market.SPOT, None), "{}")
    with pytest.raises(CapacityError) as raised:
        instances.run(session, request)
    assert "create-default-subnet" in raised.value.next
