"""`runctl data pack`: many small files in few objects, which training reads faster and for less."""

from __future__ import annotations

import click

from runctl.cli import moving
from runctl.cli.data_cache import Size
from runctl.cli.options import Context, common, on_cloud
from runctl.errors import ExitCode


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option("--pack-size", type=Size(), default="64MiB", show_default=True, help="Bytes of a pack at most.")
@click.option(
    "--mix", is_flag=True, help="Lay files in shuffled order: for folders that are sorted by class."
)
@click.option(
    "--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="Requests at once."
)
@click.option(
    "--allow-secret", multiple=True, metavar="NAME", help="Pack this file though it looks like credentials."
)
@click.option("--dry-run", is_flag=True, help="Show what would be packed, and write nothing.")
@moving.endpoint_option
@on_cloud
@common
def pack(
    context: Context,
    source: str,
    target: str,
    pack_size: int,
    mix: bool,
    parallel: int,
    allow_secret: tuple[str, ...],
    dry_run: bool,
    endpoint_url: str | None,
    on: str | None,
) -> int:
    """Write a folder's or a prefix's files as packs with an index, to a prefix or a folder.

    `runctl.datasets.open` reads them as it reads the files themselves. Given again after an interruption, the
    command keeps the packs that are there and right. The source stays as it is.

    \b
    Examples:
      runctl data pack s3://my-bucket/imagenet s3://my-bucket/imagenet-packed --mix
      runctl data pack images s3://my-bucket/images --pack-size 32MiB
      runctl data pack images s3://my-bucket/images --dry-run
    """
    from runctl.datasets import packing
    from runctl.render import packing as shown
    from runctl.render.transfer import following

    here, there = moving.local_or_s3(source), moving.local_or_s3(target)
    how = packing.PackOptions(pack_size=pack_size, mixed=mix, parallel=parallel, secrets=allow_secret)
    plan = packing.plan(here, there, how, moving.reach_of(context, on, endpoint_url, here, there))
    if dry_run:
        shown.show_plan(plan, json=context.json, quiet=context.quiet)
    else:
        with following(quiet=context.quiet, json=context.json) as emit:
            report = packing.carry_out(plan, emit=emit)
        shown.show_report(report, plan.place, json=context.json, quiet=context.quiet)
    return ExitCode.INPUT if plan.left_out else ExitCode.SUCCESS
