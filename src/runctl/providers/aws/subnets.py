"""Subnets that machines can be launched into: those that the user chose, or the default ones, by zone."""

from __future__ import annotations

from collections.abc import Sequence

from runctl.errors import ConfigError, NotFound
from runctl.providers.aws.session import Session
from runctl.quoting import quoted


def usable(session: Session, chosen: Sequence[str] = ()) -> dict[str, str | None]:
    """By zone, the subnet with the most free addresses; None for a zone's default one, which EC2 finds.

    A zone without a subnet has no machine for this account, whatever is offered there. Raises ConfigError
    where there is none at all, CloudError.
    """
    asked = (
        {"SubnetIds": list(chosen)}
        if chosen
        else {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    )
    try:
        rows = list(session.pages("ec2", "describe_subnets", "Subnets", **asked))
    except NotFound as error:
        raise ConfigError(
            f"There is no such subnet in {session.region}",
            why=str(error),
            next="runctl config set aws.subnets subnet-..., of this region",
        ) from error
    rooms = [row for row in rows if row["State"] == "available" and row["AvailableIpAddressCount"] > 0]
    found: dict[str, str | None] = {}
    for row in sorted(rooms, key=lambda row: row["AvailableIpAddressCount"]):
        found[row["AvailabilityZone"]] = str(row["SubnetId"]) if chosen else None
    if found:
        return found
    region = quoted(session.region)
    raise ConfigError(
        f"There is no subnet for machines in {session.region}",
        why="none has a free address" if rows else "the account has no default VPC there, or that has none",
        next=f"aws ec2 create-default-vpc --region {quoted(region)},"
        " or: runctl config set aws.subnets subnet-...",
    )
