from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from runctl.errors import NotFound, ValidationError
from runctl.ledger import Interval, Ledger, ResourceRecord
from runctl.ledger.store import FILE_NAME
from runctl.model import Price, PricePoint

BuildResource = Callable[..., ResourceRecord]
SECOND = timedelta(seconds=1)


def price_of(usd: str, at: datetime) -> Price:
    return Price(Decimal(usd), "catalog", at)


def test_a_resource_comes_back_as_it_was_put_in(ledger: Ledger, resource: BuildResource) -> None:
    ledger.resources.save(resource())
    assert ledger.resources.get("i-1") == resource()


def test_an_unknown_resource_is_not_found(ledger: Ledger, noon: datetime) -> None:
    with pytest.raises(NotFound):
        ledger.resources.get("i-1")
    with pytest.raises(NotFound):
        ledger.resources.observe("i-1", "running", at=noon, billable=True, price=None)
    with pytest.raises(NotFound):
        ledger.resources.close("i-1", at=noon, ended_by=None)


def test_saving_again_never_brings_an_ended_resource_back(
    ledger: Ledger, resource: BuildResource, noon: datetime
) -> None:
    ledger.resources.save(resource())
    ledger.resources.close("i-1", at=noon, ended_by="user")
    ledger.resources.save(replace(resource(), name="renamed"))
    assert ledger.resources.get("i-1") == replace(resource(), name="renamed", ended=noon, ended_by="user")


def test_the_list_is_filtered(ledger: Ledger, resource: BuildResource, noon: datetime) -> None:
    ledger.resources.save(resource("i-1", job="digits"))
    ledger.resources.save(resource("i-2", cloud="aws"))
    ledger.resources.save(resource("vol-1", kind="volume", job="digits"))
    ledger.resources.close("i-2", at=noon, ended_by=None)

    def ids(**filters: object) -> list[str]:
        return [found.id for found in ledger.resources.list(**filters)]  # type: ignore[arg-type]

    assert ids() == ["i-1", "i-2", "vol-1"]
    assert ids(kind="instance") == ["i-1", "i-2"]
    assert ids(job="digits") == ["i-1", "vol-1"]
    assert ids(job="digits", kind="volume") == ["vol-1"]
    assert ids(cloud="aws") == ["i-2"]
    assert ids(live_only=True) == ["i-1", "vol-1"]


def test_states_follow_each_other_without_gaps(
    ledger: Ledger, resource: BuildResource, noon: datetime
) -> None:
    ledger.resources.save(resource())
    price = price_of("0.10", noon)
    observe = ledger.resources.observe
    observe("i-1", "running", at=noon, billable=True, price=price, pool="pool")
    observe("i-1", "running", at=noon + SECOND, billable=True, price=price, pool="pool")
    observe("i-1", "stopped", at=noon + 5 * SECOND, billable=False, price=None)
    assert ledger.resources.intervals("i-1") == [
        Interval(
            resource="i-1",
            state="running",
            start=noon,
            end=noon + 5 * SECOND,
            billable=True,
            price=price,
            pool="pool",
        ),
        Interval(
            resource="i-1",
            state="stopped",
            start=noon + 5 * SECOND,
            end=None,
            billable=False,
            price=None,
            pool=None,
        ),
    ]


@pytest.mark.parametrize(
    "change", [{"state": "stopping"}, {"billable": False}, {"price": None}, {"price": "0.2"}, {"pool": "b"}]
)
def test_any_change_that_matters_to_the_bill_begins_a_new_interval(
    ledger: Ledger, resource: BuildResource, noon: datetime, change: dict[str, object]
) -> None:
    ledger.resources.save(resource())
    ledger.resources.observe("i-1", "running", at=noon, billable=True, price=price_of("0.1", noon), pool="a")
    price = change.get("price", "0.1")
    ledger.resources.observe(
        "i-1",
        str(change.get("state", "running")),
        at=noon + SECOND,
        billable=bool(change.get("billable", True)),
        price=price_of(str(price), noon) if price else None,
        pool=str(change.get("pool", "a")),
    )
    assert len(ledger.resources.intervals("i-1")) == 2


def test_time_does_not_run_backwards(ledger: Ledger, resource: BuildResource, noon: datetime) -> None:
    ledger.resources.save(resource())
    ledger.resources.observe("i-1", "running", at=noon, billable=True, price=None)
    with pytest.raises(ValidationError, match="before it entered"):
        ledger.resources.observe("i-1", "stopped", at=noon - SECOND, billable=False, price=None)
    with pytest.raises(ValidationError, match="before it entered"):
        ledger.resources.close("i-1", at=noon - SECOND, ended_by="user")
    assert [found.state for found in ledger.resources.intervals("i-1")] == ["running"]
    assert ledger.resources.get("i-1").ended is None


def test_closing_is_idempotent_and_the_first_word_stands(
    ledger: Ledger, resource: BuildResource, noon: datetime
) -> None:
    ledger.resources.save(resource())
    ledger.resources.observe("i-1", "running", at=noon, billable=True, price=None)
    ledger.resources.close("i-1", at=noon + SECOND, ended_by="cloud")
    ledger.resources.close("i-1", at=noon + 9 * SECOND, ended_by="user")
    ledger.resources.observe("i-1", "running", at=noon + 9 * SECOND, billable=True, price=None)
    ended = ledger.resources.get("i-1")
    assert (ended.ended, ended.ended_by) == (noon + SECOND, "cloud")
    assert [found.end for found in ledger.resources.intervals("i-1")] == [noon + SECOND]


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE intervals SET usd_per_hour = '0'",
        'UPDATE intervals SET "end" = NULL',
        "DELETE FROM intervals",
        "REPLACE INTO intervals (number, resource, state, start, billable) VALUES (1, 'i-1', 'x', 0, 0)",
    ],
)
def test_a_closed_interval_is_never_altered(
    ledger: Ledger, resource: BuildResource, noon: datetime, tmp_path: Path, tampering: str
) -> None:
    ledger.resources.save(resource())
    ledger.resources.observe("i-1", "running", at=noon, billable=True, price=price_of("1", noon))
    ledger.resources.close("i-1", at=noon + SECOND, ended_by=None)
    before = ledger.resources.intervals("i-1")
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("PRAGMA recursive_triggers = ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(tampering)
        connection.rollback()
    assert ledger.resources.intervals("i-1") == before


@given(
    moments=st.lists(
        st.tuples(
            st.integers(0, 50), st.sampled_from(["running", "stopped"]), st.sampled_from([None, "0.1", "0.2"])
        ),
        max_size=30,
    )
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_observed_the_intervals_tile_the_time(
    ledger: Ledger,
    resource: BuildResource,
    noon: datetime,
    moments: list[tuple[int, str, str | None]],
) -> None:
    name = f"i-{len(ledger.resources.list())}"
    ledger.resources.save(resource(name))
    now, accepted = 0, None
    for second, state, usd in moments:
        price = price_of(usd, noon) if usd else None
        try:
            ledger.resources.observe(
                name, state, at=noon + second * SECOND, billable=state == "running", price=price
            )
        except ValidationError:
            assert second < now
        else:
            if accepted != (state, usd):
                now, accepted = second, (state, usd)
    found = ledger.resources.intervals(name)
    assert all(a.end == b.start for a, b in pairwise(found))
    assert all(a.end is not None and a.start <= a.end for a in found[:-1])
    if accepted is not None:
        last = found[-1]
        assert last.end is None
        assert last.start == noon + now * SECOND
        assert (last.state, last.price and str(last.price.usd_per_hour)) == accepted


def test_price_points_are_append_only_and_sorted(ledger: Ledger, noon: datetime) -> None:
    early, late = (
        PricePoint(noon + hour * 3600 * SECOND, Decimal(f"0.{hour}0"), "history") for hour in (1, 2)
    )
    ledger.prices.add("pool", [late, early])
    ledger.prices.add("pool", [replace(early, usd_per_hour=Decimal(9)), late])
    ledger.prices.add("other", [replace(early, usd_per_hour=Decimal(7))])
    assert ledger.prices.points("pool") == [early, late]
    assert ledger.prices.points("nowhere") == []


def test_times_of_any_zone_come_back_in_utc(ledger: Ledger, resource: BuildResource, noon: datetime) -> None:
    local = noon.astimezone(timezone(timedelta(hours=-7)))
    ledger.resources.save(replace(resource(), created=local))
    assert ledger.resources.get("i-1").created.utcoffset() == timedelta(0)
    assert ledger.resources.get("i-1").created == noon
