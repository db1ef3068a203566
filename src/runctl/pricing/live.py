"""What AWS's Price List answers, parsed. Pure: the call is made in `providers/aws`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

import msgspec

from runctl.model import HOURS_PER_MONTH, Price

SOURCE = "AWS Price List"


def product_filters(instance_type: str, region: str) -> list[dict[str, str]]:
    """The GetProducts filters that leave one row: on-demand Linux, shared tenancy, nothing preinstalled.

    Source: the Price List query guide; without `capacitystatus` reservations answer, too.
    """
    wanted = {
        "instanceType": instance_type,
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "marketoption": "OnDemand",
    }
    return [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]


def on_demand(price_list: Iterable[str], *, as_of: datetime) -> Price | None:
    """USD/h from the JSON strings of a GetProducts answer.

    None, the unknown price, unless they hold exactly one hourly price that is not zero: none, several, or
    one in another currency prove nothing.
    """
    rates = [rate for text in price_list for rate in _rates(text, "Hrs")]
    if len(rates) != 1:
        return None
    return Price(usd_per_hour=rates[0], source=SOURCE, as_of=as_of.astimezone(UTC))


SNAPSHOT = "snapshot"
"""In the place of a volume type: what snapshots store."""


def disk_filters(kind: str, region: str) -> list[dict[str, str]]:
    """The GetProducts filters of a GiB of a volume type for a month, or of snapshots. Source: as above."""
    wanted = {"productFamily": "Storage", "volumeApiName": kind, "regionCode": region}
    if kind == SNAPSHOT:
        wanted = {"productFamily": "Storage Snapshot", "regionCode": region}
    return [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]


def gib(price_list: Iterable[str], kind: str, *, as_of: datetime) -> Price | None:
    """USD/h of one GiB of a volume type, or of what snapshots store. None unless there is exactly one price.

    The archive and what else is kept of snapshots are products of their own, told by their usage type.
    """
    usage = "EBS:SnapshotUsage" if kind == SNAPSHOT else ""
    rates = [rate for text in price_list for rate in _rates(text, "GB-Mo", usage)]
    if len(rates) != 1:
        return None
    return Price(usd_per_hour=rates[0] / HOURS_PER_MONTH, source=SOURCE, as_of=as_of.astimezone(UTC))


class _Dimension(msgspec.Struct, rename="camel"):
    unit: str
    price_per_unit: dict[str, str]


class _Term(msgspec.Struct, rename="camel"):
    price_dimensions: dict[str, _Dimension]


class _Terms(msgspec.Struct):
    on_demand: dict[str, _Term] = msgspec.field(name="OnDemand", default_factory=dict)


class _Kind(msgspec.Struct):
    attributes: dict[str, str] = msgspec.field(default_factory=dict[str, str])


class _Product(msgspec.Struct):
    product: _Kind = msgspec.field(default_factory=_Kind)
    terms: _Terms = msgspec.field(default_factory=_Terms)


def _rates(text: str, unit: str, usage: str = "") -> list[Decimal]:
    """The prices of a product in a unit; none of one whose usage type ends otherwise (regions prefix it)."""
    try:
        product = msgspec.json.decode(text, type=_Product)
        found = product.product.attributes.get("usagetype", "")
        if usage and found != usage and not found.endswith(f"-{usage}"):
            return []
        rates = [
            Decimal(dimension.price_per_unit["USD"])
            for term in product.terms.on_demand.values()
            for dimension in term.price_dimensions.values()
            if dimension.unit == unit and "USD" in dimension.price_per_unit
        ]
    except (msgspec.DecodeError, InvalidOperation):
        return []
    return [rate for rate in rates if rate.is_finite() and rate > 0]
