"""`runctl transfer`: files between this machine, S3 and instances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from runctl.cli import moving
from runctl.cli.options import Context, common, on_cloud
from runctl.errors import ValidationError

if TYPE_CHECKING:
    from runctl.storage.plans import Plan
    from runctl.storage.transfer import TransferOptions


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@moving.moving
@click.option("--delete", is_flag=True, help="Delete at the destination what the source does not have.")
@click.option("--dry-run", is_flag=True, help="Show what would move, and touch nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before deleting.")
@click.option("--compress", is_flag=True, help="Pack what goes to or from an instance (zstd, else gzip).")
@moving.endpoint_option
@on_cloud
@common
def transfer(
    context: Context,
    source: str,
    target: str,
    how: TransferOptions,
    delete: bool,
    dry_run: bool,
    yes: bool,
    compress: bool,
    endpoint_url: str | None,
    on: str | None,
) -> int:
    """Copy files or folders: a local path, s3://BUCKET/PREFIX or INSTANCE:/PATH, in any pair.

    What is equal is not copied again, every file is proven by its checksum, and what was interrupted goes on
    where it stopped. A folder's content goes under the destination; a single file takes the destination's
    name, or goes into it where it is a folder or ends with a slash.

    \b
    Examples:
      runctl transfer data s3://my-bucket/data
      runctl transfer s3://my-bucket/data data --include '*.parquet'
      runctl transfer s3://my-bucket/run-7/best.pt .
      runctl transfer data s3://my-bucket/data --delete --dry-run
      runctl transfer s3://my-bucket/data s3://other-bucket/data
      runctl transfer i-0123456789abcdef0:/home/ec2-user/out results
    """
    from runctl.storage import location

    how = msgspec.structs.replace(how, delete=delete)
    here, there = location.parse(source), location.parse(target)
    if isinstance(here, location.InstancePath) or isinstance(there, location.InstancePath):
        from runctl.cli import legs

        return legs.transfer(
            context,
            source,
            target,
            how,
            on=on,
            compress=compress,
            endpoint_url=endpoint_url,
            dry_run=dry_run,
            yes=yes,
        )
    if compress:
        raise ValidationError("--compress is for instances", why="objects in S3 are kept as they are")
    plan: Plan
    into = target.endswith("/") or target in {".", ".."}
    if isinstance(here, location.LocalPath) and isinstance(there, location.LocalPath):
        plan = moving.local_plan(here.path, there.path, how, into=into)
        return moving.carry_out(context, plan, dry_run=dry_run, yes=yes)
    reach = moving.access(context, on, endpoint_url)
    if isinstance(here, location.LocalPath) and isinstance(there, location.S3Location):
        plan = moving.upload_plan(here.path, there, reach, how)
    elif isinstance(here, location.S3Location) and isinstance(there, location.LocalPath):
        plan = moving.download_plan(here, there.path, reach, how, into=into)
    else:
        plan = moving.copy_plan(moving.prefix(source), moving.prefix(target), reach, how)
    return moving.carry_out(context, plan, dry_run=dry_run, yes=yes)
