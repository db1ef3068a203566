"""USD an hour as things stand now."""

from __future__ import annotations

from decimal import Decimal

from cloud_values import KEY, ValueSession, at, instance

from runctl.ledger import Ledger
from runctl.ledger.prices import spot_pool
from runctl.model import Market, PricePoint
from runctl.resources import costs


def test_a_spot_machine_costs_the_price_in_force_and_not_an_estimate(
    session: ValueSession, ledger: Ledger
) -> None:
    found = instance(market=Market.SPOT)
    pool = spot_pool(KEY, found.zone, found.instance_type)
    history = {-7200: "0.31", -3600: "0.36", 3600: "0.99"}
    points = [
        PricePoint(at=at(second), usd_per_hour=Decimal(usd), source="s") for second, usd in history.items()
    ]
    ledger.prices.add(pool, points)
    price = costs.rate(session, ledger, found)
    assert price is not None
    assert (price.usd_per_hour, price.as_of) == (Decimal("0.36"), at(-3600))


def test_a_spot_machine_without_a_price_history_costs_what_it_usually_does(
    session: ValueSession, ledger: Ledger
) -> None:
    price = costs.rate(session, ledger, instance(market=Market.SPOT))
    assert price is not None
    assert "estimate" in price.source
