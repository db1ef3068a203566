"""Why an instance ended, by EC2's code: a wrong cause is a wrong report, or ten launches that cannot work."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from runctl.clock import SystemClock
from runctl.clouds import Cloud
from runctl.errors import NotFound
from runctl.model import Market, Offer
from runctl.providers.aws import instances
from runctl.providers.aws.session import Session

BY = {
    "Server.InsufficientInstanceCapacity": "cloud",
    "Server.InternalError": "cloud",
    "Server.ScheduledStop": "cloud",
    "Server.SpotInstanceShutdown": "cloud",
    "Server.SpotInstanceTermination": "cloud",
    "Server.SomethingNew": "cloud",
    "Client.InstanceInitiatedShutdown": "self",
    "Client.InstanceTerminated": "user",
    "Client.UserInitiatedHibernate": "user",
    "Client.UserInitiatedShutdown": "user",
    "Client.SomethingNew": "user",
    "Client.InternalError": "launch",
    "Client.InvalidSnapshot.NotFound": "launch",
    "Client.VolumeLimitExceeded": "launch",
}


class Answers(Session):
    """Describes one terminated instance; knows no spot request."""

    def __init__(self, code: str, **more: Any) -> None:
        super().__init__(Cloud(name="aws", key="aws", clock=SystemClock(), region="eu-central-1"))
        self.row = {
            "InstanceId": "i-1",
            "InstanceType": "g5.xlarge",
            "State": {"Name": "terminated"},
            "StateReason": {"Code": code, "Message": f"{code}: as EC2 says it"},
            "Placement": {"AvailabilityZone": "eu-central-1a"},
            "LaunchTime": datetime(2026, 6, 1, tzinfo=UTC),
            **more,
        }

    def call(self, service: str, operation: str, **_: Any) -> Any:
        if operation == "describe_spot_instance_requests":
            raise NotFound("The spot instance request ID 'sir-1' does not exist")
        return {"Reservations": [{"Instances": [self.row]}]}


@pytest.mark.parametrize(("code", "by"), BY.items())
def test_the_cause_of_an_end_is_told_right(code: str, by: str) -> None:
    machine = instances.describe(Answers(code), "i-1")
    found = instances.get(Answers(code), "i-1")
    assert machine is not None
    assert found is not None
    assert (machine.ended_by, found.ended_by) == (by, by)
    assert code in machine.reason


def test_a_launch_that_a_key_forbids_names_the_rights() -> None:
    machine = instances.describe(Answers("Client.InternalError"), "i-1")
    assert machine is not None
    assert "kms:CreateGrant" in machine.reason


def test_a_spot_request_that_is_forgotten_is_no_error_of_the_machines() -> None:
    gone = Answers("Server.SpotInstanceTermination", InstanceLifecycle="spot", SpotInstanceRequestId="sir-1")
    machine = instances.describe(gone, "i-1")
    assert machine is not None
    assert (machine.market, machine.ended_by, machine.ended) == (Market.SPOT, "cloud", None)


@pytest.mark.parametrize(
    ("kind", "limited"), [("t3.medium", True), ("t4g.large", True), ("g5.xlarge", False)]
)
def test_a_burstable_machine_runs_up_no_surcharge_that_no_meter_counts(kind: str, limited: bool) -> None:
    spec = instances.InstanceSpec(
        offer=Offer("aws", kind, "us-east-1a", Market.SPOT, None),
        image="ami-1",
        root_device="/dev/xvda",
        root_volume_gib=30,
        profile="runctl-instance",
        user_data="#!/bin/sh\n",
        tags={},
    )
    asked = instances.run_parameters(spec, "token")
    assert asked.get("CreditSpecification") == ({"CpuCredits": "standard"} if limited else None)
