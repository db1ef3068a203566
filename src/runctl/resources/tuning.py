"""gp3's speed by the machine that reads: what is above its EBS baseline is paid for and not seen for long."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from runctl.model import HOURS_PER_MONTH, TAG_DATASET, TAG_PURPOSE
from runctl.pricing import catalog
from runctl.providers.aws import instances, volumes
from runctl.providers.aws.volumes import Volume
from runctl.quoting import quoted
from runctl.resources.operation import Operation

LEAST_MIBS, MOST_MIBS = 125, 2_000
LEAST_IOPS, IOPS_PER_GIB, IOPS_PER_MIBS = 3_000, 500, 4
"""The EBS guide on gp3: included, at most for each GiB, and needed for each MiB/s."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """What a gp3 volume is set to; throughput in MiB/s."""

    iops: int
    throughput_mibs: int


def gp3_for(instance_type: str, *, size_gib: int) -> Speed | None:
    """As fast as a type reads for long, within what the size allows; None for a type that is not known."""
    gbps = catalog.throughput(instance_type).ebs_gbps
    if gbps is None:
        return None
    most = max(LEAST_IOPS, min(size_gib * IOPS_PER_GIB, MOST_MIBS * IOPS_PER_MIBS))
    sustained = int(gbps * 10**9 / 8 / 2**20)
    mibs = max(LEAST_MIBS, min(sustained, MOST_MIBS, most // IOPS_PER_MIBS))
    return Speed(iops=max(LEAST_IOPS, mibs * IOPS_PER_MIBS), throughput_mibs=mibs)


def hint(operation: Operation, volume_id: str, instance_id: str) -> str | None:
    """The command that sets a gp3 volume to its machine's speed, where that saves money or time."""
    volume = volumes.describe(operation.session, volume_id)
    instance = instances.get(operation.session, instance_id)
    if volume is None or instance is None or volume.volume_type != "gp3":
        return None
    speed = gp3_for(instance.instance_type, size_gib=volume.size_gib)
    has = volume.throughput_mibs or LEAST_MIBS
    is_data = TAG_DATASET in volume.tags or volume.tags.get(TAG_PURPOSE) == "data"
    if speed is None or speed.throughput_mibs == has or (speed.throughput_mibs > has and not is_data):
        return None
    command = (
        f"runctl aws ebs modify {quoted(volume_id)} --iops {speed.iops} --throughput {speed.throughput_mibs}"
    )
    change = _month(volume, speed) - _month(
        volume, Speed(iops=volume.iops or LEAST_IOPS, throughput_mibs=has)
    )
    if speed.throughput_mibs > has:
        return (
            f"{instance.instance_type} could read {speed.throughput_mibs} MiB/s of it, not {has}, "
            f"for {change:.2f} USD more a month: {command}"
        )
    return (
        f"{instance.instance_type} does not read {has} MiB/s for long: "
        f"{-change:.2f} USD less a month with {command}"
    )


def _month(volume: Volume, speed: Speed) -> Decimal:
    price = catalog.volume_rate(
        "gp3",
        size_gib=volume.size_gib,
        iops=speed.iops,
        throughput_mibs=speed.throughput_mibs,
        region=volume.region,
    )
    return Decimal(0) if price is None else price.usd_per_hour * HOURS_PER_MONTH
