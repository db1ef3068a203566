"""`runctl data cache`: what the cache of this machine holds, and making it smaller."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from runctl.cli.options import Context, common

if TYPE_CHECKING:
    from runctl.datasets.cache import LocalCache

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


class Size(click.ParamType[int]):
    """Bytes: 0, 500M, 20GB, 1.5TiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _SIZE.fullmatch(str(value).strip())
        if not found:
            self.fail(f"{value!r} is no size: write it like 20GB or 1.5TiB", param, ctx)
        unit = (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " ")
        return int(float(found[1]) * unit)


def _folder(function: Any) -> Any:
    return click.option(
        "--folder", metavar="PATH", help="The cache's folder.  [default: where scripts have theirs]"
    )(function)


@click.group()
def cache() -> None:
    """The objects that scripts keep on a local disk with `runctl.datasets`.

    \b
    Examples:
      runctl data cache list
      runctl data cache prune --max-size 100GB
    """


@cache.command(name="list")
@_folder
@common
def list_(context: Context, folder: str | None) -> None:
    """Files and bytes of each bucket, and when one was last read.

    \b
    Examples:
      runctl data cache list
      runctl data cache list --folder /mnt/nvme/cache --output json
    """
    from runctl.render import figures, output

    found = _cache(folder)
    holdings = found.holdings() if found else []
    if context.json:
        output.write_json({"folder": str(found.root) if found else None, "buckets": holdings})
    elif context.quiet:
        for one in holdings:
            output.write_line(one.place)
    else:
        rows = [
            (
                one.place,
                str(one.files),
                figures.size(one.bytes),
                figures.moment(datetime.fromtimestamp(one.used, UTC)),
            )
            for one in holdings
        ]
        output.write_table(("bucket", "files", "size", "last read"), rows, right=("files", "size"))


@cache.command()
@click.option("--max-size", type=Size(), default="0", help="Keep so much: 100GB.  [default: nothing]")
@click.option("--dry-run", is_flag=True, help="Say what would go.")
@_folder
@common
def prune(context: Context, max_size: int, dry_run: bool, folder: str | None) -> None:
    """Remove what was not read for longest, until at most --max-size is left.

    Nothing is lost: what is missing is fetched again. Folders that a process uses stay.

    \b
    Examples:
      runctl data cache prune --max-size 100GB
      runctl data cache prune --dry-run
    """
    from runctl.datasets.cache import Freed
    from runctl.render import figures, output

    found = _cache(folder)
    freed = found.prune(max_size, dry_run=dry_run) if found else Freed(files=0, bytes=0, left=0)
    if context.json:
        output.write_json(freed)
    else:
        word = "Would remove" if dry_run else "Removed"
        files = figures.count(freed.files, "file")
        output.write_line(f"{word} {files}, {figures.size(freed.bytes)}; {figures.size(freed.left)} left")


def _cache(folder: str | None) -> LocalCache | None:
    """The cache that is there; None where nothing was ever kept, or the folder is no cache."""
    from pathlib import Path

    from runctl.datasets.cache import LocalCache
    from runctl.datasets.opening import default_root
    from runctl.errors import ConfigError, NotFound

    root = Path(folder) if folder else default_root()
    if not (root / "objects").is_dir():
        if folder:
            raise NotFound(f"There is no cache in {folder}")
        return None
    try:
        return LocalCache(root, 1)
    except OSError as error:
        raise ConfigError(f"The cache in {root} cannot be used", why=error.strerror or str(error)) from error
