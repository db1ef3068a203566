"""How the temporary machine of a filling is bought and launched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runctl.model import TAG_CREATED, TAG_MANAGED, TAG_PROJECT, TAG_PURPOSE, TAG_USER, Offer
from runctl.pricing import catalog
from runctl.providers.aws import instances, market
from runctl.resources import fillers, leases
from runctl.resources.fillers import Work
from runctl.resources.offers import offers
from runctl.resources.operation import Operation
from runctl.safety.saga import Request

if TYPE_CHECKING:
    from runctl.resources.warming import Target, WarmRequest

PURPOSE = "pre-warm"
_TIMESTAMP = "%Y-%m-%dT%H:%M:%SZ"


def ways(operation: Operation, target: Target, request: WarmRequest, work: Work) -> list[Offer]:
    """Every way to get a machine in the volume's zone, the best first. Raises ValidationError."""
    named = request.instance_type
    types = [catalog.instance_type(named)] if named else fillers.fitting(work)
    return offers(
        operation.session,
        types,
        spot=request.spot,
        fallback=request.fallback,
        zones=(target.zone,),
        subnets=request.subnets,
        by_price=False,
        emit=operation.emit,
    )


def launch(operation: Operation, request: WarmRequest, offer: Offer, own: dict[str, str]) -> Request:
    """The request of one way: its end is armed before anything that can fail."""
    kind = catalog.instance_type(offer.instance_type)
    image = operation.once(
        f"image {kind.architecture} False",
        lambda: market.image_for(
            operation.session, architecture=kind.architecture, gpus=0, chosen=request.image
        ),
    )
    spec = instances.InstanceSpec(
        offer=offer,
        image=image.id,
        root_device=image.root_device,
        root_volume_gib=max(request.root_volume_gib, image.root_gib),
        profile=request.profile,
        user_data="#!/bin/sh\n" + leases.armed_at_boot(request.lease_minutes, or_else=""),
        tags=own,
        security_group=request.security_group,
    )
    return {
        "what": f"{offer.instance_type} {offer.market} in {offer.zone}",
        "offer": msgspec.to_builtins(offer),
        "parameters": instances.run_parameters(spec, ""),
    }


def tags(operation: Operation, request: WarmRequest, target: Target) -> dict[str, str]:
    """By which a machine is known to be runctl's, and what it is for."""
    return {
        "Name": f"runctl pre-warm {target.subject}"[:256],
        TAG_MANAGED: "true",
        TAG_USER: request.user,
        TAG_PROJECT: request.project,
        TAG_PURPOSE: PURPOSE,
        TAG_CREATED: operation.session.cloud.clock.now().strftime(_TIMESTAMP),
    }
