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


REGIONS = [
    *("eu-central-1", "eu-west-1", "eu-north-1", "us-west-2", "us-east-2", "ap-south-1", "ap-northeast-1"),
    *("ap-southeast-2", "sa-east-1", "ca-central-1", "me-south-1", "af-south-1", "us-gov-west-1"),
]


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_other_than_us_east_1_has_prices_of_its_own(region: str) -> None:
    """There were none: `--budget` left every on-demand machine out, and disks cost nothing."""
    for name in ("g4dn.xlarge", "m5.large", "r5.large"):
        home, there = catalog.on_demand(name, "us-east-1"), catalog.on_demand(name, region)
        if there is None:
            continue
        assert home is not None
        assert Decimal("0.8") < there.usd_per_hour / home.usd_per_hour < Decimal("2.5")
        assert there.as_of.year >= 2025
    assert any(catalog.on_demand(name, region) for name in ("g4dn.xlarge", "m5.large"))
    gib, at_home = (catalog.volume_rate("gp3", size_gib=100, region=name) for name in (region, "us-east-1"))
    assert gib is not None
    assert at_home is not None
    assert Decimal("0.8") < gib.usd_per_hour / at_home.usd_per_hour < Decimal("2.5")
    assert catalog.snapshot_rate(2**30, region=region) is not None


def test_a_region_that_nobody_knows_has_no_price() -> None:
    assert catalog.on_demand("g5.xlarge", "xx-new-1") is None
    assert catalog.spot_estimate("g5.xlarge", "xx-new-1") is None
    assert catalog.volume_rate("gp3", size_gib=100, region="xx-new-1") is None


def test_every_price_of_every_region_is_positive_and_dated() -> None:
    from runctl.data import instance_price_rows

    known = {kind.name for kind in catalog.instance_types()}
    for row in instance_price_rows():
        assert row["instance_type"] in known
        for price_of in (catalog.on_demand, catalog.spot_estimate):
            price = price_of(row["instance_type"], row["region"])
            assert price is None or price.usd_per_hour > 0


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


@pytest.mark.parametrize("gpus", [1, 4, 8, 16])
@pytest.mark.parametrize("market", list(Market))
def test_no_machine_is_chosen_that_its_image_does_not_drive(market: Market, gpus: int) -> None:
    """V100s were: the image's open driver begins with Turing."""
    for kind in catalog.with_gpus(gpus, market=market):
        assert "V100" not in kind.gpu_model
        catalog.require_driven(kind, None)


@pytest.mark.parametrize("name", ["p3.2xlarge", "trn1.2xlarge", "inf2.xlarge"])
def test_a_named_machine_that_the_usual_image_does_not_drive_needs_an_image(name: str) -> None:
    kind = catalog.instance_type(name)
    with pytest.raises(ValidationError, match="has no driver"):
        catalog.require_driven(kind, None)
    catalog.require_driven(kind, "ami-1")
