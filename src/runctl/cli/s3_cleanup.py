"""`runctl s3 cleanup`: all but the newest checkpoints under a prefix, as far as the rules let them go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runctl.cli import acting, moving
from runctl.cli.options import Context, common, on_cloud
from runctl.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from runctl.resources.old_checkpoints import Objects
    from runctl.safety.checkpoints import Keep


def keep_more(function: Any) -> Any:
    """What else stays of each series, whatever its age."""
    every = click.option(
        "--keep-every", type=click.IntRange(1), metavar="M", help="And each whose step is a multiple of M."
    )
    best = click.option(
        "--keep-best", metavar="METRIC", help="And the best by a metric that names or the log tell: val_loss."
    )
    return every(best(function))


def nothing_logged(_metric: str) -> Mapping[int, float]:
    """Of what is no job."""
    return {}


@click.command()
@click.argument("prefix", metavar="s3://BUCKET/PREFIX")
@click.option(
    "--keep-last", type=click.IntRange(1), required=True, metavar="N", help="So many of each series stay."
)
@keep_more
@click.option("--dry-run", is_flag=True, help="Show what would go and what stays, and touch nothing.")
@click.option("--force", is_flag=True, help="Those of the last hour, too.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@moving.endpoint_option
@on_cloud
@common
def cleanup(
    context: Context,
    prefix: str,
    keep_last: int,
    keep_every: int | None,
    keep_best: str | None,
    dry_run: bool,
    force: bool,
    yes: bool,
    endpoint_url: str | None,
    on: str | None,
) -> int:
    """Delete old checkpoints; the newest N complete ones of each series stay.

    Checkpoints are those of jobs, files such as model-100.pt and folders such as checkpoint-500. One that is
    being written, the newest complete one, and one that a live job began from are never deleted; one that is
    younger than an hour only with --force. Nothing else under the prefix is touched.

    \b
    Examples:
      runctl s3 cleanup s3://my-bucket/runs --keep-last 3 --dry-run
      runctl s3 cleanup s3://my-bucket/runs --keep-last 2 --keep-every 1000 --keep-best val_loss
      runctl s3 cleanup s3://my-bucket/runctl/jobs/JOB --keep-last 1 --yes
    """
    from runctl.safety.checkpoints import Keep

    store = moving.store(moving.prefix(prefix), moving.access(context, on, endpoint_url))
    keep = Keep(keep_last, keep_every, keep_best)
    return clean(context, store, keep, lambda: now_of(context, on), dry_run=dry_run, force=force, yes=yes)


def clean(
    context: Context,
    store: Objects,
    keep: Keep,
    now: Callable[[], datetime],
    *,
    dry_run: bool,
    force: bool,
    yes: bool,
    seal: str = "",
    measured: Callable[[str], Mapping[int, float]] = nothing_logged,
) -> int:
    """Plan, show, ask and delete; the exit code. `seal` and `measured` are a job's, as `Cleaner` has them."""
    from runctl.render import old_checkpoints as shown
    from runctl.render import output
    from runctl.render import transfer as following
    from runctl.resources.old_checkpoints import Cleaner

    with context.ledger() as ledger:
        cleaner = Cleaner(
            store=store,
            ledger=ledger,
            keep=keep,
            request=acting.asked(context, force=force, unmanaged=False),
            policy=acting.policy(context),
            now=now,
            seal=seal,
            measured=measured,
        )
        planned = cleaner.plan()
        if dry_run or not planned.allowed:
            if context.json:
                output.write_json(shown.plan_body(planned))
            else:
                shown.show_plan(planned)
            return ExitCode.SUCCESS
        if not context.json and not context.quiet:
            shown.show_plan(planned)
        acting.confirm(f"Delete {len(planned.allowed)} checkpoints?", yes=yes)
        with following.following(quiet=context.quiet, json=context.json) as emit:
            report = cleaner.apply(planned, emit=emit)
    if context.json:
        output.write_json(report)
    else:
        shown.show_report(report, quiet=context.quiet)
    return ExitCode.CLOUD if report.failed else ExitCode.SUCCESS


def now_of(context: Context, on: str | None) -> datetime:
    """The time of the cloud whose S3 it is."""
    from datetime import UTC, datetime

    settings = context.settings()
    if (on or settings.values.cloud) == "sandbox":
        return context.cloud("sandbox", settings).clock.now()
    return datetime.now(UTC)
