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
