"""How often the cloud is asked. It was four times a second, for hours, and through all public snapshots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from runctl.errors import CloudError
from runctl.providers.aws import instances, snapshots, volumes


class Clock:
    """Time passes only while somebody waits."""

    speed = 1.0

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Asked:
    """A session that counts its calls; the volume, the snapshot and the machine stay as they are."""

    region = "us-east-1"

    def __init__(self) -> None:
        self.cloud = SimpleNamespace(clock=Clock(), key="aws", name="aws")
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def call(self, _: str, operation: str, **parameters: Any) -> dict[str, Any]:
        self.calls.append((operation, parameters))
        now = self.cloud.clock.now()
        volume = {"VolumeId": "vol-1", "AvailabilityZone": "a", "VolumeType": "gp3", "Size": 1}
        snapshot = {"SnapshotId": "snap-1", "State": "pending", "StartTime": now, "Progress": "1%"}
        of = {"VolumeId": "vol-1", "VolumeSize": 1, "OwnerId": "1", "Encrypted": True}
        machine = {"InstanceId": "i-1", "InstanceType": "m5.large", "State": {"Name": "pending"}}
        more = {"Placement": {"AvailabilityZone": "a"}, "LaunchTime": now}
        return {
            "Volumes": [{**volume, "State": "creating", "CreateTime": now}],
            "Snapshots": [{**snapshot, **of}],
            "Reservations": [{"Instances": [{**machine, **more}]}],
        }

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> Any:
        return iter(self.call(service, operation, **parameters)[key])


WAITS = {
    "a volume": lambda session, **how: volumes.wait_available(session, "vol-1", **how),
    "a snapshot": lambda session, **how: snapshots.wait_completed(session, "snap-1", **how),
    "a machine": lambda session, **how: instances.wait_state(session, "i-1", "running", **how),
}


@pytest.mark.parametrize("what", WAITS)
def test_a_long_wait_asks_seldom(what: str) -> None:
    asked = Asked()
    with pytest.raises(CloudError, match=r"as it should be|not complete"):
        WAITS[what](asked, timeout=timedelta(minutes=20), emit=lambda _: None)
    assert len(asked.calls) <= 20 * 60 / 15 + 10
    assert len(asked.calls) >= 20 * 60 / 15


def test_a_snapshot_is_asked_for_by_its_id_and_no_filter_over_all_public_ones() -> None:
    asked = Asked()
    snapshots.describe(asked, "snap-1")  # pyright: ignore[reportArgumentType]
    assert asked.calls == [("describe_snapshots", {"SnapshotIds": ["snap-1"]})]
