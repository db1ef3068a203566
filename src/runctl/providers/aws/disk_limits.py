"""What an instance type can draw from its disks, as EC2 tells it."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from runctl.providers.aws.session import Session

_AT_ONCE = 100  # the most that DescribeInstanceTypes takes


class DiskLimits(msgspec.Struct, frozen=True):
    """The most that all disks of an instance give together: IOPS, and MB/s."""

    iops: int
    megabytes_per_second: float


def of_types(session: Session, instance_types: Collection[str]) -> dict[str, DiskLimits]:
    """By type; a type of which EC2 tells no limit is left out. Raises CloudError."""
    wanted = sorted(set(instance_types))
    found: dict[str, DiskLimits] = {}
    for first in range(0, len(wanted), _AT_ONCE):
        filters = [{"Name": "instance-type", "Values": wanted[first : first + _AT_ONCE]}]
        for row in session.pages("ec2", "describe_instance_types", "InstanceTypes", Filters=filters):
            told = row.get("EbsInfo", {}).get("EbsOptimizedInfo", {})
            if "MaximumIops" in told and "MaximumThroughputInMBps" in told:
                limits = DiskLimits(int(told["MaximumIops"]), float(told["MaximumThroughputInMBps"]))
                found[row["InstanceType"]] = limits
    return found
