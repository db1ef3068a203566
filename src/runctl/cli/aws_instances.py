"""`runctl aws start|stop|terminate|status|wait`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from runctl.cli import acting
from runctl.cli.options import Context, common, on_cloud

if TYPE_CHECKING:
    from runctl.resources.instances import Ending, Start

STATES = ("running", "stopped", "terminated", "online")

_INSTANCES = click.argument("instances", nargs=-1, required=True)


@click.command()
@_INSTANCES
@click.option("--lease", type=click.FloatRange(0), help="Hours to live; 0 is for ever.  [default: 24]")
@click.option("--wait", is_flag=True, help="Until its shell answers.")
@click.option("--dry-run", is_flag=True, help="Show what would be done and stop.")
@on_cloud
@common
def start(
    context: Context,
    instances: tuple[str, ...],
    on: str | None,
    lease: float | None,
    wait: bool,
    dry_run: bool,
) -> None:
    """Start stopped instances, each with a new lease; of one that runs, the lease is renewed.

    What runctl did not make gets a lease only where --lease says so; a job's machine is its agent's.

    \b
    Examples:
      runctl aws start i-0123456789abcdef0 --wait
      runctl aws start i-0123456789abcdef0 --lease 8
    """
    from runctl.render import output
    from runctl.resources import instances as life
    from runctl.resources import noting

    with acting.operation(context, on) as operation:
        limits = acting.limits(context)
        plans = [
            life.plan_start(operation, instance_id, limits=limits, lease_hours=lease)
            for instance_id in instances
        ]
        if dry_run:
            _show_starts(context, plans)
            return
        for instance_id, plan in zip(instances, plans, strict=True):
            found = life.start(operation, plan)
            if wait:
                found = life.wait(operation, instance_id, "online")
            noting.note(operation, instances=[instance_id])
            if context.json:
                output.write_json({"instance": found})
            else:
                output.write_line(instance_id if context.quiet else f"{instance_id} is {found.state}")


def _show_starts(context: Context, plans: list[Start]) -> None:
    from runctl.render import output

    if context.json:
        starts = [
            {"instance": plan.instance.id, "state": plan.instance.state, "lease_hours": plan.lease_hours}
            for plan in plans
        ]
        output.write_json({"plan": starts})
        return
    for plan in plans:
        verb = "renew the lease of" if plan.instance.state == "running" else "start"
        lease = "as it is" if plan.lease_hours is None else f"{plan.lease_hours:g} hours"
        output.write_line(f"{verb} {plan.instance.id}, lease: {lease}")


@click.command()
@_INSTANCES
@acting.destructive
@click.option("--now", is_flag=True, help="Without letting training save first; needs --force.")
@on_cloud
@common
def stop(context: Context, instances: tuple[str, ...], on: str | None, **options: Any) -> None:
    """Stop instances: training saves first, compute stops costing, disks stay and go on costing.

    \b
    Examples:
      runctl aws stop i-0123456789abcdef0
      runctl aws stop i-0123456789abcdef0 --explain --dry-run
    """
    from runctl.resources import instances as life
    from runctl.resources import noting
    from runctl.safety.protection import Action, ResourceKind

    request = _request(context, options)
    with acting.operation(context, on) as operation:
        verdicts = [
            operation.door.assess(Action.STOP, ResourceKind.INSTANCE, instance_id, request)
            for instance_id in instances
        ]
        if not acting.refuse_or_show(
            context, verdicts, explain=options["explain"], dry_run=options["dry_run"]
        ):
            return
        for instance_id in instances:
            operation.door.stop_instance(instance_id, request)
            life.wait(operation, instance_id, "stopped")
            noting.note(operation, instances=[instance_id])
            _say(context, instance_id, "stopped")


@click.command()
@_INSTANCES
@acting.destructive
@click.option("--now", is_flag=True, help="Without letting training save first; needs --force.")
@on_cloud
@common
def terminate(context: Context, instances: tuple[str, ...], on: str | None, **options: Any) -> None:
    """End instances for good; persistent volumes are detached and kept.

    What becomes of each volume is shown before anything happens.

    \b
    Examples:
      runctl aws terminate i-0123456789abcdef0
      runctl aws terminate i-0123456789abcdef0 --dry-run --explain
    """
    from runctl.resources import instances as life
    from runctl.resources import noting
    from runctl.safety.protection import Action, ResourceKind

    request = _request(context, options)
    with acting.operation(context, on) as operation:
        plans = [life.plan_terminate(operation, instance_id, request) for instance_id in instances]
        verdicts = [
            operation.door.assess(Action.TERMINATE, ResourceKind.INSTANCE, instance_id, request)
            for instance_id in instances
        ]
        fates = {instance_id: life.fates(operation, instance_id) for instance_id in instances}
        _show_volumes(context, [ending for endings in fates.values() for ending in endings])
        if not acting.refuse_or_show(
            context,
            verdicts,
            explain=options["explain"],
            dry_run=options["dry_run"],
            more={"volumes": fates},
        ):
            return
        acting.confirm(f"Terminate {', '.join(instances)}?", yes=options["yes"])
        for instance_id, plan in zip(instances, plans, strict=True):
            kept = [step.requests[0]["volume"] for step in plan.steps if "volume" in step.requests[0]]
            operation.carry_out(plan)
            # Gone is what the cloud says is gone, not what it was asked for.
            life.wait(operation, instance_id, "terminated")
            noting.note(operation, instances=[instance_id], volumes=sorted(set(kept)))
            _say(context, instance_id, "terminated", volumes=fates[instance_id])


@click.command()
@click.argument("instance")
@on_cloud
@common
def status(context: Context, instance: str, on: str | None) -> None:
    """Show an instance: state, market, disks, training, cost.

    \b
    Examples:
      runctl aws status i-0123456789abcdef0
      runctl aws status i-0123456789abcdef0 --output json
    """
    from runctl.render import output
    from runctl.resources import noting

    with acting.operation(context, on) as operation:
        found = noting.status(operation, instance)
    if context.json:
        output.write_json(found)
        return
    from runctl.render.instance import show_status

    show_status(found)


@click.command()
@click.argument("instance")
@click.option("--state", type=click.Choice(STATES), default="running", show_default=True)
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds.")
@on_cloud
@common
def wait(context: Context, instance: str, on: str | None, state: str, timeout: float) -> None:
    """Wait until an instance is in a state; `online` means that its shell answers.

    \b
    Examples:
      runctl aws wait i-0123456789abcdef0 --state online
      runctl aws wait i-0123456789abcdef0 --state stopped --timeout 120
    """
    from runctl.resources import instances as life
    from runctl.resources import noting

    with acting.operation(context, on) as operation:
        life.wait(operation, instance, state, timeout=timedelta(seconds=timeout))
        noting.note(operation, instances=[instance])
    _say(context, instance, state)


def _request(context: Context, options: dict[str, Any]) -> Any:
    return acting.asked(
        context, force=options["force"], unmanaged=options["unmanaged"], graceful=not options["now"]
    )


def _show_volumes(context: Context, endings: list[Ending]) -> None:
    """What becomes of each volume, in one line each; with JSON it is a part of the answer."""
    from runctl.render import output

    if context.json or context.quiet:
        return
    words = {
        "detached and kept": "is detached and kept",
        "kept": "is kept, and goes on costing",
        "deleted": "is deleted with the instance",
    }
    for ending in endings:
        name = f" {ending.name!r}" if ending.name else ""
        size = f"{ending.size_gib} GiB, " if ending.size_gib else ""
        output.talk(f"{ending.volume}{name} ({size}{ending.device}) {words[ending.fate]}: {ending.reason}")


def _say(context: Context, instance_id: str, state: str, **more: Any) -> None:
    from runctl.render import output

    if context.json:
        output.write_json({"instance": instance_id, "state": state, **more})
    else:
        output.write_line(instance_id if context.quiet else f"{instance_id} is {state}")
