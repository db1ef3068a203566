from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from runctl.pricing import live

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def product(*rates: tuple[str, str, str]) -> str:
    """One of GetProducts' JSON strings, with (unit, currency, price) for each price dimension."""
    dimensions: dict[str, Any] = {
        f"CODE.JRTCKXETXF.{number}": {
            "rateCode": f"CODE.JRTCKXETXF.{number}",
            "unit": unit,
            "beginRange": "0",
            "endRange": "Inf",
            "description": "$1.006 per On Demand Linux g5.xlarge Instance Hour",
            "appliesTo": [],
            "pricePerUnit": {currency: price},
        }
        for number, (unit, currency, price) in enumerate(rates)
    }
    return json.dumps(
        {
            "product": {"productFamily": "Compute Instance", "attributes": {"instanceType": "g5.xlarge"}},
            "serviceCode": "AmazonEC2",
            "terms": {"OnDemand": {"CODE.JRTCKXETXF": {"priceDimensions": dimensions, "termAttributes": {}}}},
            "version": "20261101000000",
        }
    )


def test_the_one_hourly_price_is_taken_with_its_date() -> None:
    price = live.on_demand([product(("Hrs", "USD", "1.0060000000"))], as_of=NOW)
    assert price is not None
    assert (price.usd_per_hour, price.source, price.as_of) == (Decimal("1.006"), "AWS Price List", NOW)


def test_rows_of_zero_are_passed_over() -> None:
    rows = [product(("Hrs", "USD", "0.0000000000")), product(("Hrs", "USD", "1.006"))]
    price = live.on_demand(rows, as_of=NOW)
    assert price is not None
    assert price.usd_per_hour == Decimal("1.006")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [product()],
        [product(("Hrs", "USD", "0"))],
        [product(("Hrs", "USD", "1.0"), ("Hrs", "USD", "2.0"))],
        [product(("Hrs", "USD", "1.0")), product(("Hrs", "USD", "1.0"))],
        [product(("Hrs", "CNY", "7.1"))],
        [product(("GB-Mo", "USD", "0.08"))],
        [product(("Hrs", "USD", "NaN"))],
        [product(("Hrs", "USD", "free"))],
        ['{"terms": {"Reserved": {}}}'],
        ["{}"],
        ["not json"],
        ['{"terms": {"OnDemand": []}}'],
    ],
)
def test_everything_else_is_an_unknown_price(rows: list[str]) -> None:
    assert live.on_demand(rows, as_of=NOW) is None


def test_the_filters_leave_out_reservations_and_other_systems() -> None:
    filters = {row["Field"]: row["Value"] for row in live.product_filters("g5.xlarge", "eu-west-1")}
    assert filters["instanceType"] == "g5.xlarge"
    assert filters["regionCode"] == "eu-west-1"
    assert {"operatingSystem", "tenancy", "preInstalledSw", "capacitystatus", "marketoption"} < filters.keys()
    assert {row["Type"] for row in live.product_filters("g5.xlarge", "eu-west-1")} == {"TERM_MATCH"}


def space(usage: str, usd: str, unit: str = "GB-Mo") -> str:
    terms = {"OnDemand": {"a": {"priceDimensions": {"b": {"unit": unit, "pricePerUnit": {"USD": usd}}}}}}
    return json.dumps({"product": {"attributes": {"usagetype": usage}}, "terms": terms})


def test_a_gib_of_a_disk_has_the_one_price_that_is_told() -> None:
    price = live.gib([space("USW2-EBS:VolumeUsage.gp3", "0.0800000000")], "gp3", as_of=NOW)
    assert price is not None
    assert price.usd_per_hour * 730 == pytest.approx(Decimal("0.08"))
    assert (price.source, price.as_of) == ("AWS Price List", NOW)
    archive = space("EU-EBS:SnapshotArchiveStorage", "0.0125")
    for usage in ("EBS:SnapshotUsage", "EU-EBS:SnapshotUsage"):
        found = live.gib([archive, space(usage, "0.05")], live.SNAPSHOT, as_of=NOW)
        assert found is not None
        assert found.usd_per_hour * 730 == pytest.approx(Decimal("0.05"))
    for rows in (
        [],
        [archive],
        [space("EBS:SnapshotUsage", "0.05"), space("EBS:SnapshotUsage", "0.06")],
        [space("EBS:SnapshotUsage", "0.05", unit="Hrs")],
    ):
        assert live.gib(rows, live.SNAPSHOT, as_of=NOW) is None
    filters = {row["Field"]: row["Value"] for row in live.disk_filters("gp3", "eu-west-1")}
    assert filters == {"productFamily": "Storage", "volumeApiName": "gp3", "regionCode": "eu-west-1"}
