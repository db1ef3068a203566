"""The machine that fills a volume: what the work takes on each type, and which type is worth its money.

A type's EBS and network throughput are its baselines (AWS's tables, by the dated catalog): bursts are a gift.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from functools import cache

import msgspec

from runctl.data import instance_type_rows
from runctl.model import InstanceType, Price
from runctl.pricing import catalog
from runctl.providers.aws.volumes import Volume

MIB = 1024 * 1024
BOOT = 75.0
"""Seconds from the launch of a plain machine until its shell answers; as usual on EC2."""

ENDING = 30.0
FILES_A_SECOND = 400.0
"""Small objects that our own client fetches and writes a second; s5cmd is faster."""

EFFICIENCY = 0.85
VALUE_OF_AN_HOUR = Decimal("0.10")
"""USD that an hour of waiting is taken to cost: of machines that cost alike, the faster one is better."""

CHOICES = 3
_THROUGHPUT = {"gp2": 128, "io1": 500, "io2": 500, "st1": 250, "sc1": 80, "standard": 60}  # MiB/s, sustained


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be copied, and how many MiB/s the volume takes."""

    files: int
    bytes: int
    volume_mibs: float


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """How long the work takes on a machine, from its launch to its end; `usd` is None where it is unknown."""

    instance_type: str
    seconds: float
    mibs: float
    usd: Decimal | None

    @property
    def duration(self) -> timedelta:
        return timedelta(seconds=round(self.seconds))


def volume_mibs(volume: Volume) -> float:
    """What a volume takes, in MiB/s."""
    if volume.volume_type == "gp3":
        return float(volume.throughput_mibs or catalog.GP3_INCLUDED_MIBS)
    return float(_THROUGHPUT.get(volume.volume_type, 100))


def estimate(work: Work, instance_type: str, price: Price | None) -> Estimate:
    """The work on one type; what is missing of it in the catalog is taken to be as slow as its slowest."""
    row = _rows().get(instance_type, {})
    gbps = min(float(row.get("ebs_gbps") or 0.65), float(row.get("network_gbps") or 0.78))
    mibs = min(gbps * 1e9 / 8 / MIB, work.volume_mibs) * EFFICIENCY
    seconds = BOOT + max(work.bytes / MIB / mibs, work.files / FILES_A_SECOND) + ENDING
    usd = None if price is None else price.usd_per_hour * Decimal(max(60.0, seconds)) / 3600
    return Estimate(instance_type=instance_type, seconds=seconds, mibs=mibs, usd=usd)


def fitting(work: Work) -> list[InstanceType]:
    """The types to try, the best first: the least of what they cost and of what waiting costs."""
    worth: list[tuple[Decimal, str]] = []
    for kind in catalog.instance_types():
        price = catalog.on_demand(kind.name, catalog.REGION)
        if kind.gpus or price is None or kind.name.startswith("t"):
            continue  # T types have their network for a part of the time only
        found = estimate(work, kind.name, price)
        waiting = VALUE_OF_AN_HOUR * Decimal(found.seconds) / 3600
        worth.append(((found.usd or Decimal(0)) + waiting, kind.name))
    return [catalog.instance_type(name) for _, name in sorted(worth)[:CHOICES]]


@cache
def _rows() -> dict[str, dict[str, str]]:
    return {row["instance_type"]: row for row in instance_type_rows()}
