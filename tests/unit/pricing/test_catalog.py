from __future__ import annotations

import csv
from datetime import UTC, datetime
from decimal import Decimal
from importlib import resources

import pytest

from runctl.errors import ValidationError
from runctl.model import Market
from runctl.pricing import catalog


def test_every_row_of_the_bundled_data_can_be_used() -> None:
    text = resources.files("runctl.data").joinpath("instance_types.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert len(catalog.instance_types()) == len(rows) > 100
    for kind in catalog.instance_types():
        assert kind.vcpus > 0
        assert kind.memory_gib > 0
        assert kind.architecture in {"x86_64", "arm64"}
        assert bool(kind.gpus) <= bool(kind.gpu_model)


def test_a_price_is_either_positive_and_dated_or_unknown() -> None:
    unknown = []
    for kind in catalog.instance_types():
        for price in (
            catalog.on_demand(kind.name, "us-east-1"),
            catalog.spot_estimate(kind.name, "us-east-1"),
        ):
            if price is None:
                unknown.append(kind.name)
            else:
                assert price.usd_per_hour > 0
                assert datetime(2024, 1, 1, tzinfo=UTC) < price.as_of < datetime(2026, 11, 23, tzinfo=UTC)
    assert "p5e.48xlarge" in unknown, "a row with specifications only"


def test_each_price_has_the_date_and_source_of_its_own() -> None:
    on_demand = catalog.on_demand("g5.xlarge", "us-east-1")
    spot = catalog.spot_estimate("g5.xlarge", "us-east-1")
    assert on_demand is not None
    assert spot is not None
    assert (on_demand.usd_per_hour, on_demand.source) == (Decimal("1.006"), "catalog")
    assert (spot.usd_per_hour, spot.source) == (Decimal("0.4125"), "catalog, estimate")
    assert on_demand.as_of == datetime(2026, 7, 20, tzinfo=UTC)
    assert spot.as_of == datetime(2025, 6, 28, tzinfo=UTC)


def test_prices_of_other_regions_are_unknown() -> None:
    assert catalog.on_demand("g5.xlarge", "eu-west-1") is None
    assert catalog.spot_estimate("g5.xlarge", "eu-west-1") is None
    assert catalog.volume_rate("gp3", size_gib=100, region="eu-west-1") is None


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(ValidationError, match=r"Unknown instance type 'g5\.xlrge'") as caught:
        catalog.instance_type("g5.xlrge")
    assert "g5.xlarge" in caught.value.next
    assert catalog.on_demand("g5.xlrge", "us-east-1") is None


@pytest.mark.parametrize("market", Market)
def test_machines_with_gpus_come_cheapest_first(market: Market) -> None:
    price_of = catalog.spot_estimate if market is Market.SPOT else catalog.on_demand
    for gpus in (1, 4, 8):
        kinds = catalog.with_gpus(gpus, market=market)
        prices = [price_of(kind.name, "us-east-1") for kind in kinds]
        assert kinds
        assert {kind.gpus for kind in kinds} == {gpus}
        found = [price.usd_per_hour for price in prices if price is not None]
        assert len(found) == len(kinds), "none without a price"
        assert found == sorted(found)


def test_only_machines_that_cuda_packages_are_built_for_are_chosen_unasked() -> None:
    chosen = {kind.name for market in Market for kind in catalog.with_gpus(1, market=market)}
    assert "g4dn.xlarge" in chosen
    assert not chosen & {"g5g.xlarge", "trn1.2xlarge", "inf2.xlarge"}
    assert catalog.instance_type("g5g.xlarge").architecture == "arm64"


def rate(volume_type: str, size: int = 100, iops: int | None = None, mibs: int | None = None) -> Decimal:
    price = catalog.volume_rate(volume_type, size_gib=size, iops=iops, throughput_mibs=mibs)
    assert price is not None
    assert price.as_of == datetime(2024, 7, 18, tzinfo=UTC)
    return price.usd_per_hour * 730


@pytest.mark.parametrize(
    ("usd_per_month", "volume"),
    [
        ("8", ("gp3",)),
        ("8", ("gp3", 100, 3000, 125)),
        ("18.04", ("gp3", 100, 5000, 126)),
        ("10", ("gp2",)),
        ("77.5", ("io1", 100, 1000)),
        ("77.5", ("io2", 100, 1000)),
        ("2092.5", ("io2", 100, 32_000)),
        ("2092.5455", ("io2", 100, 32_001)),
        ("3548.53185", ("io2", 100, 64_001)),
        ("4.5", ("st1",)),
        ("1.5", ("sc1",)),
        ("5", ("standard",)),
    ],
)
def test_a_disk_costs_what_the_price_page_says(usd_per_month: str, volume: tuple[str, int, int, int]) -> None:
    assert abs(rate(*volume) - Decimal(usd_per_month)) < Decimal("1e-20")


def test_a_disk_whose_iops_are_unknown_has_no_known_price() -> None:
    assert catalog.volume_rate("io1", size_gib=100) is None
    assert catalog.volume_rate("io2", size_gib=100) is None
    assert catalog.volume_rate("gp9", size_gib=100) is None
