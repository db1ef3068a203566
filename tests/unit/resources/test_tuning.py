"""gp3 is set to what its machine reads for long, and EBS takes whatever comes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.pricing import catalog
from runctl.providers.aws import volumes
from runctl.providers.aws.volumes import VolumeSpec
from runctl.resources import tuning

TYPES = [kind.name for kind in catalog.instance_types()]


@pytest.mark.parametrize(
    ("instance_type", "size", "iops", "mibs"),
    [
        ("g5.xlarge", 500, 3_000, 125),  # 0.7 Gbit/s are 83 MiB/s: what is included is more
        ("m7i.4xlarge", 500, 3_000, 596),  # 5 Gbit/s
        ("g5.48xlarge", 500, 8_000, 2_000),  # 19 Gbit/s: gp3's own end
        ("g5.48xlarge", 8, 4_000, 1_000),  # 500 IOPS for each GiB
        ("g5.48xlarge", 1, 3_000, 750),
    ],
)
def test_gp3_is_as_fast_as_its_machine(instance_type: str, size: int, iops: int, mibs: int) -> None:
    speed = tuning.gp3_for(instance_type, size_gib=size)
    assert speed == tuning.Speed(iops=iops, throughput_mibs=mibs)


@given(st.sampled_from(TYPES), st.integers(1, 65_536))
def test_ebs_takes_whatever_is_offered(instance_type: str, size: int) -> None:
    speed = tuning.gp3_for(instance_type, size_gib=size)
    if speed is not None:
        spec = VolumeSpec(zone="", size_gib=size, iops=speed.iops, throughput_mibs=speed.throughput_mibs)
        volumes.check(spec)


def test_a_type_that_nobody_knows_is_offered_nothing() -> None:
    assert tuning.gp3_for("x99.huge", size_gib=100) is None
