"""What the sixteen classic tests run against: the sandbox, or AWS itself where TRAINCTL_E2E is set."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
ON_AWS = os.environ.get("TRAINCTL_E2E") == "1"
PATIENCE = 600.0 if ON_AWS else 60.0
USER = "runctl-e2e"


@dataclass
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.err.strip().splitlines()[-1])["error"]


@dataclass
class Account:
    """One test's account: commands in a home of its own, EC2 beside them; all is removed at the end."""

    home: Path
    environment: dict[str, str]
    ec2: Any
    zones: list[str]
    word: str = field(default_factory=lambda: f"e2e-{uuid.uuid4().hex[:10]}")

    def run(self, *arguments: str, form: str = "json", extra: tuple[str, ...] = (), **variables: str) -> Said:
        """One command of the user; `extra` comes last."""
        done = subprocess.run(
            [sys.executable, "-m", "runctl", *arguments, "--output", form, *extra],
            env={**self.environment, **variables},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, form: str = "json", extra: tuple[str, ...] = (), **variables: str) -> Said:
        said = self.run(*arguments, form=form, extra=extra, **variables)
        assert said.code == 0, f"{arguments}: {said.err}"
        return said

    def create_volume(self, *options: str, zone: str | None = None, name: str = "") -> str:
        said = self.ok(
            "aws", "ebs", "create", "--size", "4", "--name", f"{self.word}-{name}",
            "--availability-zone", zone or self.zones[0], *options,
        )  # fmt: skip
        return said.data["volume"]["id"]

    def create_instance(self, *options: str) -> str:
        said = self.ok(
            "aws", "create", "t3.micro", "--name", self.word, "--lease", "1",
            "--availability-zone", self.zones[0], *options,
        )  # fmt: skip
        return said.data["instance"]["id"]

    def volume(self, volume_id: str) -> dict[str, Any]:
        """What EC2 says of a volume; empty when it is gone."""
        found = self.ec2.describe_volumes(Filters=[{"Name": "volume-id", "Values": [volume_id]}])["Volumes"]
        return found[0] if found and found[0]["State"] not in {"deleting", "deleted"} else {}

    def tags(self, volume_id: str) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in self.volume(volume_id).get("Tags", [])}

    def state(self, instance_id: str) -> str:
        asked = [{"Name": "instance-id", "Values": [instance_id]}]
        found = self.ec2.describe_instances(Filters=asked)["Reservations"]
        return found[0]["Instances"][0]["State"]["Name"] if found else "gone"

    @staticmethod
    def until(condition: Callable[[], T], seconds: float = PATIENCE) -> T:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "it did not come true in time"
            time.sleep(2.0 if ON_AWS else 0.05)
        return found

    def close(self) -> None:
        """Remove whatever this test made, whatever became of it."""
        mine = [{"Name": "tag:Name", "Values": [f"{self.word}*"]}]
        groups = self.ec2.describe_instances(Filters=mine)["Reservations"]
        machines = [one["InstanceId"] for group in groups for one in group["Instances"]]
        if machines:
            self.ec2.terminate_instances(InstanceIds=machines)
            self.until(lambda: all(self.state(one) in {"terminated", "gone"} for one in machines))
        for volume in self.ec2.describe_volumes(Filters=mine)["Volumes"]:
            if volume["State"] not in {"deleting", "deleted"}:
                self.until(lambda v=volume["VolumeId"]: self.volume(v).get("State") in {"available", None})
                with contextlib.suppress(Exception):
                    self.ec2.delete_volume(VolumeId=volume["VolumeId"])
        for snapshot in self.ec2.describe_snapshots(OwnerIds=["self"], Filters=mine)["Snapshots"]:
            self.ec2.delete_snapshot(SnapshotId=snapshot["SnapshotId"])


@contextlib.contextmanager
def on_sandbox(live: Any, home: Path) -> Iterator[Account]:
    (home / "sandbox").symlink_to(live.home / "sandbox", target_is_directory=True)
    environment = {**os.environ, "RUNCTL_HOME": str(home), "RUNCTL_CLOUD": "sandbox", "RUNCTL_USER": USER}
    yield from _closing(Account(home, environment, live.client("ec2"), ["us-east-1a", "us-east-1b"]))


@contextlib.contextmanager
def on_aws(home: Path) -> Iterator[Account]:
    """Skips, and says why, where there are no credentials or no region."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    session = boto3.Session()
    if session.get_credentials() is None:
        pytest.skip("TRAINCTL_E2E is set, and there are no AWS credentials")
    if not session.region_name:
        pytest.skip("TRAINCTL_E2E is set, and no AWS region is")
    ec2 = session.client("ec2")
    try:
        found = ec2.describe_availability_zones()["AvailabilityZones"]
    except (BotoCoreError, ClientError) as error:
        pytest.skip(f"TRAINCTL_E2E is set, and AWS refuses: {error}")
    environment = {**os.environ, "RUNCTL_HOME": str(home), "RUNCTL_CLOUD": "aws", "RUNCTL_USER": USER}
    zones = sorted(zone["ZoneName"] for zone in found if zone["State"] == "available")
    yield from _closing(Account(home, environment, ec2, zones))


def _closing(account: Account) -> Iterator[Account]:
    try:
        yield account
    finally:
        account.close()
