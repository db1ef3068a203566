"""`runctl aws ebs pre-warm`, and what `ebs create --pre-warm` and `data stage` share with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runctl.cli import acting
from runctl.cli.options import Context, common, on_cloud, user_name

if TYPE_CHECKING:
    from runctl.resources.operation import Operation
    from runctl.resources.prefixes import Dataset
    from runctl.resources.warming import Target, Warming, WarmRequest

F = TypeVar("F", bound=Callable[..., Any])
MOST_SHOWN = 200
LEFT_OUT = 1
"""The exit code where something could not be staged."""


def filling(function: F) -> F:
    """The options of every command that fills a volume; they come as `WarmRequest` has them."""
    for option in reversed(
        (
            click.option("--snapshot", is_flag=True, help="Then take a snapshot: it serves other zones."),
            click.option("--delete", is_flag=True, help="Remove what was staged and is gone from S3."),
            click.option("--check", is_flag=True, help="Read every file again, though nothing changed."),
            click.option("--instance-type", help="Of the temporary machine.  [default: what fits the work]"),
            click.option("--no-spot", is_flag=True, help="A temporary machine that is not taken away."),
            click.option("--no-fallback", is_flag=True, help="Never fall back from spot to on-demand."),
            click.option("--dry-run", is_flag=True, help="Show machine, price and time, and stop."),
        )
    ):
        function = option(function)
    return function


@click.command("pre-warm")
@click.argument("volume")
@click.argument("s3_uri")
@click.option("--instance", metavar="INSTANCE", help="Use this machine; otherwise a temporary one.")
@filling
@on_cloud
@common
def pre_warm(context: Context, *, on: str | None, volume: str, s3_uri: str, **options: Any) -> int:
    """Fill a volume from S3, verified; filled before, it gets what changed.

    A blank volume gets a file system. The machine that does it is removed in the end, whatever happens;
    what others put on the volume is never touched.

    \b
    Examples:
      runctl aws ebs pre-warm vol-0123456789abcdef0 s3://bucket/imagenet
      runctl aws ebs pre-warm vol-0123456789abcdef0 s3://bucket/imagenet --snapshot --dry-run
    """
    from runctl.resources import warming

    return run(
        context,
        on,
        s3_uri,
        options,
        lambda operation, _: warming.existing_target(operation, volume),
    )


def run(
    context: Context,
    on: str | None,
    s3_uri: str,
    options: dict[str, Any],
    target_of: Callable[[Operation, Dataset], Target],
) -> int:
    """List the dataset, plan, fill, tell; answers the exit code."""
    from runctl.resources import prefixes, warming

    prefixes.place_of(s3_uri)
    with acting.operation(context, on) as operation:
        dataset = prefixes.dataset_of(operation.session, s3_uri)
        return fill(context, operation, dataset, target_of(operation, dataset), options, warming)


def fill(
    context: Context,
    operation: Operation,
    dataset: Dataset,
    target: Target,
    options: dict[str, Any],
    warming: Any,
) -> int:
    """Fill a target, unless it is known to hold the dataset already; answers the exit code."""
    from runctl.resources import noting

    request = _request(context, options)
    holds = warming.holds(target.tags, dataset) and not (request.check or request.delete)
    if holds:
        operation.require_whole(target.id)
    if holds and not request.snapshot:
        return tell(context, warm(dataset, target.tags), target.id, target.zone, None)
    if holds:
        return _only_snapshot(context, operation, dataset, target, request, dry_run=options["dry_run"])
    found = warming.plan(operation, dataset, target, request, acting.limits(context))
    if options["dry_run"]:
        show_plan(context, dataset, found)
        return 0
    _announce(operation, dataset, found)
    made = operation.carry_out(found.plan)
    volume_id = made["mark"]["id"]
    snapshot = (made.get("snapshot") or {}).get("id")
    machines = [result["id"] for name, result in made.items() if name.startswith("machine-") and result]
    noting.note(operation, instances=machines, volumes=[volume_id], snapshots=[snapshot] if snapshot else [])
    return tell(context, warming.staged(made), volume_id, target.zone, snapshot)


def _announce(operation: Operation, dataset: Dataset, found: Warming) -> None:
    from runctl.events import Notice
    from runctl.render import figures

    parts = [f"{figures.count(dataset.files, 'file')}, {figures.size(dataset.bytes)}"]
    if found.offers:
        parts.append(f"a temporary {found.offers[0].instance_type} {found.offers[0].market}")
        parts.append(f"about {figures.duration(found.estimate.duration)}")
        parts.append(f"{figures.usd(found.estimate.usd)}")
    if dataset.region != operation.session.region:
        text = f"{dataset.bucket} is in {dataset.region}: traffic between regions is charged"
        operation.emit(Notice(text=text, warning=True))
    operation.emit(Notice(text=f"filling from {dataset.location}: {', '.join(parts)}"))


def _only_snapshot(
    context: Context,
    operation: Operation,
    dataset: Dataset,
    target: Target,
    request: WarmRequest,
    *,
    dry_run: bool,
) -> int:
    """The volume is warm: what is missing at most is its snapshot, which needs no machine."""
    from runctl.render import output
    from runctl.resources import noting, staging_places, warming

    known = staging_places.snapshot_with(operation, dataset)
    snapshot = known.id if known else ""
    if not snapshot and dry_run:
        output.write_line(f"a snapshot of {target.id}, which holds {dataset.location} already")
        return 0
    if not snapshot:
        made = operation.carry_out(warming.plan_snapshot(operation, dataset, target, request))
        snapshot = str(made["snapshot"]["id"])
        noting.note(operation, snapshots=[snapshot])
    return tell(context, warm(dataset, target.tags), target.id, target.zone, snapshot)


def _request(context: Context, options: dict[str, Any]) -> WarmRequest:
    from runctl.resources.warming import WarmRequest

    settings = context.settings()
    aws = settings.values.aws
    return WarmRequest(
        instance=options.get("instance"),
        snapshot=options["snapshot"],
        delete=options["delete"],
        check=options["check"],
        spot=not options["no_spot"],
        fallback=not options["no_fallback"],
        instance_type=options["instance_type"],
        profile=aws.instance_profile,
        image=aws.image,
        subnets=aws.subnets,
        security_group=aws.security_group,
        root_volume_gib=aws.root_volume_gib,
        lease_minutes=aws.lease_minutes,
        bucket=aws.bucket,
        project=options.get("project") or settings.values.project or "",
        user=user_name(settings),
    )


def warm(dataset: Dataset, tags: Mapping[str, str]) -> dict[str, Any]:
    """What a staging tells that had nothing to do, because the volume holds the dataset already."""
    from runctl.model import TAG_DATASET_EXTRA

    none = ("copied_files", "copied_bytes", "proved_files", "deleted_files", "seconds")
    return {
        "location": dataset.location,
        "version": dataset.version,
        "files": dataset.files,
        "bytes": dataset.bytes,
        "equal_files": dataset.files - len(dataset.refused),
        "left_out": dataset.refused[:MOST_SHOWN],
        "left_out_files": len(dataset.refused),
        "extra_files": int(tags.get(TAG_DATASET_EXTRA, "0")),
        "engine": "",
        "usd": "0",
        **dict.fromkeys(none, 0),
    }


def tell(context: Context, staged: dict[str, Any], volume_id: str, zone: str, snapshot: str | None) -> int:
    """What a staging did; answers the exit code."""
    from runctl.render import output
    from runctl.render.staging import show_staged

    if context.json:
        names = ("location", "version", "files", "bytes", "copied_files", "copied_bytes", "equal_files")
        more = ("proved_files", "deleted_files", "extra_files", "left_out", "left_out_files", "engine")
        figures_of = {name: staged[name] for name in (*names, *more, "seconds", "usd")}
        output.write_json({"volume": volume_id, "zone": zone, "snapshot": snapshot, **figures_of})
    else:
        output.write_line(volume_id)
        if not context.quiet:
            show_staged(staged, snapshot)
    return LEFT_OUT if staged["left_out_files"] else 0


def show_plan(context: Context, dataset: Dataset, found: Warming) -> None:
    """What would be done, where, for how long and how much."""
    from runctl.render import output
    from runctl.render.staging import show_warming

    if not context.json:
        show_warming(dataset, found)
        return
    output.write_json(
        {
            "dataset": dataset,
            "offers": found.offers,
            "seconds": round(found.estimate.seconds),
            "mibs": round(found.estimate.mibs, 1),
            "usd": found.estimate.usd,
            "steps": [step.name for step in found.plan.steps],
        }
    )
