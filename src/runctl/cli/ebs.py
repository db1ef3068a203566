"""`runctl aws ebs`: volumes and snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runctl.cli import acting, disk_request, snapshots
from runctl.cli import pre_warm as filled
from runctl.cli.options import Context, common, on_cloud

if TYPE_CHECKING:
    from runctl.resources.operation import Operation
    from runctl.resources.prefixes import Dataset
    from runctl.resources.volumes import Modification
    from runctl.resources.warming import Target


@click.group()
def ebs() -> None:
    """Volumes and snapshots: created, attached, kept safe.

    \b
    Examples:
      runctl aws ebs create --size 500 --persistent --name imagenet --for data
      runctl aws ebs list
    """


for command in (
    filled.pre_warm,
    snapshots.snapshot,
    snapshots.snapshot_list,
    snapshots.snapshot_delete,
    snapshots.restore,
):
    ebs.add_command(command)


@ebs.command()
@click.option("--size", type=click.IntRange(1), help="GiB.")
@click.option("--volume-type", type=disk_request.TYPES, help="[default: gp3]")
@click.option("--iops", type=click.IntRange(1), help="Provisioned I/O operations per second.")
@click.option("--throughput", type=click.IntRange(1), help="MiB/s; gp3 alone.")
@click.option("--encrypted/--not-encrypted", default=True, show_default=True)
@click.option("--persistent", is_flag=True, help="Kept whatever happens around it.")
@click.option("--name", default="", help="A name of its own.")
@click.option("--availability-zone", help="[default: the region's first]")
@click.option(
    "--for", "purpose", type=click.Choice(["data", "checkpoints", "archive"]), help="Fitting type and speed."
)
@click.option("--snapshot", help="With the content of this snapshot.")
@click.option("--initialization-rate", type=click.IntRange(100, 300), help="MiB/s, from a snapshot.")
@click.option("--pre-warm", metavar="S3_URI", help="Fill it from S3; one that cannot be filled is not kept.")
@click.option("--machine", metavar="TYPE", help="As fast as this instance type can read, of gp3.")
@click.option("--project", help="The project that pays.")
@acting.planned
@on_cloud
@common
def create(context: Context, *, on: str | None, pre_warm: str | None, **options: Any) -> int | None:
    """Create a volume; limits and ratios of its type are checked before the call.

    \b
    Examples:
      runctl aws ebs create --size 500 --persistent --name imagenet --for data
      runctl aws ebs create --size 200 --volume-type io2 --iops 10000 --availability-zone us-east-1b
    """
    from runctl.errors import ValidationError
    from runctl.render import output
    from runctl.resources import noting, volumes

    if pre_warm:
        return _create_filled(context, on, pre_warm, options)
    if options["size"] is None and options["snapshot"] is None:
        raise ValidationError("A volume needs a size", next="--size GIB, or --snapshot ID")
    with acting.operation(context, on) as operation:
        plan = volumes.plan_create(operation, disk_request.request(context, options))
        if options["dry_run"]:
            acting.show_plan(context, plan)
            return None
        made = operation.carry_out(plan)
        volume_id = made["volume"]["id"]
        (found,) = noting.note(operation, volumes=[volume_id]).volumes
        rate = noting.per_month(operation, found)
    if context.json:
        output.write_json({"volume": found, "usd_per_month": rate})
        return None
    output.write_line(volume_id)
    if not context.quiet:
        from runctl.render import figures

        if options["snapshot"] and not options["initialization_rate"]:
            output.talk(disk_request.SLOW_ONCE)

        lock = ", persistent" if options["persistent"] else ""
        output.talk(
            f"{found.size_gib} GiB {found.volume_type} in {found.zone}{lock}, {figures.usd(rate)} a month"
        )
    return None


def _create_filled(context: Context, on: str | None, s3_uri: str, options: dict[str, Any]) -> int:
    """Create and fill in one operation."""
    from runctl.errors import ValidationError

    if options["snapshot"]:
        raise ValidationError("--pre-warm and --snapshot both say what is on it", next="leave one out")

    def target(operation: Operation, dataset: Dataset) -> Target:
        from runctl.resources import warming

        size = options["size"] or warming.size_for(dataset)
        return warming.new_target(operation, disk_request.request(context, {**options, "size": size}))

    plain = {"delete": False, "check": False, "no_spot": False, "no_fallback": False}
    plain["dry_run"] = options["dry_run"]
    asked = {**plain, "snapshot": False, "instance_type": None, "project": options["project"]}
    return filled.run(context, on, s3_uri, asked, target)


@ebs.command("list")
@click.option("--name", help="Volumes of this name.")
@click.option("--state", help="available, in-use, ...")
@click.option("--persistent", is_flag=True, help="Persistent ones alone.")
@click.option("--unattached", is_flag=True, help="Those that are attached to nothing.")
@click.option("--unmanaged", is_flag=True, help="Those that runctl did not make, too.")
@click.option("--project", help="Of this project.")
@on_cloud
@common
def list_(context: Context, *, on: str | None, **filters: Any) -> None:
    """List volumes: a lock for persistent ones, attachment, age, cost per month.

    \b
    Examples:
      runctl aws ebs list
      runctl aws ebs list --unattached --output json
    """
    from runctl.render import output
    from runctl.resources import noting

    with acting.operation(context, on) as operation:
        found = noting.volumes_by(operation, **filters)
    if context.json:
        output.write_json([{"volume": volume, "usd_per_month": rate} for volume, rate in found])
    elif context.quiet:
        for volume, _ in found:
            output.write_line(volume.id)
    elif not found:
        output.talk("there is no such volume: runctl aws ebs create --size 100")
    else:
        from runctl.render.volume import show_volumes

        show_volumes(found, operation.session.cloud.clock.now())


@ebs.command()
@click.argument("volume")
@click.argument("instance")
@click.option("--mount", metavar="PATH", help="Mount it there; a blank volume gets a file system, once.")
@acting.planned
@on_cloud
@common
def attach(
    context: Context, volume: str, instance: str, on: str | None, mount: str | None, dry_run: bool
) -> None:
    """Attach a volume to an instance of its zone, and mount it where asked.

    \b
    Examples:
      runctl aws ebs attach vol-0123456789abcdef0 i-0123456789abcdef0
      runctl aws ebs attach vol-0123456789abcdef0 i-0123456789abcdef0 --mount /data
    """
    from runctl.resources import noting, tuning, volumes

    with acting.operation(context, on) as operation:
        plan = volumes.plan_attach(operation, volume, instance, mount=mount)
        if dry_run:
            acting.show_plan(context, plan)
            return
        made = operation.carry_out(plan)
        noting.note(operation, volumes=[volume])
        hint = tuning.hint(operation, volume, instance)
    at = f"mounted at {mount}" if mount else f"attached as {made['attachment']['device']}"
    device = made["attachment"]["device"]
    disk_request.say(
        context, volume, f"{volume} is {at} on {instance}", instance=instance, device=device, mount=mount
    )
    if hint and not context.json and not context.quiet:
        from runctl.render import output

        output.talk(hint)


@ebs.command()
@click.argument("volume")
@acting.planned
@on_cloud
@common
def detach(context: Context, volume: str, on: str | None, dry_run: bool) -> None:
    """Unmount and detach a volume, and wait until it is free.

    \b
    Examples:
      runctl aws ebs detach vol-0123456789abcdef0
      runctl aws ebs detach vol-0123456789abcdef0 --output json
    """
    from runctl.resources import noting, volumes

    with acting.operation(context, on) as operation:
        plan = volumes.plan_detach(operation, volume)
        if dry_run:
            acting.show_plan(context, plan)
            return
        operation.carry_out(plan)
        noting.note(operation, volumes=[volume])
    disk_request.say(context, volume, f"{volume} is detached")


@ebs.command()
@click.argument("volume")
@acting.destructive
@click.option("--snapshot", "snapshot_first", is_flag=True, help="Keep its content as a snapshot.")
@on_cloud
@common
def delete(context: Context, volume: str, on: str | None, snapshot_first: bool, **options: Any) -> None:
    """Delete a volume; a persistent one needs --force, an attached one is refused.

    \b
    Examples:
      runctl aws ebs delete vol-0123456789abcdef0
      runctl aws ebs delete vol-0123456789abcdef0 --snapshot --yes
      runctl aws ebs delete vol-0123456789abcdef0 --dry-run --explain
    """
    from runctl.resources import noting, volumes
    from runctl.safety.protection import Action, ResourceKind

    request = acting.asked(context, force=options["force"], unmanaged=options["unmanaged"])
    with acting.operation(context, on) as operation:
        own = disk_request.own(context)
        plan = volumes.plan_delete(operation, volume, request, snapshot_first=snapshot_first, own=own)
        verdict = operation.door.assess(Action.DELETE, ResourceKind.VOLUME, volume, request)
        if not acting.refuse_or_show(
            context, [verdict], explain=options["explain"], dry_run=options["dry_run"]
        ):
            return
        for finding in verdict.warnings:
            from runctl.render import output

            output.talk(f"[warning] {finding.reason}", style="yellow")
        acting.confirm(f"Delete {volume}?", yes=options["yes"])
        made = operation.carry_out(plan)
        snapshot = (made.get("snapshot") or {}).get("id")
        noting.note(operation, volumes=[volume], snapshots=[snapshot] if snapshot else [])
    kept = f"; its content is {snapshot}" if snapshot else ""
    disk_request.say(context, volume, f"{volume} is deleted{kept}", snapshot=snapshot)


@ebs.command()
@click.argument("volume")
@click.option("--size", type=click.IntRange(1), help="GiB; volumes only grow.")
@click.option("--volume-type", type=disk_request.TYPES)
@click.option("--iops", type=click.IntRange(1))
@click.option("--throughput", type=click.IntRange(1), help="MiB/s; gp3 alone.")
@click.option("--dry-run", is_flag=True, help="Check it, show what would change and touch nothing.")
@on_cloud
@common
def modify(context: Context, volume: str, on: str | None, dry_run: bool, **changes: Any) -> None:
    """Change a volume's size, type or speed while it is in use.

    \b
    Examples:
      runctl aws ebs modify vol-0123456789abcdef0 --size 500
      runctl aws ebs modify vol-0123456789abcdef0 --volume-type gp3 --iops 6000
    """
    from runctl.resources import noting, volumes

    with acting.operation(context, on) as operation:
        plan = volumes.plan_modify(
            operation,
            volume,
            size_gib=changes["size"],
            volume_type=changes["volume_type"],
            iops=changes["iops"],
            throughput_mibs=changes["throughput"],
        )
        if dry_run:
            _show_changes(context, plan)
            return
        found = volumes.modify(operation, plan)
        noting.note(operation, volumes=[volume])
    speed = f", {found.iops} IOPS" if found.iops else ""
    disk_request.say(
        context, volume, f"{volume} is {found.size_gib} GiB {found.volume_type}{speed}", now=found
    )


def _show_changes(context: Context, plan: Modification) -> None:
    from runctl.render import output

    if context.json:
        output.write_json({"plan": plan})
        return
    for name, value in plan.changes.items():
        output.write_line(f"{plan.volume.id} {name}: {getattr(plan.volume, name)} -> {value}")
