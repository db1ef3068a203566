"""What commands on volumes and snapshots share: the user's request, the answer, the types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runctl.cli.options import Context, user_name

if TYPE_CHECKING:
    from runctl.resources.volumes import VolumeRequest

TYPES = click.Choice(["gp3", "gp2", "io1", "io2", "st1", "sc1"])

SLOW_ONCE = "its blocks come from S3 when they are first read: slow once; --initialization-rate 300"


def say(context: Context, resource_id: str, text: str, **data: Any) -> None:
    from runctl.render import output

    if context.json:
        output.write_json({"id": resource_id, **data})
    else:
        output.write_line(resource_id if context.quiet else text)


def own(context: Context) -> VolumeRequest:
    from runctl.resources.volumes import VolumeRequest

    settings = context.settings()
    return VolumeRequest(project=settings.values.project or "", user=user_name(settings))


def request(context: Context, options: dict[str, Any]) -> VolumeRequest:
    from runctl.resources.volumes import VolumeRequest

    settings = context.settings()
    return VolumeRequest(
        size_gib=options["size"],
        volume_type=options["volume_type"],
        iops=options["iops"],
        throughput_mibs=options["throughput"],
        encrypted=options.get("encrypted", True),
        persistent=options["persistent"],
        name=options["name"],
        zone=options["availability_zone"],
        purpose=options.get("purpose"),
        machine=options.get("machine"),
        snapshot=options.get("snapshot"),
        initialization_rate_mibs=options["initialization_rate"],
        project=options["project"] or settings.values.project or "",
        user=user_name(settings),
    )
