"""`runctl data verify`: whether a copy is whole, and whether volumes hold what S3 holds now."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from runctl.cli import moving
from runctl.cli.options import Context, common, on_cloud
from runctl.errors import ExitCode, ValidationError

if TYPE_CHECKING:
    from runctl.datasets.freshness import Holder
    from runctl.storage.location import LocalPath, S3Location

_VOLUME = re.compile(r"vol-[0-9a-f]{8,17}")


@click.command()
@click.argument("source", metavar="SRC|VOLUME")
@click.argument("target", metavar="[DST]", required=False)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only what matches, as in .gitignore.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out what matches.")
@moving.endpoint_option
@on_cloud
@common
def verify(
    context: Context,
    source: str,
    target: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    endpoint_url: str | None,
    on: str | None,
) -> int:
    """Compare a folder with a prefix in S3, or two prefixes, by size and checksum; nothing is changed.

    With one place, say which pre-warmed volumes and snapshots hold what it holds now. Exit code 1 where
    anything is missing, different, extra, stale, or cannot be proven.

    \b
    Examples:
      runctl data verify data s3://bucket/imagenet
      runctl data verify s3://bucket/imagenet s3://backup/imagenet --exclude '*.tmp'
      runctl data verify s3://bucket/imagenet
      runctl data verify vol-0123456789abcdef0
    """
    if target is None:
        if include or exclude or endpoint_url:
            raise ValidationError("These options compare two places", next="runctl data verify SRC DST")
        return _show_holders(context, _holders(context, source, on))
    return _compare(context, source, target, endpoint_url, on, include=include, exclude=exclude)


def _compare(
    context: Context, source: str, target: str, endpoint_url: str | None, on: str | None, **patterns: Any
) -> int:
    from runctl.datasets import verifying
    from runctl.render import output
    from runctl.render import transfer as shown
    from runctl.render.verification import show_verification
    from runctl.storage.location import LocalPath, S3Location, parse

    here, there = parse(source), parse(target)
    reach = moving.access(context, on, endpoint_url)
    with shown.following(quiet=context.quiet, json=context.json) as emit:
        match here, there:
            case S3Location(), S3Location():
                stores = moving.store(here, reach), moving.store(there, reach)
                found = verifying.prefixes_against(*stores, **patterns)
            case (LocalPath(), S3Location()) | (S3Location(), LocalPath()):
                local, remote, is_source = _sides(here, there)
                found = verifying.folder_against(
                    local.path, moving.store(remote, reach), folder_is_source=is_source, emit=emit, **patterns
                )
            case _:
                raise moving.refuse_pair(source, target, "one of them must lie in S3", "diff -r")
    if context.json:
        output.write_json({**_as_data(found), "faultless": found.faultless})
    else:
        show_verification(found, quiet=context.quiet)
    return ExitCode.SUCCESS if found.faultless else ExitCode.INPUT


def _as_data(found: Any) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(found)


def _sides(here: Any, there: Any) -> tuple[LocalPath, S3Location, bool]:
    from runctl.storage.location import LocalPath

    return (here, there, True) if isinstance(here, LocalPath) else (there, here, False)


def _holders(context: Context, place: str, on: str | None) -> list[Holder]:
    from runctl.datasets import freshness
    from runctl.resources import prefixes

    if not _VOLUME.fullmatch(place):
        prefixes.place_of(place)
    session = context.session(context.settings(), on)
    if not _VOLUME.fullmatch(place):
        return freshness.holders(session, prefixes.dataset_of(session, place))
    with context.ledger() as ledger:
        return [freshness.of_volume(session, ledger, place)]


def _show_holders(context: Context, found: list[Holder]) -> int:
    from runctl.render import output
    from runctl.render.verification import show_holders

    stale = [holder for holder in found if holder.stale]
    if context.json:
        output.write_json({"holders": found, "stale": len(stale)})
    elif context.quiet:
        for holder in stale:
            output.write_line(holder.id)
    else:
        show_holders(found)
    return ExitCode.INPUT if stale else ExitCode.SUCCESS
