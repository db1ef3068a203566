"""`runctl transfer` where one side or both are on an instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl.cli import acting
from runctl.cli.options import Context
from runctl.errors import ExitCode, ValidationError

if TYPE_CHECKING:
    from runctl.resources.legs import LegOptions, WouldTransfer
    from runctl.resources.operation import Operation
    from runctl.storage.transfer import TransferOptions


def transfer(
    context: Context,
    source: str,
    target: str,
    how: TransferOptions,
    *,
    on: str | None,
    compress: bool,
    endpoint_url: str | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Carry it out, or show what it would do; answers the exit code."""
    from runctl.cli.moving import code_of
    from runctl.render import output
    from runctl.render import transfer as shown
    from runctl.resources import legs

    _require_meant(how, endpoint_url)
    options = _options(how, compress=compress)
    bucket = context.settings().values.aws.bucket
    with (
        acting.operation(context, on) as operation,
        shown.following(quiet=context.quiet, json=context.json) as emit,
    ):
        if dry_run:
            found = legs.plan(operation, source, target, options, bucket=bucket, emit=emit)
            _show(context, found)
            return ExitCode.INPUT if found.left_out else ExitCode.SUCCESS
        if how.delete and not yes:
            _ask(context, operation, source, target, options, bucket)
        report = legs.transfer(operation, source, target, options, bucket=bucket, emit=emit)
    if context.json:
        output.write_json(report)
    else:
        shown.show_report(report, upload=True, quiet=context.quiet)
    return code_of(report)


def _require_meant(how: TransferOptions, endpoint_url: str | None) -> None:
    """Nothing that was asked for is passed over in silence."""
    if not how.verify:
        raise ValidationError(
            "--no-verify is not for instances",
            why="whatever reaches or leaves one is proven",
            next="leave it out",
        )
    if endpoint_url:
        raise ValidationError(
            "--endpoint-url is not for instances",
            why="machines and buckets must be those of one cloud",
            next="name the cloud: --on aws or --on sandbox",
        )


def _options(how: TransferOptions, *, compress: bool) -> LegOptions:
    from runctl.resources.legs import LegOptions

    return LegOptions(
        include=how.include,
        exclude=how.exclude,
        parallel=how.parallel,
        checksum=how.checksum,
        delete=how.delete,
        bandwidth=how.bandwidth,
        secrets=how.secrets,
        compress=compress,
    )


def _ask(
    context: Context,
    operation: Operation,
    source: str,
    target: str,
    options: LegOptions,
    bucket: str | None,
) -> None:
    from runctl.render import output
    from runctl.resources import legs

    found = legs.plan(operation, source, target, options, bucket=bucket)
    if not found.delete:
        return
    if not context.json and not context.quiet:
        for name in found.delete[:20]:
            output.write_line(f"{'delete':8} {'':>10}  {name}")
    acting.confirm(f"Delete {len(found.delete)} files that the source does not have?", yes=False)


def _show(context: Context, found: WouldTransfer) -> None:
    from runctl.render import output
    from runctl.render import transfer as shown

    if context.json:
        output.write_json(
            {
                "move": [{"name": name, "size": size} for name, size in found.files],
                "compare": [],
                "delete": found.delete,
                "equal_files": found.equal_files,
                "left_out": found.left_out,
            }
        )
        return
    shown.show_would(found.files, found.delete, found.left_out, equal=found.equal_files)
