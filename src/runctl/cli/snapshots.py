"""`runctl aws ebs snapshot|snapshot-list|snapshot-delete|restore`."""

from __future__ import annotations

from typing import Any

import click

from runctl.cli import acting, disk_request
from runctl.cli.options import Context, common, on_cloud
from runctl.quoting import quoted


@click.command()
@click.argument("volume")
@click.option("--name", default="", help="What to call the snapshot.")
@click.option("--description", default="by runctl", help="What it is for.")
@acting.planned
@on_cloud
@common
def snapshot(
    context: Context, volume: str, on: str | None, name: str, description: str, dry_run: bool
) -> None:
    """Take a snapshot and wait until it is complete.

    \b
    Examples:
      runctl aws ebs snapshot vol-0123456789abcdef0
      runctl aws ebs snapshot vol-0123456789abcdef0 --name imagenet-v2
    """
    import msgspec

    from runctl.resources import noting, volumes

    with acting.operation(context, on) as operation:
        own = msgspec.structs.replace(disk_request.own(context), name=name)
        plan = volumes.plan_snapshot(operation, volume, own, description=description)
        if dry_run:
            acting.show_plan(context, plan)
            return
        made = operation.carry_out(plan)
        snapshot_id = made["snapshot"]["id"]
        noting.note(operation, snapshots=[snapshot_id])
    disk_request.say(context, snapshot_id, snapshot_id, snapshot=snapshot_id)


@click.command("snapshot-list")
@click.argument("source", required=False)
@click.option("--unmanaged", is_flag=True, help="Those that runctl did not make, too.")
@on_cloud
@common
def snapshot_list(context: Context, source: str | None, on: str | None, unmanaged: bool) -> None:
    """List snapshots, of one volume or all.

    \b
    Examples:
      runctl aws ebs snapshot-list
      runctl aws ebs snapshot-list vol-0123456789abcdef0
    """
    from runctl.render import output
    from runctl.resources import noting

    with acting.operation(context, on) as operation:
        found = noting.snapshots_of(operation, source, unmanaged=unmanaged)
    if context.json:
        output.write_json([{"snapshot": snapshot, "usd_per_month": rate} for snapshot, rate in found])
    elif context.quiet:
        for snapshot, _ in found:
            output.write_line(snapshot.id)
    elif not found:
        output.talk("there is no such snapshot: runctl aws ebs snapshot VOLUME")
    else:
        from runctl.render.volume import show_snapshots

        show_snapshots(found)


@click.command("snapshot-delete")
@click.argument("snapshot")
@acting.destructive
@on_cloud
@common
def snapshot_delete(context: Context, snapshot: str, on: str | None, **options: Any) -> None:
    """Delete a snapshot; one that an image uses is refused.

    \b
    Examples:
      runctl aws ebs snapshot-delete snap-0123456789abcdef0 --dry-run --explain
      runctl aws ebs snapshot-delete snap-0123456789abcdef0 --yes
    """
    from runctl.resources import noting
    from runctl.safety.protection import Action, ResourceKind

    request = acting.asked(context, force=options["force"], unmanaged=options["unmanaged"])
    with acting.operation(context, on) as operation:
        verdict = operation.door.assess(Action.DELETE, ResourceKind.SNAPSHOT, snapshot, request)
        if not acting.refuse_or_show(
            context, [verdict], explain=options["explain"], dry_run=options["dry_run"]
        ):
            return
        acting.confirm(f"Delete {snapshot}?", yes=options["yes"])
        operation.door.delete_snapshot(snapshot, request)
        noting.note(operation, snapshots=[snapshot])
    disk_request.say(context, snapshot, f"{snapshot} is deleted")


@click.command()
@click.argument("source")
@click.option("--availability-zone", help="Where the new volume shall be.")
@click.option("--attach", metavar="INSTANCE", help="Attach it there, in that instance's zone.")
@click.option("--mount", metavar="PATH", help="And mount it.")
@click.option("--size", type=click.IntRange(1), help="GiB; more than the source has.")
@click.option("--volume-type", type=disk_request.TYPES)
@click.option("--iops", type=click.IntRange(1))
@click.option("--throughput", type=click.IntRange(1), help="MiB/s; gp3 alone.")
@click.option("--persistent", is_flag=True)
@click.option("--name", default="")
@click.option("--initialization-rate", type=click.IntRange(100, 300), help="MiB/s at which it is filled.")
@click.option("--project")
@acting.planned
@on_cloud
@common
def restore(
    context: Context, source: str, *, on: str | None, attach: str | None, mount: str | None, **options: Any
) -> None:
    """Make a volume from a snapshot, or from a volume of another zone through one.

    \b
    Examples:
      runctl aws ebs restore snap-0123456789abcdef0 --availability-zone us-east-1b
      runctl aws ebs restore vol-0123456789abcdef0 --attach i-0123456789abcdef0 --mount /data
    """
    from runctl.errors import ValidationError
    from runctl.render import output
    from runctl.resources import noting, volumes

    if mount and not attach:
        raise ValidationError("--mount needs --attach", next="add --attach INSTANCE")
    with acting.operation(context, on) as operation:
        request = disk_request.request(context, options)
        plan = volumes.plan_restore(operation, source, request, attach=attach, mount=mount)
        if options["dry_run"]:
            acting.show_plan(context, plan)
            return
        made = operation.carry_out(plan)
        volume_id = made["volume"]["id"]
        taken = (made.get("snapshot") or {}).get("id")
        noting.note(operation, volumes=[volume_id], snapshots=[taken] if taken else [])
    disk_request.say(
        context, volume_id, volume_id, volume=volume_id, zone=made["volume"]["zone"], snapshot=taken
    )
    if not context.json and not context.quiet:
        if taken:
            output.talk(
                f"it came through {taken}, which is kept: runctl aws ebs snapshot-delete {quoted(taken)}"
            )
        if not options["initialization_rate"]:
            output.talk(disk_request.SLOW_ONCE)
