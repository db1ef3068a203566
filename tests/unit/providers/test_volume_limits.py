"""What EBS takes, by its own tables: checked before the call; what is waited for, and what fails at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.clock import SystemClock
from runctl.clouds import Cloud
from runctl.errors import CloudError, ValidationError
from runctl.events import ignore
from runctl.providers.aws import volumes
from runctl.providers.aws.session import Session
from runctl.providers.aws.volumes import VolumeSpec

# Type: GiB, IOPS that may be asked for, IOPS per GiB. Source: the EBS guide and EC2's API model.
TABLE: dict[str, tuple[tuple[int, int], tuple[int, int] | None, int]] = {
    "gp3": ((1, 65_536), (3_000, 80_000), 500),
    "gp2": ((1, 16_384), None, 0),
    "io1": ((4, 16_384), (100, 64_000), 50),
    "io2": ((4, 65_536), (100, 256_000), 1_000),
    "st1": ((125, 16_384), None, 0),
    "sc1": ((125, 16_384), None, 0),
}
EDGES = sorted(
    {1, 3, 4, 6, 99, 100, 124, 125, 126, 160, 3_000, 16_384, 16_385, 64_001, 65_536, 65_537, 80_001}
)


def allowed(kind: str, size: int, iops: int | None, mibs: int | None) -> bool:
    """The table again, in other words."""
    (least, most), range_, ratio = TABLE[kind]
    if not least <= size <= most or (range_ is None and iops is not None):
        return False
    if kind in {"io1", "io2"} and iops is None:
        return False
    # A small volume may always have what its type gives at least.
    if iops and range_ and (not range_[0] <= iops <= range_[1] or iops > max(range_[0], size * ratio)):
        return False
    if mibs is None:
        return True
    return kind == "gp3" and 125 <= mibs <= 2_000 and mibs <= (iops or 3_000) / 4


def numbers(most: int) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from(EDGES), st.integers(1, most))


@given(
    kind=st.sampled_from(sorted(TABLE)),
    size=numbers(70_000),
    iops=st.none() | numbers(260_000),
    mibs=st.none() | st.sampled_from([124, 125, 750, 751, 2_000, 2_001]) | st.integers(1, 2_100),
)
def test_what_is_checked_is_what_ebs_takes(kind: str, size: int, iops: int | None, mibs: int | None) -> None:
    spec = VolumeSpec(zone="", size_gib=size, volume_type=kind, iops=iops, throughput_mibs=mibs)
    if allowed(kind, size, iops, mibs):
        volumes.check(spec)
        return
    with pytest.raises(ValidationError) as caught:
        volumes.check(spec)
    assert caught.value.next, "a refusal says what is possible"


@given(rate=st.integers(1, 500), snapshot=st.none() | st.just("snap-1"))
def test_an_initialization_rate_is_for_snapshots_from_100_to_300(rate: int, snapshot: str | None) -> None:
    spec = VolumeSpec(zone="", size_gib=4, snapshot=snapshot, initialization_rate_mibs=rate)
    if snapshot and 100 <= rate <= 300:
        volumes.check(spec)
    else:
        with pytest.raises(ValidationError):
            volumes.check(spec)


class Told(Session):
    """A session that shows a volume in one state after another; the last one stays."""

    def __init__(self, *states: tuple[str, str]) -> None:
        super().__init__(Cloud(name="sandbox", key="sandbox:told", clock=SystemClock(), region="us-east-1"))
        self.left = list(states)
        self.looks = 0

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> Any:
        del service, operation, key, parameters
        self.looks += 1
        state, attachment = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        at = {"VolumeId": "vol-1", "InstanceId": "i-1", "Device": "/dev/sdf", "State": attachment}
        return iter(
            [
                {
                    "VolumeId": "vol-1",
                    "AvailabilityZone": "us-east-1a",
                    "VolumeType": "gp3",
                    "Size": 4,
                    "Encrypted": True,
                    "State": state,
                    "CreateTime": datetime(2026, 1, 1, tzinfo=UTC),
                    "Attachments": [at] if attachment else [],
                }
            ]
        )


PATIENCE = timedelta(minutes=1)


def test_a_volume_in_error_fails_at_once() -> None:
    session = Told(("creating", ""), ("error", ""))
    with pytest.raises(CloudError) as caught:
        volumes.wait_available(session, "vol-1", timeout=PATIENCE, emit=ignore)
    assert session.looks == 2
    assert "error" in f"{caught.value.code} {caught.value.why}".lower()
    session = Told(("in-use", "attaching"), ("error", "attaching"))
    with pytest.raises(CloudError):
        volumes.wait_attached(session, "vol-1", "i-1", timeout=PATIENCE, emit=ignore)
    assert session.looks == 2


def test_in_use_is_not_attached_yet() -> None:
    session = Told(("in-use", "attaching"), ("in-use", "busy"), ("in-use", "attached"))
    found = volumes.wait_attached(session, "vol-1", "i-1", timeout=PATIENCE, emit=ignore)
    assert session.looks == 3
    assert msgspec.to_builtins(found)["attachments"][0]["state"] == "attached"
