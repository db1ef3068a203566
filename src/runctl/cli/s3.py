"""`runctl s3`: objects of a bucket, moved, kept equal, listed and reviewed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click
import msgspec

from runctl.cli import moving
from runctl.cli.options import Context, common, on_cloud
from runctl.cli.root import LazyGroup
from runctl.errors import ValidationError

if TYPE_CHECKING:
    from runctl.storage.transfer import TransferOptions


class _S3(LazyGroup):
    table: ClassVar[Mapping[str, tuple[str, str]]] = {
        "upload": ("runctl.cli.s3:upload", "Send a file or folder, proven by checksums."),
        "download": ("runctl.cli.s3:download", "Fetch an object or prefix, proven by checksums."),
        "sync": ("runctl.cli.s3:sync", "Make one side like the other, or both alike."),
        "list": ("runctl.cli.s3:list_objects", "What lies under a prefix."),
        "cleanup": ("runctl.cli.s3_cleanup:cleanup", "Delete all but the newest checkpoints."),
        "watch": ("runctl.cli.s3_watch:watch", "Send a folder's files as they come to rest."),
        "review": ("runctl.cli.s3_review:review", "What is there, what it costs, what could go."),
    }


@click.group(cls=_S3)
def s3() -> None:
    """Objects in S3: send, fetch, keep in step, look at.

    \b
    Examples:
      runctl s3 upload results s3://my-bucket/results
      runctl s3 sync s3://my-bucket/data data
      runctl s3 sync notes s3://my-bucket/notes --both
      runctl s3 review s3://my-bucket
    """


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", metavar="s3://BUCKET/PREFIX")
@moving.moving
@click.option("--dry-run", is_flag=True, help="Show what would move, and touch nothing.")
@moving.endpoint_option
@on_cloud
@common
def upload(
    context: Context,
    source: Path,
    target: str,
    how: TransferOptions,
    dry_run: bool,
    endpoint_url: str | None,
    on: str | None,
) -> int:
    """Send a file or a folder; what is there and equal is not sent again.

    \b
    Examples:
      runctl s3 upload best.pt s3://my-bucket/models/
      runctl s3 upload data s3://my-bucket/data --exclude '*.tmp'
    """
    plan = moving.upload_plan(source, moving.prefix(target), moving.access(context, on, endpoint_url), how)
    return moving.carry_out(context, plan, dry_run=dry_run, yes=True)


@click.command()
@click.argument("source", metavar="s3://BUCKET/PREFIX")
@click.argument("target", type=click.Path(path_type=Path))
@moving.moving
@click.option("--dry-run", is_flag=True, help="Show what would move, and touch nothing.")
@moving.endpoint_option
@on_cloud
@common
def download(
    context: Context,
    source: str,
    target: Path,
    how: TransferOptions,
    dry_run: bool,
    endpoint_url: str | None,
    on: str | None,
) -> int:
    """Fetch an object or everything under a prefix; what is here and equal is not fetched again.

    \b
    Examples:
      runctl s3 download s3://my-bucket/models/best.pt .
      runctl s3 download s3://my-bucket/data data --include 'train/**'
    """
    reach = moving.access(context, on, endpoint_url)
    plan = moving.download_plan(moving.prefix(source), target, reach, how, into=target.is_dir())
    return moving.carry_out(context, plan, dry_run=dry_run, yes=True)


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.option(
    "--both", is_flag=True, help="Each side gets what changed on the other; conflicts stay as they are."
)
@moving.moving
@click.option("--delete", is_flag=True, help="Delete at the destination what the source does not have.")
@click.option("--dry-run", is_flag=True, help="Show what would move, and touch nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before deleting.")
@moving.endpoint_option
@on_cloud
@common
def sync(
    context: Context,
    source: str,
    target: str,
    both: bool,
    how: TransferOptions,
    delete: bool,
    dry_run: bool,
    yes: bool,
    endpoint_url: str | None,
    on: str | None,
) -> int:
    """Make a folder and a prefix alike: the second like the first, or both with --both.

    With --both, what changed on one side since both were last equal goes to the other. What changed on both
    sides is reported and left alone, and so is what one side has deleted: nothing is overwritten or deleted
    silently.

    \b
    Examples:
      runctl s3 sync data s3://my-bucket/data --delete
      runctl s3 sync s3://my-bucket/data data
      runctl s3 sync notes s3://my-bucket/notes --both
    """
    from runctl.storage import location

    here, there = location.parse(source), location.parse(target)
    reach = moving.access(context, on, endpoint_url)
    if both and delete:
        raise ValidationError("--both deletes nothing", why="it cannot know which side is right")
    if both:
        folder, prefix = (here, there) if isinstance(here, location.LocalPath) else (there, here)
        if not isinstance(folder, location.LocalPath) or not isinstance(prefix, location.S3Location):
            raise moving.refuse_pair(
                source, target, "sync needs a folder and a prefix", "see runctl transfer -h"
            )
        return moving.both_ways(context, folder.path, moving.store(prefix, reach), how, dry_run=dry_run)
    how = msgspec.structs.replace(how, delete=delete)
    if isinstance(here, location.LocalPath) and isinstance(there, location.S3Location):
        if not here.path.is_dir():
            raise ValidationError(f"{here.path} is no folder", next="runctl s3 upload sends a single file")
        plan = moving.upload_plan(here.path, there, reach, how)
    elif isinstance(here, location.S3Location) and isinstance(there, location.LocalPath):
        from runctl.storage import transfer

        plan = transfer.plan_download(moving.store(here, reach), there.path, how)
    else:
        raise moving.refuse_pair(source, target, "sync needs a folder and a prefix", "see runctl transfer -h")
    return moving.carry_out(context, plan, dry_run=dry_run, yes=yes)


@click.command("list")
@click.argument("prefix", metavar="s3://BUCKET/PREFIX")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@moving.endpoint_option
@on_cloud
@common
def list_objects(
    context: Context, prefix: str, limit: int | None, endpoint_url: str | None, on: str | None
) -> None:
    """The objects under a prefix, in order of key.

    \b
    Examples:
      runctl s3 list s3://my-bucket/run-7
      runctl s3 list s3://my-bucket --limit 20 --output json
    """
    from itertools import islice

    from runctl.render import transfer as shown

    store = moving.store(moving.prefix(prefix), moving.access(context, on, endpoint_url))
    shown.show_entries(islice(store.entries(), limit), json=context.json, quiet=context.quiet)
