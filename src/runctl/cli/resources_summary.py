"""`runctl resources summary`."""

from __future__ import annotations

import click

from runctl.cli import acting
from runctl.cli.options import Context, common, on_cloud


@click.command()
@click.option("--explain", is_flag=True, help="The arithmetic of every figure.")
@click.option("--regions", help="Such as us-east-1,eu-west-1, or all.")
@click.option("--offline", is_flag=True, help="From the ledger alone, without asking the cloud.")
@on_cloud
@common
def summary(context: Context, on: str | None, explain: bool, regions: str | None, offline: bool) -> None:
    """What runs and what it costs: an hour, a day, this month, in all; by kind, project and user; and what
    jobs keep in S3, with its cost a month.

    \b
    Examples:
      runctl resources summary
      runctl resources summary --explain
      runctl resources summary --output json
    """
    from runctl.render import output
    from runctl.resources import costs, inventory, kept

    limits = context.settings().values.thresholds
    with acting.operation(context, on) as operation:
        if not offline:
            sessions = acting.sessions(context, operation, regions)
            seen = inventory.read(sessions, emit=operation.emit)
            inventory.refresh(operation.ledger, sessions, seen)
        cloud, now = operation.session.cloud.key, operation.session.cloud.clock.now()
        found = costs.summary(operation.ledger, cloud, now, limits)
        accounts = costs.accounts(operation.ledger, cloud, now) if explain else []
        region = operation.session.region
        if offline:
            in_s3 = kept.by_ledger(operation.ledger, cloud, region)
        else:
            from runctl.resources.reaching import job_access

            in_s3 = kept.by_buckets(operation.ledger, cloud, region, job_access(operation.session))
    if context.json:
        total = {name: getattr(found.total, name) for name in found.total.__struct_fields__}
        body = {
            "now": found.now,
            **total,
            "running": found.running,
            "by_kind": found.by_kind,
            "by_project": found.by_project,
            "by_user": found.by_user,
            "warnings": found.warnings,
            "kept": in_s3,
        }
        output.write_json({**body, "accounts": accounts} if explain else body)
        return
    from runctl.render.summary import show_accounts, show_kept, show_summary

    if explain:
        show_accounts(accounts)
    show_summary(found)
    show_kept(in_s3)
