"""Where instances can be had and what they cost now: zones, spot history, images."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from runctl.errors import ConfigError, NotFound
from runctl.model import PricePoint
from runctl.providers.aws.session import Session

PLAIN_IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"
GPU_IMAGE = (
    "/aws/service/deeplearning/ami/{architecture}/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"
)


class Image(msgspec.Struct, frozen=True):
    """An AMI, the name of its root device, and the least GiB that a root disk made from it may have."""

    id: str
    root_device: str
    root_gib: int


def zones_offering(session: Session, instance_type: str) -> list[str]:
    """The zones of the region that offer this type, in order of name."""
    offerings = session.pages(
        "ec2",
        "describe_instance_type_offerings",
        "InstanceTypeOfferings",
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": [instance_type]}],
    )
    return sorted(row["Location"] for row in offerings)


def regions(session: Session) -> list[str]:
    """The regions that the account may use, in order of name."""
    answer = session.call("ec2", "describe_regions")
    return sorted(row["RegionName"] for row in answer["Regions"])


def zones(session: Session) -> list[str]:
    """The zones of the region that the account may use, in order of name."""
    answer = session.call(
        "ec2", "describe_availability_zones", Filters=[{"Name": "zone-type", "Values": ["availability-zone"]}]
    )
    return sorted(row["ZoneName"] for row in answer["AvailabilityZones"] if row["State"] == "available")


def spot_history(
    session: Session, instance_type: str, *, start: datetime, end: datetime, zones: Sequence[str] = ()
) -> dict[str, list[PricePoint]]:
    """Spot price changes by zone between two moments, the one in force at `start` included."""
    filters = [{"Name": "availability-zone", "Values": list(zones)}] if zones else []
    rows = session.pages(
        "ec2",
        "describe_spot_price_history",
        "SpotPriceHistory",
        InstanceTypes=[instance_type],
        ProductDescriptions=["Linux/UNIX"],
        StartTime=start,
        EndTime=end,
        Filters=filters,
    )
    points: dict[str, list[PricePoint]] = {}
    for row in rows:
        point = PricePoint(
            at=row["Timestamp"].astimezone(UTC),
            usd_per_hour=Decimal(row["SpotPrice"]),
            source="spot price history",
        )
        points.setdefault(row["AvailabilityZone"], []).append(point)
    return {zone: sorted(found, key=lambda point: point.at) for zone, found in points.items()}


def image_for(session: Session, *, architecture: str, gpus: int, chosen: str | None) -> Image:
    """The AMI for a machine: the chosen one, else Amazon Linux 2023, with NVIDIA's driver for GPUs.

    Raises ConfigError where the image, or AWS's public parameter, is not there.
    """
    if chosen:
        return _described(session, chosen, next="check aws.image")
    name = (GPU_IMAGE if gpus else PLAIN_IMAGE).format(architecture=architecture)
    try:
        answer = session.call("ssm", "get_parameter", Name=name)
    except NotFound as error:
        raise ConfigError(
            "AWS's public image parameter was not found",
            why=f"{name} does not exist in {session.region}",
            next="name an image: runctl config set aws.image ami-...",
        ) from error
    return _described(
        session, answer["Parameter"]["Value"], next="name an image: runctl config set aws.image ami-..."
    )


def _described(session: Session, image_id: str, *, next: str) -> Image:  # noqa: A002 (the error's word)
    # By id and not by filter: EC2 shows a deprecated image to who names it, and looks through no others.
    try:
        [image] = session.call("ec2", "describe_images", ImageIds=[image_id])["Images"]
    except (NotFound, ValueError) as error:
        raise ConfigError(f"There is no image {image_id} in {session.region}", next=next) from error
    device = image["RootDeviceName"]
    sizes = [
        mapping["Ebs"].get("VolumeSize", 0)
        for mapping in image.get("BlockDeviceMappings", [])
        if mapping["DeviceName"] == device and "Ebs" in mapping
    ]
    return Image(id=image_id, root_device=device, root_gib=max(sizes, default=0))
