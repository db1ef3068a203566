"""`runctl s3 watch`: a folder's files go to S3 as they come to rest, until Ctrl-C."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runctl.cli import moving
from runctl.cli.options import Context, common, on_cloud
from runctl.errors import CloudError, ExitCode, Interrupted, NotFound

if TYPE_CHECKING:
    from runctl.storage.transfer import TransferOptions
    from runctl.storage.watch import Watch, Watched


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", metavar="s3://BUCKET/PREFIX")
@click.option(
    "--interval", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Seconds between looks."
)
@click.option(
    "--rest",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="Seconds since a file's last write.",
)
@moving.moving
@moving.endpoint_option
@on_cloud
@common
def watch(
    context: Context,
    source: Path,
    target: str,
    interval: float,
    rest: float,
    how: TransferOptions,
    endpoint_url: str | None,
    on: str | None,
) -> int:
    """Send new and changed files of a folder to S3, until Ctrl-C; nothing is ever deleted there.

    A file goes when nobody has written to it for a while. Ctrl-C sends what is left, and ends; a second one
    ends at once. Where S3 is away, the next look tries again.

    \b
    Examples:
      runctl s3 watch runs/7 s3://my-bucket/runs/7
      runctl s3 watch out s3://my-bucket/out --include '*.pt' --interval 30
    """
    from runctl.storage.watch import Watch

    if not source.is_dir():
        raise NotFound(f"There is no folder {source}")
    store = moving.store(moving.prefix(target), moving.access(context, on, endpoint_url))
    watched = Watch(source, store, how, rest=rest)
    _say(context, f"watching {source}; Ctrl-C ends it")
    try:
        while True:
            try:
                _show(context, _round(context, watched))
            except CloudError as error:
                if not error.retryable:
                    raise
                _say(context, f"{error.what}: the next look tries again")
            time.sleep(interval)
    except (KeyboardInterrupt, Interrupted):
        _say(context, "sending what is left")
    last = _round(context, watched, at_rest=True)
    _show(context, last)
    return moving.code_of(last.report) if last else ExitCode.SUCCESS


def _round(context: Context, watched: Watch, *, at_rest: bool = False) -> Watched | None:
    from runctl.render import transfer as shown

    with shown.following(quiet=context.quiet, json=context.json) as emit:
        return watched.round(at_rest=at_rest, emit=emit)


def _show(context: Context, found: Watched | None) -> None:
    from runctl.render import output
    from runctl.render import transfer as shown

    if found is None:
        return
    if context.json:
        output.write_json(found)
    elif found.report.moved_files or found.report.failed or found.report.left_out:
        shown.show_report(found.report, upload=True, quiet=context.quiet)


def _say(context: Context, text: str) -> None:
    from runctl.render import output

    if not context.quiet and not context.json:
        output.talk(text)
