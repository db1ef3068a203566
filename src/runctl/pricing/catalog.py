"""The bundled catalog: common ML instance types and disks, each price with its region and date."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache

import msgspec

from runctl.data import instance_price_rows, instance_type_rows, storage_price_rows, volume_price_rows
from runctl.errors import ValidationError
from runctl.model import HOURS_PER_MONTH, InstanceType, Market, Price

REGION = "us-east-1"
GP3_INCLUDED_IOPS = 3000
GP3_INCLUDED_MIBS = 125
_ON_DEMAND_DATE = re.compile(r"od (\d{4}-\d\d-\d\d)")
_SPOT_DATE = re.compile(r"spot est (\d{4}-\d\d-\d\d)")


@cache
def _rows() -> dict[str, dict[str, str]]:
    return {row["instance_type"]: row for row in instance_type_rows()}


@cache
def _elsewhere() -> dict[tuple[str, str], dict[str, str]]:
    return {(row["instance_type"], row["region"]): row for row in instance_price_rows()}


@cache
def _regions() -> dict[str, dict[str, str]]:
    return {row["region"]: row for row in volume_price_rows()}


class Throughput(msgspec.Struct, frozen=True):
    """What a type sustains: network and EBS in Gbit/s, its instance store in GB; None where it is unknown."""

    network_gbps: Decimal | None
    ebs_gbps: Decimal | None
    nvme_gb: Decimal | None


class RequestPrices(msgspec.Struct, frozen=True):
    """USD per 1,000 requests to S3 Standard; between S3 and EC2 in one region, bytes cost nothing."""

    get: Decimal
    list_put: Decimal
    source: str
    as_of: datetime


DEARER = Decimal("1.25")
"""How much more than the type that was asked for another one may cost."""


def instance_types() -> tuple[InstanceType, ...]:
    """Every type that the catalog knows."""
    return tuple(instance_type(name) for name in _rows())


def instance_type(name: str) -> InstanceType:
    """Raises ValidationError for a type that the catalog does not know, with the nearest that it does."""
    row = _rows().get(name)
    if row is None:
        import difflib

        near = difflib.get_close_matches(name, _rows(), n=3, cutoff=0.4)
        raise ValidationError(
            f"Unknown instance type {name!r}",
            why="the catalog has no such type",
            next=f"did you mean {' or '.join(near)}?" if near else "try g5.xlarge, g6.xlarge or m7i.xlarge",
        )
    return InstanceType(
        name=name,
        vcpus=int(row["vcpu"]),
        memory_gib=float(row["memory_gib"]),
        gpus=int(row["gpu_count"]),
        gpu_model=row["gpu_model"],
        gpu_memory_gib=float(row["gpu_memory_gib"] or 0),
        architecture=row["arch"],
    )


def throughput(name: str) -> Throughput:
    """Baselines, not bursts: those last for minutes. Source: AWS's tables, by the dated catalog."""
    row = _rows().get(name, {})
    return Throughput(
        network_gbps=_known(row.get("network_gbps")),
        ebs_gbps=_known(row.get("ebs_gbps")),
        nvme_gb=_known(row.get("local_nvme_gb")),
    )


@cache
def request_prices(region: str) -> RequestPrices | None:
    """What requests to S3 cost; None where the region is not known. Source: AWS's S3 price feed."""
    for row in storage_price_rows():
        if row["region"] == region:
            return RequestPrices(
                get=Decimal(row["get_usd_1000"]),
                list_put=Decimal(row["list_put_usd_1000"]),
                source="catalog",
                as_of=datetime.fromisoformat(row["as_of"]).replace(tzinfo=UTC),
            )
    return None


def standard_storage(region: str) -> Decimal | None:
    """USD of 10^9 bytes a month in S3's standard class, first tier; None where it is not known."""
    return next(
        (Decimal(row["standard_usd_gb_mo"]) for row in storage_price_rows() if row["region"] == region), None
    )


def on_demand(name: str, region: str) -> Price | None:
    """USD/h of a type, None where it is not known."""
    if region != REGION:
        return _price_elsewhere(name, region, "on_demand", "catalog")
    return _price(name, "on_demand_usd_hr_us_east_1", _ON_DEMAND_DATE, "catalog")


def spot_estimate(name: str, region: str) -> Price | None:
    """What spot usually cost when the catalog was made; the spot history decides where the cloud answers."""
    if region != REGION:
        return _price_elsewhere(name, region, "spot", "catalog, estimate")
    return _price(name, "spot_usd_hr_us_east_1", _SPOT_DATE, "catalog, estimate")


def is_driven(kind: InstanceType) -> bool:
    """Whether NVIDIA's open driver, which AWS's image has, drives the GPUs of a type: from Turing on.

    Source: NVIDIA's driver installation guide, "Kernel modules". Inferentia and Trainium are no GPUs.
    """
    return kind.gpu_model.startswith("NVIDIA") and not any(
        model in kind.gpu_model.split() for model in ("V100", "P100", "P4", "K80", "M60", "K520")
    )


def require_driven(kind: InstanceType, image: str | None) -> None:
    """Raises ValidationError for accelerators that the usual image does not drive, unless one is named."""
    if image or not kind.gpus or is_driven(kind):
        return
    raise ValidationError(
        f"The usual image has no driver for {kind.gpu_model} of {kind.name}",
        why="it has NVIDIA's open driver, which drives Turing and what came later",
        next="name an image that does: runctl config set aws.image ami-..., or another --instance-type",
    )


def with_gpus(gpus: int, *, market: Market) -> list[InstanceType]:
    """The x86-64 types with exactly this many GPUs that the usual image drives, and a known price, the
    cheapest first.

    ARM types (g5g) are taken only when they are named: few packages with CUDA are built for them.
    """
    price_of = spot_estimate if market is Market.SPOT else on_demand
    priced = [
        (price.usd_per_hour, kind)
        for kind in instance_types()
        if kind.gpus == gpus and is_driven(kind) and kind.architecture == "x86_64"
        if (price := price_of(kind.name, REGION))
    ]
    return [kind for _, kind in sorted(priced, key=lambda pair: (pair[0], pair[1].name))]


def equivalents(kind: InstanceType, *, market: Market) -> list[InstanceType]:
    """Types that can stand in for one: the same architecture and GPUs, no less of anything else, and at most
    a quarter dearer; the cheapest first."""
    price_of = spot_estimate if market is Market.SPOT else on_demand
    own = price_of(kind.name, REGION)
    found = [
        (price.usd_per_hour, other)
        for other in instance_types()
        if other.name != kind.name
        and _is_burstable(other) == _is_burstable(kind)
        and (other.architecture, other.gpu_model, other.gpus)
        == (kind.architecture, kind.gpu_model, kind.gpus)
        and other.vcpus >= kind.vcpus
        and other.memory_gib >= kind.memory_gib
        and (price := price_of(other.name, REGION)) is not None
        and own is not None
        and price.usd_per_hour <= own.usd_per_hour * DEARER
    ]
    return [other for _, other in sorted(found, key=lambda pair: (pair[0], pair[1].name))]


def _is_burstable(kind: InstanceType) -> bool:
    """T types have their processors for a part of the time only."""
    return kind.name.startswith("t")


def volume_rate(
    volume_type: str,
    *,
    size_gib: int,
    iops: int | None = None,
    throughput_mibs: int | None = None,
    region: str = REGION,
    gib: Price | None = None,
) -> Price | None:
    """USD/h of a disk: GiB-months, and IOPS and MiB/s beyond what gp3 includes, over 730 hours a month.

    `gib` is what AWS itself says of one GiB; speed is billed by the catalog's prices then, too.

    None where the type or region is not known, or the IOPS of a type that bills each of them. `standard`
    bills its I/O besides, which nobody knows ahead. Source: AWS's EBS price page, by the dated catalog.
    """
    if iops is None and volume_type in {"io1", "io2"}:
        return None
    row = _regions().get(region)
    if row is None or not row.get(f"{volume_type}_gib_mo"):
        return None
    each = Decimal(row[f"{volume_type}_gib_mo"]) if gib is None else gib.usd_per_hour * HOURS_PER_MONTH
    space = month = each * size_gib
    if volume_type == "gp3":
        month += Decimal(row["gp3_iops_mo"]) * max(0, (iops or GP3_INCLUDED_IOPS) - GP3_INCLUDED_IOPS)
        month += Decimal(row["gp3_mibps_mo"]) * max(
            0, (throughput_mibs or GP3_INCLUDED_MIBS) - GP3_INCLUDED_MIBS
        )
    elif volume_type == "io1":
        month += Decimal(row["io1_iops_mo"]) * (iops or 0)
    elif volume_type == "io2":
        month += _tiered_iops(row, iops or 0)
    dated = datetime.fromisoformat(row["as_of"]).replace(tzinfo=UTC)
    source = "catalog" if gib is None else gib.source if month == space else f"{gib.source}, speed: catalog"
    return Price(usd_per_hour=month / HOURS_PER_MONTH, source=source, as_of=gib.as_of if gib else dated)


def gib_month(volume_type: str, *, region: str = REGION) -> tuple[Decimal, str] | None:
    """USD of a GiB of a disk for a month, and the date of that price; None where it is not known."""
    row = _regions().get(region)
    if row is None or not row.get(f"{volume_type}_gib_mo"):
        return None
    return Decimal(row[f"{volume_type}_gib_mo"]), row["as_of"]


def snapshot_rate(
    stored_bytes: int | None, *, region: str = REGION, gib: Price | None = None
) -> Price | None:
    """USD/h of a snapshot by the blocks that it stores; None where those or the region are not known.

    `gib` is what AWS itself says of one GiB.
    """
    if stored_bytes is not None and gib is not None:
        return msgspec.structs.replace(gib, usd_per_hour=gib.usd_per_hour * stored_bytes / 2**30)
    row = _regions().get(region)
    if stored_bytes is None or row is None or not row["snapshot_gib_mo"]:
        return None
    month = Decimal(row["snapshot_gib_mo"]) * stored_bytes / 2**30
    return Price(
        usd_per_hour=month / HOURS_PER_MONTH,
        source="catalog",
        as_of=datetime.fromisoformat(row["as_of"]).replace(tzinfo=UTC),
    )


def _tiered_iops(row: dict[str, str], iops: int) -> Decimal:
    tiers = ((0, 32_000, "tier1"), (32_000, 64_000, "tier2"), (64_000, 256_000, "tier3"))
    return sum(
        (
            Decimal(row[f"io2_iops_mo_{tier}"]) * max(0, min(iops, upper) - lower)
            for lower, upper, tier in tiers
        ),
        Decimal(0),
    )


def _known(text: str | None) -> Decimal | None:
    return Decimal(text) if text else None


def _price_elsewhere(name: str, region: str, market: str, source: str) -> Price | None:
    row = _elsewhere().get((name, region))
    if row is None or not row[f"{market}_usd_hr"]:
        return None
    dated = datetime.fromisoformat(row[f"{market}_as_of"]).replace(tzinfo=UTC)
    return Price(usd_per_hour=Decimal(row[f"{market}_usd_hr"]), source=source, as_of=dated)


def _price(name: str, column: str, dated: re.Pattern[str], source: str) -> Price | None:
    row = _rows().get(name)
    if row is None or not row[column]:
        return None
    date = dated.search(row["as_of"])
    if date is None:
        return None
    return Price(
        usd_per_hour=Decimal(row[column]),
        source=source,
        as_of=datetime.fromisoformat(date[1]).replace(tzinfo=UTC),
    )
