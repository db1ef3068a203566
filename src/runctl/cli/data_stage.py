"""`runctl data stage`: a dataset on a volume, by the cheapest way there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runctl.cli import acting, pre_warm
from runctl.cli.options import Context, common, on_cloud, user_name
from runctl.errors import ValidationError

if TYPE_CHECKING:
    from runctl.providers.aws.snapshots import Snapshot
    from runctl.resources.operation import Operation
    from runctl.resources.prefixes import Dataset
    from runctl.resources.volumes import VolumeRequest


@click.command()
@click.argument("s3_uri")
@click.option("--volume", metavar="VOLUME", help="Fill this one.")
@click.option("--size", type=click.IntRange(1), help="GiB of a new volume.  [default: what it needs]")
@click.option("--zone", help="Of a new volume.  [default: the region's first]")
@click.option("--name", default="", help="What to call a new volume.")
@click.option("--persistent", is_flag=True, help="A new volume is kept whatever happens around it.")
@click.option("--machine", metavar="TYPE", help="As fast as this instance type can read, of gp3.")
@click.option(
    "--initialization-rate", type=click.IntRange(100, 300), help="MiB/s, where it comes from a snapshot."
)
@click.option("--project", help="The project that pays.")
@pre_warm.filling
@on_cloud
@common
def stage(context: Context, *, on: str | None, s3_uri: str, volume: str | None, **options: Any) -> int:
    """Have a dataset on a volume of a zone: one that holds it, else from a snapshot, else from S3.

    \b
    Examples:
      runctl data stage s3://bucket/imagenet --zone us-east-1b --snapshot
      runctl data stage s3://bucket/imagenet --volume vol-0123456789abcdef0
    """
    from runctl.resources import prefixes, staging_places, warming

    prefixes.place_of(s3_uri)
    if volume and (options["size"] or options["zone"] or options["name"] or options["persistent"]):
        raise ValidationError(
            "--volume is there already", next="without --size, --zone, --name, --persistent"
        )
    with acting.operation(context, on) as operation:
        dataset = prefixes.dataset_of(operation.session, s3_uri)
        if volume:
            target = warming.existing_target(operation, volume)
            return pre_warm.fill(context, operation, dataset, target, options, warming)
        request = _volume_request(context, operation, dataset, options)
        there = (
            None if options["check"] else staging_places.volume_with(operation, dataset, request.zone or "")
        )
        if there is not None:
            operation.require_whole(there.id)
        if there is not None and not options["snapshot"]:
            return pre_warm.tell(context, pre_warm.warm(dataset, there.tags), there.id, there.zone, None)
        if there is not None:
            target = warming.target_of(there)
            return pre_warm.fill(context, operation, dataset, target, options, warming)
        snapshot = staging_places.snapshot_with(operation, dataset)
        if snapshot is not None and not options["check"]:
            rate, dry_run = options["initialization_rate"], options["dry_run"]
            return _restore(context, operation, dataset, snapshot, request, rate=rate, dry_run=dry_run)
        target = warming.new_target(operation, request)
        return pre_warm.fill(context, operation, dataset, target, options, warming)


def _restore(
    context: Context,
    operation: Operation,
    dataset: Dataset,
    source: Snapshot,
    request: VolumeRequest,
    *,
    rate: int | None,
    dry_run: bool,
) -> int:
    import msgspec

    from runctl.render import output
    from runctl.resources import noting, staging_places

    snapshot = source.id
    request = msgspec.structs.replace(request, initialization_rate_mibs=rate)
    plan = staging_places.plan_restore(operation, dataset, snapshot, request)
    if dry_run:
        if context.json:
            output.write_json({"dataset": dataset, "snapshot": snapshot, "steps": plan.steps})
        else:
            output.write_line(f"a volume in {request.zone} from {snapshot}, which holds this very version")
        return 0
    made = operation.carry_out(plan)
    noting.note(operation, volumes=[made["volume"]["id"]])
    zone = request.zone or ""
    if not context.json and not context.quiet and rate is None:
        output.talk("its blocks come from S3 when they are first read: slow once; --initialization-rate 300")
    return pre_warm.tell(context, pre_warm.warm(dataset, source.tags), made["volume"]["id"], zone, snapshot)


def _volume_request(
    context: Context, operation: Operation, dataset: Dataset, options: dict[str, Any]
) -> VolumeRequest:
    from runctl.resources import volumes, warming

    settings = context.settings()
    return volumes.VolumeRequest(
        size_gib=options["size"] or warming.size_for(dataset),
        zone=options["zone"] or volumes.first_zone(operation),
        name=options["name"],
        persistent=options["persistent"],
        purpose="data",
        machine=options["machine"],
        project=options["project"] or settings.values.project or "",
        user=user_name(settings),
    )
