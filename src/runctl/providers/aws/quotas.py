"""EC2's quotas of processors: one for each group of families and market, and what asks for more.

Source: Service Quotas, "Amazon Elastic Compute Cloud (Amazon EC2)"; Amazon EC2 User Guide, "On-Demand
Instance limits" and "Limits for Spot Instance requests". A new account has 0 for spot machines with GPUs.
"""

from __future__ import annotations

import functools
import re

import msgspec

from runctl.data import instance_type_rows
from runctl.errors import CloudError, QuotaError
from runctl.model import Market
from runctl.quoting import quoted

CODES = frozenset(
    {
        "InstanceLimitExceeded",
        "MaxIOPSLimitExceeded",
        "MaxSpotFleetRequestCountExceeded",
        "MaxSpotInstanceCountExceeded",
        "NetworkInterfaceLimitExceeded",
        "ResourceLimitExceeded",
        "SnapshotLimitExceeded",
        "VcpuLimitExceeded",
        "VolumeLimitExceeded",
    }
)
"""Errors that say that an account has all that it may have: another zone has no more of it."""

_OF_DISKS = frozenset({"MaxIOPSLimitExceeded", "SnapshotLimitExceeded", "VolumeLimitExceeded"})
_OF_PROCESSORS = frozenset({"InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "VcpuLimitExceeded"})


class Quota(msgspec.Struct, frozen=True):
    """Its code in Service Quotas, of the service ec2, and its name there."""

    code: str
    name: str


_STANDARD = "Standard (A, C, D, H, I, M, R, T, Z)"
_BY_LETTERS = {
    "g": ("G and VT", "L-DB2E81BA", "L-3819A6DF"),
    "vt": ("G and VT", "L-DB2E81BA", "L-3819A6DF"),
    "p": ("P", "L-417A185B", "L-7212CCBC"),
    "inf": ("Inf", "L-1945791B", "L-B5D1601B"),
    "trn": ("Trn", "L-2C3B7624", "L-6B0D517C"),
    "dl": ("DL", "L-6E869C2A", "L-85EED4F7"),
    "f": ("F", "L-74FC7D96", "L-88CF9481"),
    "x": ("X", "L-7295265B", "L-E3A00192"),
    **dict.fromkeys("acdhimrtz", (_STANDARD, "L-1216C47A", "L-34B43A08")),
}
"""By the letters that a type's name begins with: the families, the codes on demand and on spot."""

_P5_SPOT = Quota("L-C4BD4855", "All P5 Spot Instance Requests")


def of(instance_type: str, market: Market) -> Quota | None:
    """The quota that a machine of a type counts against; None where it is not known."""
    letters = re.match(r"[a-z]+", instance_type.partition(".")[0])
    found = letters and (_BY_LETTERS.get(letters[0]) or _BY_LETTERS.get(letters[0][:1]))
    if not found:
        return None
    families, on_demand, spot = found
    if market is not Market.SPOT:
        return Quota(on_demand, f"Running On-Demand {families} instances")
    if instance_type.startswith("p5"):
        return _P5_SPOT
    families = "P4, P3 and P2" if families == "P" else families
    return Quota(spot, f"All {families} Spot Instance Requests")


def exceeded(error: CloudError, instance_type: str, market: Market, region: str) -> QuotaError:
    """What a launch was refused for, with the quota and the command that asks for more of it."""
    quota = of(instance_type, market) if error.code in _OF_PROCESSORS else None
    if quota is None:
        return of_any(error)
    vcpus = _vcpus(instance_type)

    def meets(other: str, of_market: str) -> bool:
        """Another machine of this quota, and no smaller one: what is left may be enough for that."""
        return of(other, Market(of_market)) == quota and _vcpus(other) >= vcpus

    return QuotaError(
        f"The account's quota has no room for {instance_type} {market} in {region}",
        service=error.service,
        operation=error.operation,
        code=error.code,
        request_id=error.request_id,
        why=f"{error.code}: {quota.name} ({quota.code}) is counted in vCPUs, of which it needs {vcpus};"
        " a new account has 0 for GPUs",
        next="aws service-quotas request-service-quota-increase --service-code ec2"
        f" --quota-code {quoted(quota.code)} --desired-value {quoted(str(vcpus))} --region {quoted(region)}"
        "  (plus what runs already)",
        quota=quota.code,
        meets=meets,
    )


def of_any(error: CloudError) -> QuotaError:
    """A quota that an answer names by its error code alone."""
    service = "ebs" if error.code in _OF_DISKS else "ec2"
    return QuotaError(
        f"A quota of the account is spent: {error.code}",
        service=error.service,
        operation=error.operation,
        code=error.code,
        request_id=error.request_id,
        why=error.what,
        next=f"aws service-quotas list-service-quotas --service-code {quoted(service)}",
    )


@functools.cache
def _vcpus(instance_type: str) -> int:
    return next(
        (int(row["vcpu"]) for row in instance_type_rows() if row["instance_type"] == instance_type), 1
    )
