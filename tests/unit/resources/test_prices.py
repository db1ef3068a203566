"""Live prices: asked once, kept for a week, and the catalog where AWS does not tell."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import cloud_values
import msgspec
import pytest

from runctl.clouds import Cloud
from runctl.errors import CloudError
from runctl.model import Price
from runctl.providers.aws.session import Session
from runctl.resources import costs, prices

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class HandClock:
    speed = 1.0

    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class PriceList(Session):
    """A session whose Price List says what the test wants, and counts how often it is asked."""

    def __init__(self, key: str, region: str = "us-east-1") -> None:
        self.clock = HandClock()
        super().__init__(Cloud(name="aws", key=key, clock=self.clock, region=region))
        self.says: str | None = "1.2340000000"
        self.unit = "Hrs"
        self.refuses = ""
        self.asked = 0

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> Iterator[Any]:
        assert (service, operation, key) == ("pricing", "get_products", "PriceList")
        self.asked += 1
        if self.refuses:
            raise CloudError("no", service=service, operation=operation, code=self.refuses)
        if self.says is None:
            return iter(())
        price = {"unit": self.unit, "pricePerUnit": {"USD": self.says}}
        terms = {"OnDemand": {"a": {"priceDimensions": {"b": price}}}}
        return iter([msgspec.json.encode({"terms": terms}).decode()])


def asked(session: Session, instance_type: str = "g5.xlarge") -> Price | None:
    prices.learn(session, [instance_type])
    return prices.on_demand(session, instance_type)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path))
    monkeypatch.setattr(prices, "_known", {})
    monkeypatch.setattr(prices, "_refused", {})
    return tmp_path


def test_a_live_price_is_asked_once_and_kept_for_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    session = PriceList("aws")
    first = asked(session, "g5.xlarge")
    assert first is not None
    assert (first.usd_per_hour, first.source, first.as_of) == (Decimal("1.234"), "AWS Price List", NOON)
    monkeypatch.setattr(prices, "_known", {})  # another process
    session.clock.sleep(timedelta(days=6, hours=23).total_seconds())
    assert asked(session, "g5.xlarge") == first
    assert session.asked == 1
    session.says = "2.5"
    session.clock.sleep(timedelta(hours=2).total_seconds())
    later = asked(session, "g5.xlarge")
    assert later is not None
    assert later.usd_per_hour == Decimal("2.5")
    assert session.asked == 2


def test_an_account_that_may_not_ask_gets_the_catalog_which_says_so_and_is_not_asked_twice() -> None:
    session = PriceList("aws")
    session.refuses = "AccessDeniedException"
    found = asked(session, "g5.xlarge")
    assert found is not None
    assert found.usd_per_hour == Decimal("1.006")
    assert found.source == "catalog (AccessDeniedException)"
    assert found.as_of < NOON - timedelta(days=1)
    asked(session, "p4d.24xlarge")
    assert session.asked == 1


def test_nothing_is_asked_where_a_price_is_only_looked_up() -> None:
    session = PriceList("aws")
    found = prices.on_demand(session, "g5.xlarge")
    assert found is not None
    assert (found.source, session.asked) == ("catalog", 0)


def test_what_neither_knows_is_unknown_and_not_nothing() -> None:
    session = PriceList("aws", region="mars-north-1")
    session.says = None
    assert asked(session, "g5.xlarge") is None
    session.refuses = "AccessDeniedException"
    assert asked(session, "m7i.xlarge") is None


def test_an_old_live_price_beats_the_catalog_where_aws_does_not_answer_any_more() -> None:
    session = PriceList("aws")
    first = asked(session, "g5.xlarge")
    session.refuses = "ServiceUnavailable"
    session.clock.sleep(timedelta(days=30).total_seconds())
    assert asked(session, "g5.xlarge") == first


def test_a_torn_cache_is_but_a_question_more(home: Path) -> None:
    (home / "prices.json").write_bytes(b'{"aws/us-east-1/g5.xl')
    session = PriceList("aws")
    assert asked(session, "g5.xlarge") is not None
    assert session.asked == 1


def test_clouds_and_regions_do_not_share_prices() -> None:
    here, there = PriceList("aws"), PriceList("sandbox:other", region="us-west-2")
    there.says = "9.9"
    first, second = asked(here, "g5.xlarge"), asked(there, "g5.xlarge")
    assert first is not None
    assert second is not None
    assert (first.usd_per_hour, second.usd_per_hour) == (Decimal("1.234"), Decimal("9.9"))


def test_the_sandbox_answers_the_price_list_over_http(sandbox_cloud: Any) -> None:
    found = asked(Session(sandbox_cloud.cloud()), "g5.xlarge")
    assert found is not None
    assert (found.usd_per_hour, found.source) == (Decimal("1.006"), "AWS Price List")


def test_a_disk_costs_what_aws_says_of_its_space_and_speed_by_the_catalog() -> None:
    session = PriceList("aws")
    session.says, session.unit = "0.1000000000", "GB-Mo"
    slow = cloud_values.volume(region="us-east-1", size_gib=100)
    fast = cloud_values.volume(region="us-east-1", size_gib=100, iops=4000)
    before = costs.volume_rate(slow, "aws")
    assert before is not None
    assert before.source == "catalog"
    prices.learn(session, [], ["gp3"])
    prices.learn(session, [], ["gp3"])
    assert session.asked == 1
    plain, tuned = costs.volume_rate(slow, "aws"), costs.volume_rate(fast, "aws")
    assert plain is not None
    assert tuned is not None
    assert (plain.source, plain.as_of) == ("AWS Price List", NOON)
    assert plain.usd_per_hour * 730 == pytest.approx(Decimal(10))
    assert (tuned.source, tuned.as_of) == ("AWS Price List, speed: catalog", NOON)
    assert tuned.usd_per_hour * 730 == pytest.approx(Decimal(15))
    elsewhere = costs.volume_rate(slow, "sandbox:other")
    assert elsewhere is not None
    assert elsewhere.source == "catalog"
