"""A machine ends by its lease at each of its lives, however it was started, and a lease can be renewed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from classics import Account, on_sandbox
from inside import Inside

pytestmark = pytest.mark.xdist_group("leases")

ITSELF = "Client.InstanceInitiatedShutdown"


@pytest.fixture
def account(sandbox: Any, tmp_path: Path) -> Iterator[Account]:
    with on_sandbox(sandbox, tmp_path) as found:
        yield Inside.of(found)


def lease(live: Any, instance: str) -> str:
    return {tag["Key"]: tag["Value"] for tag in live.instance(instance)["Tags"]}["runctl:lease-until"]


def until(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_l3_a_machine_that_is_started_again_ends_by_its_lease(account: Account, sandbox: Any) -> None:
    first = account.create_instance("--lease", "0.02")  # a minute of the cloud's time
    second = account.create_instance("--lease", "1")
    account.until(lambda: account.state(first) == "stopped")
    sandbox.client("ec2").start_instances(InstanceIds=[first])  # by another tool
    began = sandbox.instance(first)["LaunchTime"]

    before = until(lease(sandbox, second))
    said = account.ok("aws", "start", second, "--lease", "5", form="text")
    assert said.out == f"{second} is running\n"
    assert until(lease(sandbox, second)) - before > timedelta(hours=3)
    account.ok("aws", "stop", second)
    shown = account.ok("aws", "start", second, "--lease", "0.05", "--dry-run", form="text")
    assert shown.out == f"start {second}, lease: 0.05 hours\n"
    assert account.state(second) == "stopped"
    account.ok("aws", "start", second, "--lease", "0.05")
    now = sandbox.cloud().clock.now()
    assert until(lease(sandbox, second)) < now + timedelta(minutes=4)
    account.until(lambda: account.state(second) in {"stopping", "stopped"})
    assert sandbox.instance(second)["StateReason"]["Code"] == ITSELF

    account.until(lambda: account.state(first) == "stopped")
    found = sandbox.instance(first)
    assert found["LaunchTime"] == began
    assert found["StateReason"]["Code"] == ITSELF


@pytest.mark.slow
def test_a_lease_without_end_is_lifted(account: Account, sandbox: Any) -> None:
    instance = account.create_instance("--lease", "0.5")
    account.ok("aws", "start", instance, "--lease", "0")
    assert lease(sandbox, instance) == ""
    home = sandbox.home / "sandbox/state/machines" / instance
    assert list((home / "per-boot").iterdir()) == []
    tags = [{"Key": "runctl:job", "Value": "leased-1"}]
    sandbox.client("ec2").create_tags(Resources=[instance], Tags=tags)
    refused = account.run("aws", "start", instance, "--lease", "3")
    assert "is a job's machine" in refused.error["what"]
