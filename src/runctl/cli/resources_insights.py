"""`runctl resources insights`."""

from __future__ import annotations

from datetime import timedelta

import click

from runctl.cli import acting
from runctl.cli.options import Context, common, on_cloud


@click.command()
@click.option("--unmanaged", is_flag=True, help="What runctl did not make, too.")
@click.option(
    "--probe", is_flag=True, help="Ask each machine that seems idle whether it works; takes longer."
)
@click.option("--idle-for", type=float, help="Hours; an hour for instances and a day for volumes else.")
@click.option("--regions", help="Such as us-east-1,eu-west-1, or all.")
@on_cloud
@common
def insights(
    context: Context,
    on: str | None,
    unmanaged: bool,
    probe: bool,
    idle_for: float | None,
    regions: str | None,
) -> None:
    """What could be saved a month, and the command for it. Nothing is changed.

    \b
    Idle instances, stopped ones with big disks, volumes that are attached to nothing, gp2 that should be gp3,
    IOPS that cannot be used, old snapshots. What is persistent or protected is left alone.

    \b
    Examples:
      runctl resources insights
      runctl resources insights --probe --regions all
      runctl resources insights --output json
    """
    from runctl.render import output
    from runctl.resources import insights as findings

    hours = None if idle_for is None else timedelta(hours=idle_for)
    with acting.operation(context, on) as operation:
        sessions = acting.sessions(context, operation, regions)
        found, failures = findings.look(operation, sessions, unmanaged=unmanaged, probe=probe, idle_for=hours)
    usd, unknown = findings.saving(found)
    if context.json:
        output.write_json({"insights": found, "usd_per_month": usd, "unknown": unknown, "failures": failures})
    elif context.quiet:
        for one in found:
            output.write_line(one.resource)
    else:
        from runctl.render.insights import show_insights

        show_insights(found)
