"""`runctl aws create`."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from runctl.cli import acting, running
from runctl.cli.options import Context, common, on_cloud, user_name
from runctl.config import Settings

if TYPE_CHECKING:
    from runctl.resources.instances import InstanceRequest


@click.command()
@click.argument("instance_type", required=False)
@click.option("--gpus", type=click.IntRange(1), help="The cheapest machine with so many GPUs.")
@click.option("--gpu-memory", type=float, default=0.0, help="GiB that each GPU must have.")
@click.option("--spot", is_flag=True, help="Buy interruptible capacity.")
@click.option("--spot-max-price", help="USD an hour at most; without it, the on-demand price.")
@click.option("--no-fallback", is_flag=True, help="Never fall back from spot to on-demand.")
@click.option("--availability-zone", multiple=True, help="Only there.")
@click.option("--name", default="", help="What to call it.")
@click.option("--image", help="An AMI; otherwise Amazon Linux 2023, with NVIDIA's driver for GPUs.")
@click.option("--key", help="A key pair for SSH; SSM needs none.")
@click.option("--security-group", help="A security group; the default one lets nobody in.")
@click.option("--subnet", multiple=True, help="A subnet of your own; several are of several zones.")
@click.option("--iam-instance-profile", help="The machine's role.")
@click.option("--root-volume-size", type=click.IntRange(8), help="GiB.")
@click.option("--data-volume-size", type=click.IntRange(1), help="GiB of a data volume beside it.")
@click.option("--persistent", is_flag=True, help="The data volume is kept when the instance ends.")
@click.option("--mount", help="Where on the machine to mount the data volume.")
@click.option("--project", help="The project that pays.")
@click.option("--lease", type=float, default=24.0, show_default=True, help="Hours to live; 0 is for ever.")
@click.option("--wait", is_flag=True, help="Until its shell answers.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@on_cloud
@common
def create(context: Context, *, on: str | None, dry_run: bool, wait: bool, **options: Any) -> None:
    """Start a new instance: closed, encrypted, IMDSv2 only, with its end armed before anything else.

    Where there is no capacity, the next zone, type or market is tried, and the reason is shown.

    \b
    Examples:
      runctl aws create g5.xlarge --spot --data-volume-size 200 --persistent --mount /data
      runctl aws create --gpus 1 --gpu-memory 24 --spot --wait
      runctl aws create m7i.large --lease 4 --dry-run
    """
    from runctl.render import output
    from runctl.resources import instances, noting

    settings = context.settings()
    request = _request(settings, options)
    instances.check(request)
    with acting.operation(context, on) as operation:
        plan = instances.plan_create(operation, request, acting.limits(context))
        if dry_run:
            acting.show_plan(context, plan)
            return
        made = operation.carry_out(plan)
        instance_id = made["instance"]["id"]
        if wait:
            instances.wait(operation, instance_id, "online")
        noting.note(operation, instances=[instance_id], volumes=_ids(made.get("volume")))
        found = noting.instance(operation, instance_id)
    if context.json:
        output.write_json({"instance": found, "volume": (made.get("volume") or {}).get("id")})
        return
    output.write_line(instance_id)
    if context.quiet:
        return
    output.talk(f"{found.instance_type} {found.market} in {found.zone}: {found.state}")
    if volume := made.get("volume"):
        at = f", mounted at {request.mount}" if request.mount else f", as {made['attachment']['device']}"
        output.talk(f"data volume {volume['id']}: {request.data_volume_gib} GiB{at}")
    if request.lease_hours:
        output.talk(f"it ends itself after {request.lease_hours:g} hours: --lease 0 lets it live")


def _ids(result: dict[str, Any] | None) -> list[str]:
    return [result["id"]] if result else []


def _request(settings: Settings, options: dict[str, Any]) -> InstanceRequest:
    from runctl.resources.instances import InstanceRequest

    aws = settings.values.aws
    price = options["spot_max_price"]
    profile = options["iam_instance_profile"]
    return InstanceRequest(
        instance_type=options["instance_type"],
        gpus=options["gpus"],
        gpu_memory_gib=options["gpu_memory"],
        spot=options["spot"],
        spot_max_price=str(_positive(price)) if price is not None else None,
        fallback=not options["no_fallback"],
        zones=options["availability_zone"],
        name=options["name"],
        image=options["image"] or aws.image,
        key=options["key"],
        security_group=options["security_group"] or aws.security_group,
        subnets=options["subnet"] or aws.subnets,
        profile=aws.instance_profile if profile is None else profile,
        root_volume_gib=options["root_volume_size"] or aws.root_volume_gib,
        data_volume_gib=options["data_volume_size"],
        persistent=options["persistent"],
        mount=options["mount"],
        lease_hours=options["lease"],
        project=options["project"] or settings.values.project or "",
        user=user_name(settings),
    )


def _positive(text: str) -> Decimal:
    amount = running.money(text)
    if amount <= 0:
        raise click.UsageError("--spot-max-price must be above 0 USD an hour")
    return amount
