"""What commands that move data share: the way to S3, the options, the plan and the report shown."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from runctl.cli.options import Context
from runctl.errors import ExitCode, NotFound, ValidationError

if TYPE_CHECKING:
    from runctl.storage.bulk import BulkStore
    from runctl.storage.location import LocalPath, S3Location
    from runctl.storage.plans import Plan
    from runctl.storage.s3 import S3Access
    from runctl.storage.transfer import TransferOptions, TransferPlan, TransferReport

F = TypeVar("F", bound=Callable[..., Any])

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b?(?:/s)?", re.IGNORECASE)
_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


class Rate(click.ParamType[int]):
    """Bytes per second: 500k, 20MB, 1.5GiB/s."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _RATE.fullmatch(str(value).strip())
        if not found or not float(found[1]):
            self.fail(f"{value!r} is no rate: write it like 20MB or 1.5GiB/s", param, ctx)
        return int(float(found[1]) * _UNITS[found[2].lower()])


def moving(function: F) -> F:
    """Add the options of every command that moves files; they come as `how`, a `TransferOptions`."""

    @click.option("--include", multiple=True, metavar="PATTERN", help="Only what matches, as in .gitignore.")
    @click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out what matches.")
    @click.option(
        "--parallel", type=click.IntRange(1, 256), default=16, show_default=True, help="Requests at once."
    )
    @click.option(
        "--verify/--no-verify", default=True, help="Prove each file by its checksum.  [default: verify]"
    )
    @click.option("--checksum", is_flag=True, help="Compare by content, not by size and time.")
    @click.option(
        "--bandwidth-limit", type=Rate(), metavar="RATE", help="At most so many bytes a second: 20MB."
    )
    @click.option(
        "--allow-secret",
        multiple=True,
        metavar="NAME",
        help="Send this file though it looks like credentials.",
    )
    @functools.wraps(function)
    def wrapper(
        *args: Any,
        include: tuple[str, ...],
        exclude: tuple[str, ...],
        parallel: int,
        verify: bool,
        checksum: bool,
        bandwidth_limit: int | None,
        allow_secret: tuple[str, ...],
        **kwargs: Any,
    ) -> Any:
        from runctl.clouds import home
        from runctl.storage.transfer import TransferOptions

        how = TransferOptions(
            include=include,
            exclude=exclude,
            parallel=parallel,
            verify=verify,
            checksum=checksum,
            bandwidth=bandwidth_limit,
            secrets=allow_secret,
            state=home() / "transfers",
        )
        return function(*args, how=how, **kwargs)

    return wrapper  # pyright: ignore[reportReturnType]


def endpoint_option(function: F) -> F:
    """`--endpoint-url`: an S3 server that is not AWS's."""
    return click.option(
        "--endpoint-url", metavar="URL", help="Another S3 server.  [default: AWS_ENDPOINT_URL_S3]"
    )(function)


def access(context: Context, on: str | None, endpoint: str | None) -> S3Access:
    """How S3 is reached. Keys of the environment need no SDK, which takes longer to load than a transfer."""
    from runctl.storage import whereabouts
    from runctl.storage.s3 import S3Access

    settings = context.settings()
    environ = os.environ
    cloud = context.cloud(on or settings.values.cloud, settings)
    if cloud.name == "sandbox":
        key, secret = cloud.s3_keys or ("", "")
        own = cloud if endpoint in {None, cloud.s3_endpoint} else None
        return S3Access(
            endpoint=endpoint or cloud.s3_endpoint,
            region=cloud.region,
            credentials=lambda: (key, secret, None),
            cloud=own,
        )
    aws = settings.values.aws
    endpoint = endpoint or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    region = aws.region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret and not aws.profile and (endpoint or (region and not _has_sdk_settings())):
        token = environ.get("AWS_SESSION_TOKEN")
        return S3Access(
            endpoint=endpoint,
            region=region,
            credentials=lambda: (key, secret, token),
            locate=functools.partial(whereabouts.region_of, near=region) if region else None,
        )
    from runctl.resources.reaching import access_of

    found = access_of(context.session(settings, "aws"))
    return msgspec.structs.replace(found, endpoint=endpoint) if endpoint else found


def _has_sdk_settings() -> bool:
    """Whether the SDK may know of other endpoints: those of FIPS, with IPv6, or another server's."""
    named = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    asked = ("AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT")
    return Path(named).expanduser().exists() or any(os.environ.get(name) for name in asked)


def prefix(text: str) -> S3Location:
    """A place that must lie in S3. Raises ValidationError."""
    from runctl.storage import location

    found = location.parse(text)
    if not isinstance(found, location.S3Location):
        raise ValidationError(f"{text} is not in S3", next="write it as s3://BUCKET/PREFIX")
    return found


def local_or_s3(text: str) -> LocalPath | S3Location:
    """A place on this machine or in S3. Raises ValidationError."""
    from runctl.storage import location

    found = location.parse(text)
    if isinstance(found, location.InstancePath):
        raise ValidationError(f"{text} lies on an instance", next="runctl transfer brings it here")
    return found


def reach_of(
    context: Context, on: str | None, endpoint: str | None, *places: LocalPath | S3Location
) -> S3Access:
    """How S3 is reached, where one of the places lies there."""
    from runctl.storage.location import S3Location
    from runctl.storage.s3 import S3Access

    in_s3 = any(isinstance(place, S3Location) for place in places)
    return access(context, on, endpoint) if in_s3 else S3Access()


def store(location: S3Location, reach: S3Access, *, parent: bool = False) -> BulkStore:
    """The objects under a location, or beside it; its connections are closed when the command ends."""
    from runctl.storage.bulk import BulkStore

    folder = location.key.rstrip("/")
    made = BulkStore(location.bucket, folder.rpartition("/")[0] if parent else folder, reach)
    click.get_current_context().call_on_close(made.close)
    return made


def download_plan(
    source: S3Location, target: Path, reach: S3Access, how: TransferOptions, *, into: bool
) -> TransferPlan:
    """A prefix into a folder; a single object into a file, or into a folder where `into` says so."""
    from runctl.storage import transfer

    beside = store(source, reach, parent=True)
    name = source.key.rpartition("/")[2]
    if name:
        try:
            return transfer.plan_fetch(
                beside, name, target / name if into or target.is_dir() else target, how
            )
        except NotFound:
            pass  # no object has this name: it is a prefix
    return transfer.plan_download(store(source, reach), target, how)


def upload_plan(source: Path, target: S3Location, reach: S3Access, how: TransferOptions) -> TransferPlan:
    """A folder under a prefix; a file to a key, or into the prefix where the target ends with `/`."""
    from runctl.storage import transfer

    if source.is_dir():
        return transfer.plan_upload(source, store(target, reach), how)
    if not source.exists():
        raise NotFound(f"There is no {source}")
    if not target.key or target.key.endswith("/"):
        return transfer.plan_send(source, store(target, reach), source.name, how)
    return transfer.plan_send(source, store(target, reach, parent=True), target.key.rpartition("/")[2], how)


def copy_plan(source: S3Location, target: S3Location, reach: S3Access, how: TransferOptions) -> Plan:
    """A prefix to a prefix; a single object to a key, or into the prefix where the target ends with `/`."""
    from runctl.storage import copying

    name = source.key.rpartition("/")[2]
    if name:
        into = not target.key or target.key.endswith("/")
        key = name if into else target.key.rpartition("/")[2]
        try:
            return copying.plan_copy(
                store(source, reach, parent=True), name, store(target, reach, parent=not into), key, how
            )
        except NotFound:
            pass  # no object has this name: it is a prefix
    return copying.plan_copies(store(source, reach), store(target, reach), how)


def local_plan(source: Path, target: Path, how: TransferOptions, *, into: bool) -> Plan:
    """A folder to a folder; a file to a file, or into a folder where `into` says so."""
    from runctl.storage import local_copy

    if source.is_dir():
        return local_copy.plan_folder(source, target, how)
    return local_copy.plan_file(source, target / source.name if into or target.is_dir() else target, how)


def carry_out(context: Context, plan: Plan, *, dry_run: bool, yes: bool) -> int:
    """Show or do it; answers the exit code."""
    from runctl.cli import acting
    from runctl.render import output
    from runctl.render import transfer as shown
    from runctl.storage import plans

    if dry_run:
        if context.json:
            output.write_json(shown.plan_body(plan))
        else:
            shown.show_plan(plan)
        return ExitCode.INPUT if plan.left_out else ExitCode.SUCCESS
    if plan.deletions:
        if not context.json and not context.quiet:
            shown.show_deletions(plan)
        acting.confirm(f"Delete {len(plan.deletions)} files that the source does not have?", yes=yes)
    with shown.following(quiet=context.quiet, json=context.json) as emit:
        report = plans.carry_out(plan, emit=emit)
    if context.json:
        output.write_json(report)
    else:
        shown.show_report(report, upload=False, quiet=context.quiet, done=plan.words.done)
    return code_of(report)


def both_ways(
    context: Context, folder: Path, prefix: BulkStore, how: TransferOptions, *, dry_run: bool
) -> int:
    """Plan and carry out a sync in both directions; answers the exit code."""
    from runctl.render import output
    from runctl.render import transfer as shown
    from runctl.storage import sync

    found = sync.plan(folder, prefix, how)
    if dry_run:
        if context.json:
            output.write_json(shown.both_body(found))
        else:
            shown.show_both(found)
        return ExitCode.INPUT if found.left_out else ExitCode.SUCCESS
    with shown.following(quiet=context.quiet, json=context.json) as emit:
        up, down = sync.carry_out_both(found, emit=emit)
    if context.json:
        output.write_json({"up": up, "down": down, "left_out": found.left_out})
    else:
        shown.show_left_out("left alone", [item for item in found.left_out if item not in up.left_out])
        shown.show_report(up, upload=True, quiet=context.quiet)
        shown.show_report(down, upload=False, quiet=context.quiet)
    return max(code_of(up), code_of(down), ExitCode.INPUT if found.left_out else ExitCode.SUCCESS)


def code_of(report: TransferReport) -> int:
    """0 for all there, 1 where something was refused by name, 2 where something failed."""
    if report.failed:
        return ExitCode.CLOUD
    return ExitCode.INPUT if report.left_out else ExitCode.SUCCESS


def refuse_pair(source: str, target: str, why: str, next_step: str) -> ValidationError:
    return ValidationError(f"Cannot transfer {source} to {target}", why=why, next=next_step)
