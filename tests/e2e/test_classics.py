"""The sixteen end-to-end tests of the specification: in the sandbox and, with TRAINCTL_E2E=1, on AWS.

Each says what it costs on AWS at most; everything it makes carries its name and is removed though it fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from classics import ON_AWS, Account, on_aws, on_sandbox

SIXTEEN = 16
pytestmark = pytest.mark.xdist_group("classics")


@pytest.fixture
def account(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Account]:
    if ON_AWS:
        with on_aws(tmp_path) as found:
            yield found
    else:
        with on_sandbox(request.getfixturevalue("own_cloud"), tmp_path) as found:
            yield found


# Persistent storage


def test_a_persistent_volume_is_created_and_tagged(account: Account) -> None:
    """Costs less than 0.001 USD: 4 GiB of gp3 for a minute."""
    volume = account.create_volume("--persistent")
    tags = account.tags(volume)
    assert (tags["runctl:persistent"], tags["runctl:managed"]) == ("true", "true")
    assert account.volume(volume)["Encrypted"]
    listed = account.ok("aws", "ebs", "list", "--persistent", form="text").out
    line = next(line for line in listed.splitlines() if volume in line)
    assert "\N{LOCK}" in line


def test_a_persistent_volume_is_protected_from_deletion(account: Account) -> None:
    """Costs less than 0.001 USD: 4 GiB of gp3 for a minute."""
    volume = account.create_volume("--persistent")
    said = account.run("aws", "ebs", "delete", volume, "--yes")
    assert (said.code, said.error["kind"]) == (1, "Protected")
    assert "persistent volume" in said.error["reasons"]
    assert "--force" in said.error["next"]
    assert account.volume(volume)["State"] == "available"
    account.ok("aws", "ebs", "delete", volume, "--yes", "--force")
    account.until(lambda: not account.volume(volume))


def test_a_persistent_volume_survives_the_termination_of_its_instance(account: Account) -> None:
    """Costs less than 0.01 USD: a t3.micro for minutes."""
    instance = account.create_instance("--data-volume-size", "4", "--persistent")
    volume = next(
        found["VolumeId"]
        for found in account.ec2.describe_volumes(
            Filters=[{"Name": "attachment.instance-id", "Values": [instance]}]
        )["Volumes"]
        if {"Key": "runctl:persistent", "Value": "true"} in found["Tags"]
    )
    account.ok("aws", "terminate", instance, "--yes", "--force")
    account.until(lambda: account.state(instance) == "terminated")
    account.until(lambda: account.volume(volume)["State"] == "available")


def test_cleanup_skips_persistent_volumes_and_counts_them(account: Account) -> None:
    """Costs less than 0.001 USD: 8 GiB of gp3 for a minute."""
    kept = account.create_volume("--persistent", name="kept")
    said = account.ok("resources", "cleanup", "--dry-run", "--older-than", "0").data
    assert kept not in [item["id"] for item in said["plan"]["items"]]
    assert kept in [item["id"] for item in said["plan"]["skipped"]]
    account.ok("resources", "cleanup", "--yes", "--older-than", "0")
    assert account.volume(kept)["State"] == "available"


# Resource safety


def test_a_volume_is_not_attached_across_zones_and_the_way_is_told(account: Account) -> None:
    """Costs less than 0.01 USD: a t3.micro for minutes."""
    instance = account.create_instance()
    volume = account.create_volume(zone=account.zones[1])
    said = account.run("aws", "ebs", "attach", volume, instance)
    assert (said.code, said.error["kind"]) == (1, "Conflict")
    assert account.zones[0] in said.error["what"]
    assert account.zones[1] in said.error["what"]
    assert said.error["next"].startswith(f"runctl aws ebs restore {volume}")
    assert account.volume(volume)["State"] == "available"


def test_a_deletion_with_snapshots_warns_and_lists_them(account: Account) -> None:
    """Costs less than 0.001 USD: an empty snapshot and 4 GiB of gp3 for minutes."""
    volume = account.create_volume()
    snapshot = account.ok("aws", "ebs", "snapshot", volume, "--name", account.word).data["snapshot"]
    said = account.ok("aws", "ebs", "delete", volume, "--yes", "--force", form="text")
    assert snapshot in said.err
    account.until(lambda: not account.volume(volume))
    listed = account.ok("aws", "ebs", "snapshot-list", snapshot).data
    assert [found["snapshot"]["state"] for found in listed] == ["completed"]


def test_an_attached_volume_cannot_be_deleted_even_by_force(account: Account) -> None:
    """Costs less than 0.01 USD: a t3.micro for minutes."""
    instance, volume = account.create_instance(), account.create_volume()
    account.ok("aws", "ebs", "attach", volume, instance)
    said = account.run("aws", "ebs", "delete", volume, "--yes", "--force")
    assert (said.code, said.error["kind"]) == (1, "Protected")
    assert "attached volume" in said.error["reasons"]
    assert account.volume(volume)["State"] == "in-use"


# EBS life


def test_the_whole_life_of_a_volume(account: Account) -> None:
    """Costs less than 0.01 USD: a t3.micro, a snapshot and 12 GiB of gp3 for minutes."""
    instance, volume = account.create_instance("--wait"), account.create_volume()
    account.ok("aws", "ebs", "attach", volume, instance, "--mount", "/data")
    assert account.volume(volume)["Attachments"][0]["InstanceId"] == instance
    account.ok("aws", "ebs", "detach", volume)
    assert account.volume(volume)["State"] == "available"
    account.ok("aws", "ebs", "modify", volume, "--size", "6")
    assert account.volume(volume)["Size"] == 6
    snapshot = account.ok("aws", "ebs", "snapshot", volume, "--name", account.word).data["snapshot"]
    restored = account.ok(
        "aws", "ebs", "restore", snapshot, "--availability-zone", account.zones[1],
        "--name", f"{account.word}-again",
    ).data["volume"]  # fmt: skip
    assert account.volume(restored)["AvailabilityZone"] == account.zones[1]
    for gone in (volume, restored):
        account.ok("aws", "ebs", "delete", gone, "--yes", "--force")
        account.until(lambda v=gone: not account.volume(v))
    account.ok("aws", "ebs", "snapshot-delete", snapshot, "--yes", "--force")


def test_a_persistent_volume_stays_where_an_ephemeral_one_goes(account: Account) -> None:
    """Costs less than 0.01 USD: a t3.micro for minutes."""
    instance = account.create_instance("--data-volume-size", "4", "--persistent")
    disks = account.ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance]}])
    kinds = {
        found["VolumeId"]: {"Key": "runctl:persistent", "Value": "true"} in found["Tags"]
        for found in disks["Volumes"]
    }
    assert sorted(kinds.values()) == [False, True]
    account.ok("aws", "terminate", instance, "--yes", "--force")
    account.until(lambda: account.state(instance) == "terminated")
    for volume, persistent in kinds.items():
        if persistent:
            account.until(lambda v=volume: account.volume(v).get("State") == "available")
        else:
            account.until(lambda v=volume: not account.volume(v))


# Termination


def test_termination_detaches_and_keeps_an_attached_persistent_volume(account: Account) -> None:
    """Costs less than 0.01 USD: a t3.micro for minutes."""
    instance, volume = account.create_instance(), account.create_volume("--persistent")
    account.ok("aws", "ebs", "attach", volume, instance)
    said = account.ok("aws", "terminate", instance, "--yes", "--force", form="text")
    assert f"{volume} " in said.err
    assert "detached and kept" in said.err
    account.until(lambda: account.volume(volume)["State"] == "available")


def test_termination_warns_of_every_attached_volume_first(account: Account) -> None:
    """Costs less than 0.01 USD: a t3.micro for minutes."""
    instance, volume = account.create_instance(), account.create_volume(name="other")
    account.ok("aws", "ebs", "attach", volume, instance)
    said = account.ok("aws", "terminate", instance, "--dry-run", form="text")
    line = next(line for line in said.err.splitlines() if volume in line)
    assert "is kept, and goes on costing" in line
    assert "is deleted with the instance" in said.err
    assert account.state(instance) == "running"


# Cost thresholds


def test_a_threshold_that_is_reached_is_warned_of(account: Account) -> None:
    """Costs less than 0.01 USD: a t3.micro for minutes."""
    account.create_instance()
    quiet = account.ok("resources", "summary").data
    assert quiet["warnings"] == []
    loud = account.ok("resources", "summary", RUNCTL_THRESHOLDS_USD_PER_HOUR="0.001").data
    assert any("0.001" in warning for warning in loud["warnings"])


# AWS resources


def test_resources_are_listed(account: Account) -> None:
    """Costs less than 0.01 USD: a t3.micro for minutes."""
    instance, volume = account.create_instance(), account.create_volume()
    said = account.ok("resources", "list", "--quiet", form="text").out.split()
    assert {instance, volume} <= set(said)


def test_resources_are_summed_up(account: Account) -> None:
    """Costs less than 0.01 USD: a t3.micro for minutes."""
    account.create_instance()
    summary = account.ok("resources", "summary").data
    assert float(summary["usd_per_hour"]) > 0
    assert account.environment["RUNCTL_USER"] in summary["by_user"]


def test_zombies_are_found(account: Account) -> None:
    """Costs less than 0.001 USD: 4 GiB of gp3 for a minute."""
    volume = account.create_volume()
    said = account.ok("resources", "insights", "--idle-for", "0").data
    mine = [found for found in said["insights"] if found["resource"] == volume]
    assert mine
    assert volume in mine[0]["command"]
    assert float(mine[0]["usd_per_month"]) > 0


def test_a_dry_run_of_cleanup_touches_nothing(account: Account) -> None:
    """Costs less than 0.001 USD: 4 GiB of gp3 for a minute."""
    volume = account.create_volume()
    said = account.ok("resources", "cleanup", "--dry-run", "--older-than", "0").data
    seen = [item["id"] for item in [*said["plan"]["items"], *said["plan"]["skipped"]]]
    assert volume in seen
    assert account.volume(volume)["State"] == "available"


# The same code


@pytest.mark.skipif(ON_AWS, reason="it looks at both from outside")
def test_the_same_sixteen_run_in_the_sandbox_and_on_aws(tmp_path: Path) -> None:
    collected = {
        place: pytest_run(tmp_path, place, "--collect-only", "-q").splitlines()
        for place in ("sandbox", "aws")
    }
    tests = {place: [line for line in lines if "::" in line] for place, lines in collected.items()}
    assert tests["sandbox"] == tests["aws"]
    assert len(tests["aws"]) == SIXTEEN + 1  # and this one
    said = pytest_run(tmp_path, "aws", "-rs")
    assert f"{SIXTEEN + 1} skipped" in said
    assert "TRAINCTL_E2E is set, and there are no AWS credentials" in said


def pytest_run(home: Path, place: str, *options: str) -> str:
    """Run these tests from outside, without credentials."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AWS_", "TRAINCTL_", "PYTEST_"))
    }
    environment |= {"HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true"}
    if place == "aws":
        environment["TRAINCTL_E2E"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-p", "no:cacheprovider", *options],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    return done.stdout
