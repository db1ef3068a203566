# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
"""The smaller services: prices, quotas, simulated policies; and what an account has from the start."""

from __future__ import annotations

import json
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response
from moto.iam.access_control import IAMPolicy, PermissionResult
from moto.iam.models import iam_backends
from moto.iam.responses import IamResponse
from moto.sts.models import sts_backends

from runctl.sandbox.keyring import Key
from runctl.sandbox.overlay import asked, cloud
from runctl.sandbox.state import ACCOUNT

PROFILE = "runctl-instance"
_ASSUME = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
)
_RIGHTS = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["s3:*", "ssm:*", "ssmmessages:*"], "Resource": "*"}],
    }
)


def given_out(access: str) -> Key | None:
    """A key that IAM made for a user, or STS for a role; the latter are good as long as the sandbox."""
    for role in list(sts_backends[ACCOUNT]["aws"].assumed_roles):
        if role.access_key_id == access:
            return Key(access, role.secret_access_key, role.session_token)
    for user in list(iam_backends[ACCOUNT]["aws"].users.values()):
        for key in list(user.access_keys):
            if key.access_key_id == access and key.status == "Active":
                return Key(access, key.secret_access_key)
    return None


def seed() -> None:
    """The role of machines, in its instance profile."""
    iam = iam_backends[ACCOUNT]["aws"]
    role = iam.create_role(
        role_name=PROFILE,
        assume_role_policy_document=_ASSUME,
        path="/",
        permissions_boundary="",
        description="Machines of runctl",
        tags=[],
        max_session_duration="3600",
    )
    iam.put_role_policy(role.name, "machines", _RIGHTS)
    iam.create_instance_profile(name=PROFILE, path="/", role_names=[role.name], tags=[])


def _simulate(self: Any) -> Any:
    backend, arn = iam_backends[self.current_account][self.partition], self._get_param("PolicySourceArn")
    name = arn.split("/")[-1]
    who = backend.get_role(name) if ":role/" in arn else backend.get_user(name)
    documents = list(who.policies.values())
    for managed in who.managed_policies.values():
        documents.extend(version.document for version in managed.versions if version.is_default)
    results = []
    for action in self._get_param("ActionNames", []):
        found = [IAMPolicy(document).is_action_permitted(action, "*") for document in documents]
        decision = "implicitDeny"
        if PermissionResult.DENIED in found:
            decision = "explicitDeny"
        elif PermissionResult.PERMITTED in found:
            decision = "allowed"
        results.append({"EvalActionName": action, "EvalResourceName": "*", "EvalDecision": decision})
    return ActionResult({"EvaluationResults": results, "IsTruncated": False})


IamResponse.simulate_principal_policy = _simulate


def _placement_scores(self: Any) -> Any:
    """By zone when asked, else by region; fewer than three types score low, as on AWS."""
    few = len(asked(self, "InstanceTypes", [])) < 3
    best = 3 if few else 9
    if str(asked(self, "SingleAvailabilityZone", False)).lower() != "true":
        return ActionResult({"SpotPlacementScores": [{"Region": self.region, "Score": best}]})
    rows = [
        {"Region": self.region, "AvailabilityZoneId": zone.zone_id, "Score": max(1, best - number)}
        for number, zone in enumerate(self.ec2_backend.describe_availability_zones())
    ]
    return ActionResult({"SpotPlacementScores": rows})


EC2Response.get_spot_placement_scores = _placement_scores


def pricing(operation: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """GetProducts for instance types and for space on disks; None for what is not simulated."""
    if operation != "GetProducts":
        return None
    wanted = {row["Field"]: row["Value"] for row in body.get("Filters", [])}
    if wanted.get("productFamily", "").startswith("Storage"):
        return {"FormatVersion": "aws_v1", "PriceList": _space(wanted)}
    names = [wanted["instanceType"]] if "instanceType" in wanted else cloud().prices.known_types()
    region = wanted.get("regionCode", "us-east-1")
    known = set(cloud().prices.known_types())
    return {
        "FormatVersion": "aws_v1",
        "PriceList": [json.dumps(_product(name, region)) for name in names if name in known],
    }


def _space(wanted: dict[str, str]) -> list[str]:
    """A GiB of a volume type for a month, or of snapshots, which have further products."""
    family = wanted["productFamily"]
    if family == "Storage":
        kind = wanted.get("volumeApiName", "")
        usages = {f"EBS:VolumeUsage{'' if kind == 'standard' else f'.{kind}'}": kind}
    else:
        usages = {"EBS:SnapshotUsage": "snapshot", "EBS:SnapshotArchiveStorage": "snapshot_archive"}
    found: list[str] = []
    for usage, kind in usages.items():
        usd = cloud().prices.gib_month(kind)
        if usd is None:
            continue
        attributes = {"usagetype": usage, "regionCode": wanted.get("regionCode", "us-east-1")}
        price = {"unit": "GB-Mo", "pricePerUnit": {"USD": f"{usd:.10f}"}}
        product = {
            "product": {"productFamily": family, "sku": usage, "attributes": attributes},
            "terms": {"OnDemand": {f"{usage}.JRT": {"priceDimensions": {f"{usage}.JRT.6YS": price}}}},
        }
        found.append(json.dumps(product))
    return found


def _product(name: str, region: str) -> dict[str, Any]:
    attributes = {
        "instanceType": name,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "capacitystatus": "Used",
        "marketoption": "OnDemand",
        "preInstalledSw": "NA",
        "regionCode": region,
    }
    price = {"unit": "Hrs", "pricePerUnit": {"USD": f"{cloud().prices.on_demand(name):.10f}"}}
    return {
        "product": {"productFamily": "Compute Instance", "sku": name, "attributes": attributes},
        "terms": {"OnDemand": {f"{name}.JRT": {"priceDimensions": {f"{name}.JRT.6YS": price}}}},
    }


def quotas(operation: str, body: dict[str, Any]) -> dict[str, Any] | None:
    """GetServiceQuota for EC2's vCPUs; None for what is not simulated."""
    if operation != "GetServiceQuota" or body.get("ServiceCode") != "ec2":
        return None
    return {
        "Quota": {
            "ServiceCode": "ec2",
            "QuotaCode": body.get("QuotaCode", ""),
            "QuotaName": "Running instances, in vCPUs",
            "Value": float(cloud().vcpu_limit),
            "Unit": "None",
        }
    }
