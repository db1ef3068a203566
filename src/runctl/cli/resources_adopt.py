"""`runctl resources adopt`."""

from __future__ import annotations

import click

from runctl.cli import acting, running
from runctl.cli.options import Context, common, on_cloud, user_name


@click.command()
@click.option("--regions", help="Such as us-east-1,eu-west-1, or all.")
@on_cloud
@common
def adopt(context: Context, on: str | None, regions: str | None) -> None:
    """Rebuild the ledger from the cloud: a lost laptop loses no machine, disk or job.

    \b
    Finds instances, spot requests, volumes and snapshots by tag; jobs, and what transfers staged, by
    what lies in their bucket.
    What a bucket says is a claim: an adopted job runs and writes nothing until you name its code and places.
    Their costs count from the cloud's own times. Repeating it is harmless.

    \b
    Examples:
      runctl resources adopt
      runctl resources adopt --regions all
      runctl resources adopt --output json
    """
    from runctl.jobs import adopt as adopting
    from runctl.render import output
    from runctl.resources import costs

    settings = context.settings()
    with acting.operation(context, on) as operation:
        sessions = acting.sessions(context, operation, regions)
        bucket = running.aws_settings(settings).bucket
        found = adopting.adopt(
            operation.ledger, sessions, bucket=bucket, user=user_name(settings), emit=operation.emit
        )
        cloud = operation.session.cloud
        whole = costs.summary(operation.ledger, cloud.key, cloud.clock.now(), settings.values.thresholds)
    if context.json:
        body = {name: getattr(found, name) for name in found.__struct_fields__}
        output.write_json({**body, "usd_total": whole.total.usd_total, "unknown": whole.total.unknown})
    elif context.quiet:
        for one in found.new:
            output.write_line(one)
    else:
        from runctl.render.adopted import show_adopted

        show_adopted(found, whole.total)
