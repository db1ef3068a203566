"""Ways to get a machine: types, zones and markets with what each costs, the best first."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from decimal import Decimal

from msgspec.structs import replace

from runctl.clock import Clock
from runctl.errors import ValidationError
from runctl.events import Emit, Notice
from runctl.model import InstanceType, Market, Offer, Price, PricePoint
from runctl.pricing import catalog
from runctl.providers.aws.session import Session
from runctl.resources import prices as prices_of


def offers(
    session: Session,
    types: Sequence[InstanceType],
    *,
    spot: bool,
    fallback: bool,
    zones: Collection[str] = (),
    avoid: Collection[str] = (),
    subnets: Sequence[str] = (),
    by_price: bool = True,
    emit: Emit,
) -> list[Offer]:
    """Every way to get one of these types; `zones` limits them, and those in `avoid` come last.

    Of each market, the first type comes before the others: with `by_price`, the cheapest does.

    With `spot`, on-demand follows only as a `fallback`. Only zones with a subnet count: one of the `subnets`
    where some are chosen, else a default one. Raises ValidationError where nothing is offered.
    """
    from runctl.providers.aws.subnets import usable

    offered: list[Offer] = []
    for kind in types:
        offered.extend(_offers_of(session, kind, spot=spot, fallback=fallback, emit=emit))
    names = [kind.name for kind in types]
    offered = [offer for offer in offered if not zones or offer.zone in zones]
    if not offered:
        where = " or ".join(sorted(zones)) or session.region
        raise ValidationError(
            f"{types[0].name if len(types) == 1 else 'Such a machine'} is not offered in {where}",
            why="no zone of the region offers it" if not zones else "the zone does not offer it",
            next="choose another --region or --instance-type",
        )
    nets = usable(session, subnets)
    found = [replace(offer, subnet=nets[offer.zone]) for offer in offered if offer.zone in nets]
    if not found:
        zones_of = ", ".join(sorted({offer.zone for offer in offered}))
        raise ValidationError(
            f"No subnet is in a zone that offers {' or '.join(names)}",
            why=f"it is offered in {zones_of}; the subnets are in {', '.join(sorted(nets))}",
            next="aws ec2 create-default-subnet --availability-zone ZONE,"
            " or: runctl config set aws.subnets subnet-...",
        )
    return sorted(
        found,
        key=lambda offer: (
            offer.market is not Market.SPOT if spot else False,
            offer.zone in avoid,
            0 if by_price else names.index(offer.instance_type),
            offer.price.usd_per_hour if offer.price else Decimal("Infinity"),
            offer.zone,
        ),
    )


def spot_prices(session: Session, clock: Clock, instance_type: str) -> dict[str, Price]:
    """The price in force now, by zone."""
    from runctl.providers.aws import market

    now = clock.now()
    history = market.spot_history(session, instance_type, start=now - timedelta(seconds=1), end=now)
    return {zone: _price(points[-1]) for zone, points in history.items()}


def _offers_of(
    session: Session, kind: InstanceType, *, spot: bool, fallback: bool, emit: Emit
) -> list[Offer]:
    from runctl.providers.aws import market

    zones = market.zones_offering(session, kind.name)
    found: list[Offer] = []
    if spot:
        prices = spot_prices(session, session.cloud.clock, kind.name)
        for zone in zones:
            price = prices.get(zone) or catalog.spot_estimate(kind.name, session.region)
            found.append(Offer("aws", kind.name, zone, Market.SPOT, price))
        if not prices and zones:
            emit(Notice(text=f"no spot price history for {kind.name}: prices are estimates", warning=True))
    if not spot or fallback:
        if catalog.on_demand(kind.name, session.region) is None:
            prices_of.learn(session, [kind.name])
        price = prices_of.on_demand(session, kind.name)
        found.extend(Offer("aws", kind.name, zone, Market.ON_DEMAND, price) for zone in zones)
    return found


def _price(point: PricePoint) -> Price:
    return Price(usd_per_hour=point.usd_per_hour, source=point.source, as_of=point.at)
