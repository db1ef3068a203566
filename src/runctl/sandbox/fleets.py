# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""CreateFleet of type instant: one launch, tried over types and zones, with the errors of what failed."""

from __future__ import annotations

import copy
import uuid
from decimal import Decimal
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.responses import EC2Response
from moto.ec2.responses.fleets import Fleets

from runctl.sandbox.launches import launch
from runctl.sandbox.overlay import AwsError, ServerError, asked, asked_tags, cloud, replaces


@replaces(Fleets, "create_fleet")
def _create_fleet(_: Any, call: Any) -> Any:
    if asked(call, "Type") != "instant":
        raise NotImplementedError("fleets of another type than instant")
    call.error_on_dryrun()
    capacity = asked(call, "TargetCapacitySpecification", {})
    wanted = int(capacity["TotalTargetCapacity"])
    market = capacity.get("DefaultTargetCapacityType", "on-demand")
    launched: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for template, override in _ordered(call, market):
        try:
            made = _launch(call, template, override, market, wanted)
        except (AwsError, ServerError) as error:
            errors.append(_error(error, template, override, market))
            continue
        launched.append(
            {
                **_about(template, override, market),
                "InstanceIds": [instance.id for instance in made],
                "InstanceType": made[0].instance_type,
            }
        )
        break
    return ActionResult({"FleetId": f"fleet-{uuid.uuid4()}", "Instances": launched, "Errors": errors})


def _ordered(call: Any, market: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Templates with each of their overrides, in order of what the strategy prefers: priority, or price."""
    pairs = [
        (config["LaunchTemplateSpecification"], override)
        for config in asked(call, "LaunchTemplateConfigs", [])
        for override in config.get("Overrides") or [{}]
    ]
    if not pairs:
        raise AwsError("MissingParameter", "The request must contain the parameter launchTemplateConfigs")
    options = asked(call, "SpotOptions" if market == "spot" else "OnDemandOptions", {})
    if "prioritized" in options.get("AllocationStrategy", ""):
        return sorted(pairs, key=lambda pair: float(pair[1].get("Priority", 0)))
    return sorted(pairs, key=lambda pair: _price(pair[1], market, f"{call.region}a"))


def _price(override: dict[str, Any], market: str, zone: str) -> Decimal:
    kind = override.get("InstanceType", "")
    if market == "spot":
        return cloud().prices.spot(kind, override.get("AvailabilityZone") or zone, cloud().clock.now())
    return cloud().prices.on_demand(kind)


def _launch(
    call: Any, template: dict[str, Any], override: dict[str, Any], market: str, count: int
) -> list[Any]:
    one = copy.copy(call)
    parameters: dict[str, Any] = {"LaunchTemplate": template, "MinCount": count, "MaxCount": count}
    if market == "spot":
        parameters["InstanceMarketOptions"] = {"MarketType": "spot"}
    for name in ("InstanceType", "SubnetId", "ImageId"):
        if name in override:
            parameters[name] = override[name]
    if "AvailabilityZone" in override:
        parameters["Placement"] = {"AvailabilityZone": override["AvailabilityZone"]}
    parameters["TagSpecifications"] = [
        {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        for kind in ("instance", "volume")
        if (tags := asked_tags(call, kind))
    ]
    if override.get("InstanceType") not in (None, *INSTANCE_TYPES):
        raise AwsError("InvalidFleetConfiguration", f"Unknown instance type {override['InstanceType']}")
    one.params = parameters
    return launch(one).instances


def _about(template: dict[str, Any], override: dict[str, Any], market: str) -> dict[str, Any]:
    return {
        "LaunchTemplateAndOverrides": {"LaunchTemplateSpecification": template, "Overrides": override},
        "Lifecycle": market,
    }


def _error(
    error: AwsError | ServerError, template: dict[str, Any], override: dict[str, Any], market: str
) -> dict[str, Any]:
    return {
        **_about(template, override, market),
        "ErrorCode": error.error_code if isinstance(error, ServerError) else error.code,
        "ErrorMessage": error.error_message if isinstance(error, ServerError) else error.message,
    }


def _absent(_: Any) -> Any:
    raise NotImplementedError("fleets live no longer than the call that makes them")


for _name in ("describe_fleets", "describe_fleet_instances", "delete_fleets"):
    setattr(EC2Response, _name, _absent)
