"""Spot requests: one that is open starts a machine some day, whoever remembers it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from runctl.model import TAG_JOB, TAG_MANAGED
from runctl.providers.aws.session import Session


class SpotRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request in EC2's own words; `instance` is the machine that it brought."""

    id: str
    region: str
    state: str
    status: str
    created: datetime
    instance: str | None
    job: str


def managed(session: Session) -> list[SpotRequest]:
    """Those of runctl that are open or active. Raises CloudError."""
    rows = session.pages(
        "ec2",
        "describe_spot_instance_requests",
        "SpotInstanceRequests",
        Filters=[
            {"Name": "state", "Values": ["open", "active"]},
            {"Name": f"tag:{TAG_MANAGED}", "Values": ["true"]},
        ],
    )
    return [
        SpotRequest(
            id=row["SpotInstanceRequestId"],
            region=session.region,
            state=row["State"],
            status=row.get("Status", {}).get("Code", ""),
            created=row["CreateTime"].astimezone(UTC),
            instance=row.get("InstanceId"),
            job={tag["Key"]: tag["Value"] for tag in row.get("Tags", [])}.get(TAG_JOB, ""),
        )
        for row in rows
    ]
