# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""Spot requests, prices and interruptions."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.spot_requests import SpotInstanceRequest
from moto.ec2.responses import EC2Response

from runctl.errors import NotFound, ValidationError
from runctl.sandbox.overlay import AwsError, asked, asked_filters, cloud, matches, now, page, replaces
from runctl.sandbox.prices import HISTORY_STEPS, STEP_SECONDS

_PRODUCT = "Linux/UNIX"
_TAKEN = {
    "terminate": (
        "Server.SpotInstanceTermination",
        "Server.SpotInstanceTermination: Spot instance termination",
    ),
    "stop": ("Server.SpotInstanceShutdown", "Server.SpotInstanceShutdown: Spot instance shutdown"),
}


def check_ceiling(kind: str, zone: str, market: str, ceiling: str | None) -> None:
    if market != "spot" or not ceiling:
        return
    price = cloud().prices.spot(kind, zone, cloud().clock.now())
    if Decimal(ceiling) < price:
        raise AwsError(
            "SpotMaxPriceTooLow",
            f"Your Spot request price of {ceiling} is lower than the minimum required Spot request "
            f"fulfillment price of {price}.",
        )


def open_request(backend: Any, instance: Any, ceiling: str | None, call: Any) -> None:
    """The request record that RunInstances leaves on AWS and not in moto."""
    request = SpotInstanceRequest.__new__(SpotInstanceRequest)
    request.__dict__.update(
        ec2_backend=backend,
        id="sir-" + instance.id[2:10],
        state="active",
        _status_code="fulfilled",
        status_message="Your Spot request is fulfilled.",
        sandbox_updated=now(),
        sandbox_created=now(),
        price=ceiling or str(cloud().prices.on_demand(instance.instance_type)),
        type=call._get_param("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time"),
        valid_from=None,
        valid_until=None,
        launch_group=None,
        availability_zone_group=None,
        instance_interruption_behaviour=call._get_param(
            "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate"
        ),
        spot_fleet_id=None,
        launch_spec=None,
        all_tags={},
        instance=instance,
        launch_specification={
            "ImageId": instance.image_id,
            "InstanceType": instance.instance_type,
            "Placement": {"AvailabilityZone": instance.availability_zone},
        },
        launched_availability_zone=instance.availability_zone,
        user_data=None,
    )
    backend.spot_instance_requests[request.id] = request
    tags = call._parse_tag_specification().get("spot-instances-request", {})
    if tags:
        backend.create_tags([request.id], tags)
    instance.spot_instance_request_id = request.id


SpotInstanceRequest.create_time = property(lambda self: self.__dict__.get("sandbox_created") or now())
SpotInstanceRequest.status = property(
    lambda self: {
        "Code": self._status_code,
        "Message": self.status_message,
        "UpdateTime": self.__dict__.get("sandbox_updated") or now(),
    }
)


@replaces(SpotInstanceRequest, "get_filter_value")
def _filter_value(original: Any, self: Any, name: str, *_: Any) -> Any:
    own = {"instance-id": self.instance.id, "status-code": self._status_code, "type": self.type}
    return own[name] if name in own else original(self, name)


def _cancel(self: Any) -> Any:
    """A cancelled request stays to be seen; its running instance goes on."""
    self.error_on_dryrun()
    ids = self._get_param("SpotInstanceRequestIds", [])
    found = []
    for request_id in ids:
        request = self.ec2_backend.spot_instance_requests.get(request_id)
        if request is None:
            raise AwsError(
                "InvalidSpotInstanceRequestID.NotFound",
                f"The spot instance request ID '{request_id}' does not exist",
            )
        if request.state in {"open", "active"}:
            _set(request, "cancelled", "request-canceled-and-instance-running")
        found.append({"SpotInstanceRequestId": request.id, "State": request.state})
    return ActionResult({"CancelledSpotInstanceRequests": found})


EC2Response.cancel_spot_instance_requests = _cancel


def _set(request: Any, state: str, code: str, message: str = "") -> None:
    request.state, request._status_code, request.status_message = state, code, message
    request.sandbox_updated = now()


def close_request(instance: Any, reason: str) -> None:
    """The user ended the instance, and its request with it."""
    request = _request_of(instance)
    if request is not None and reason.startswith("Client."):
        state = "cancelled" if request.state == "cancelled" else "closed"
        _set(request, state, "instance-terminated-by-user")


def refuse_stop(instance: Any) -> None:
    request = _request_of(instance)
    if request is not None and request.type == "one-time":
        raise AwsError(
            "UnsupportedOperation",
            f"You can't stop the Spot Instance '{instance.id}' because it is associated with a one-time "
            "Spot Instance request. You can only stop Spot Instances associated with persistent requests.",
        )


def _request_of(instance: Any) -> Any:
    return instance.ec2_backend.spot_instance_requests.get(instance.spot_instance_request_id)


def interrupt(
    instance_id: str,
    *,
    action: str,
    notice: float | None,
    rebalance_first: float | None,
    dry_run: bool = False,
) -> None:
    """Announce that a spot machine is taken back, and take it back. Under the cloud's lock.

    `dry_run` only finds out whether it could be.

    Raises NotFound, or ValidationError for a machine that is not spot or does not run.
    """
    from runctl.sandbox import instances

    instance = instances.find(instance_id)
    machine = cloud().machines.get(instance_id)
    if instance is None:
        raise NotFound(f"There is no instance {instance_id}", next="runctl sandbox status")
    if instance.lifecycle != "spot" or instance._state.name != "running" or machine is None:
        raise ValidationError(
            f"{instance_id} cannot be interrupted",
            why=f"it is {instance._state.name} and {instance.lifecycle or 'on-demand'}",
            next="interrupt a running spot machine",
        )
    if action not in _TAKEN:
        raise ValidationError(f"Unknown interruption {action!r}", next="terminate or stop")
    if dry_run:
        return
    seconds = cloud().timing.spot_notice if notice is None else notice
    if rebalance_first is not None:
        machine.post_rebalance(cloud().clock.now())
        cloud().after(rebalance_first, _announce, instance, action, seconds)
        return
    _announce(instance, action, seconds)


def _announce(instance: Any, action: str, seconds: float) -> None:
    machine = cloud().machines.get(instance.id)
    if machine is None or instance._state.name != "running":
        return
    machine.post_notice(action, cloud().clock.now() + seconds)
    request = _request_of(instance)
    if request is not None:
        _set(request, request.state, f"marked-for-{'stop' if action == 'stop' else 'termination'}")
    cloud().after(seconds, _take, instance, action)


def _take(instance: Any, action: str) -> None:
    from runctl.sandbox import instances

    if instance._state.name != "running":
        return
    request = _request_of(instance)
    if action == "stop":
        instances.stop(instance, _TAKEN["stop"])
    else:
        instances.terminate(instance, _TAKEN["terminate"])
    if request is not None:
        closed = "disabled" if action == "stop" else "closed"
        verb = "stopped" if action == "stop" else "terminated"
        _set(request, closed, f"instance-{verb}-no-capacity")


def _history(self: Any) -> Any:
    """Real change points, newest first, and the price in force at the start."""
    self.error_on_dryrun()
    filters = asked_filters(self)
    types = asked(self, "InstanceTypes") or filters.get("instance-type") or cloud().prices.known_types()
    products = [*asked(self, "ProductDescriptions", []), *filters.get("product-description", [])]
    zones = [zone.name for zone in self.ec2_backend.describe_availability_zones()]
    wanted = filters.get("availability-zone") or [asked(self, "AvailabilityZone") or "*"]
    end = min(_seconds(asked(self, "EndTime")) or cloud().clock.now(), cloud().clock.now())
    start = min(_seconds(asked(self, "StartTime")) or end, end)
    start = max(start, cloud().clock.now() - HISTORY_STEPS * STEP_SECONDS)
    rows = [
        {
            "InstanceType": kind,
            "AvailabilityZone": zone,
            "ProductDescription": _PRODUCT,
            "SpotPrice": f"{price:.6f}",
            "Timestamp": datetime.fromtimestamp(at, UTC).replace(tzinfo=None),
        }
        for kind in types
        for zone in zones
        if matches([zone], wanted) and (not products or matches([_PRODUCT], products))
        for at, price in reversed(cloud().prices.changes(kind, zone, start, end))
    ]
    shown, following = page(rows, self, least=1, usual=1_000)
    return ActionResult({"SpotPriceHistory": shown, "NextToken": following or ""})


EC2Response.describe_spot_price_history = _history


def _absent(self: Any) -> Any:
    raise NotImplementedError("use RunInstances with InstanceMarketOptions")


EC2Response.request_spot_instances = _absent
EC2Response.request_spot_fleet = _absent


def _seconds(value: Any) -> float | None:
    if value is None or value == "":
        return None
    found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
