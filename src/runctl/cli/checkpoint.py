"""`runctl checkpoint`: the checkpoints of a job, a folder or a prefix of S3."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runctl.cli import known_jobs, moving, s3_cleanup
from runctl.cli.options import Context, common, complete_jobs, of_user, on_cloud
from runctl.errors import ExitCode, NotFound, ValidationError
from runctl.quoting import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runctl.ledger import JobRecord, Ledger
    from runctl.resources.old_checkpoints import Objects

_WHERE = click.argument("where", metavar="JOB|DIR|s3://BUCKET/PREFIX", shell_complete=complete_jobs)


@click.group()
def checkpoint() -> None:
    """Checkpoints of a job, a folder or a prefix of S3: list, look at, bring home, clean up.

    \b
    Examples:
      runctl checkpoint list last
      runctl checkpoint pull digits-7f3a2c resumed
      runctl checkpoint cleanup runs/checkpoints --keep-last 3 --dry-run
    """


@checkpoint.command("list")
@_WHERE
@moving.endpoint_option
@on_cloud
@common
def list_(context: Context, where: str, endpoint_url: str | None, on: str | None) -> None:
    """List checkpoints, the oldest first: of a job, one line for each of its snapshots.

    \b
    Examples:
      runctl checkpoint list last
      runctl checkpoint list runs/checkpoints
      runctl checkpoint list s3://my-bucket/runs --output json
    """
    from runctl.render import checkpoints as shown

    objects = _objects(context, where, on, endpoint_url)
    if objects is not None:
        from runctl.resources.old_checkpoints import found_at
        from runctl.safety.checkpoints import Keep

        found = found_at(objects, _now(context, where, on), Keep(1))
        shown.show_found(found, json=context.json, quiet=context.quiet)
        return
    from runctl.jobs import checkpoints

    with context.ledger() as ledger:
        record = ledger.jobs.get(where)
        place = known_jobs.place_of_job(context, context.settings(), record)
        names = checkpoints.commits(place)
        snapshots = [checkpoints.read(place, name, record.seal) for name in names]
    shown.show_snapshots(record, snapshots, json=context.json, quiet=context.quiet)


@checkpoint.command()
@_WHERE
@click.argument("name", required=False)
@click.option("--verify", is_flag=True, help="Of a job: read every byte, and prove it.")
@moving.endpoint_option
@on_cloud
@common
def info(
    context: Context, where: str, name: str | None, verify: bool, endpoint_url: str | None, on: str | None
) -> None:
    """Show what a checkpoint consists of; NAME is that of the list, or its beginning, by default the newest.

    \b
    Examples:
      runctl checkpoint info last
      runctl checkpoint info digits-7f3a2c 000012 --verify
      runctl checkpoint info runs checkpoint-500
    """
    from runctl.render import checkpoints as shown

    objects = _objects(context, where, on, endpoint_url)
    if objects is not None:
        from runctl.resources.old_checkpoints import found_at
        from runctl.safety.checkpoints import Keep

        if verify:
            raise ValidationError(
                "--verify: of a job", why="nothing else has a manifest that tells what its bytes should be"
            )
        found = found_at(objects, _now(context, where, on), Keep(1))
        found.sort(key=lambda one: one.modified)
        fit = [one for one in found if name is None or one.name.startswith(name)]
        if not fit or (len(fit) > 1 and name not in {None, *(one.name for one in fit)}):
            raise NotFound(
                f"There is no checkpoint {name or ''}", next=f"runctl checkpoint list {quoted(where)}"
            )
        exact = [one for one in fit if one.name == name]
        shown.show_one((exact or fit)[-1], json=context.json)
        return
    from runctl.jobs import checkpoints

    with context.ledger() as ledger:
        record = ledger.jobs.get(where)
        place = known_jobs.place_of_job(context, context.settings(), record)
        newest = checkpoints.newest(place, record.seal) if name is None else None
        whole = newest.name if newest else checkpoints.named(place, name or "")
        read = checkpoints.verify if verify else checkpoints.read
        shown.show_snapshot(read(place, whole, record.seal), verified=verify, json=context.json)


@checkpoint.command()
@click.argument("job", shell_complete=complete_jobs)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--from", "snapshot", metavar="NAME", help="That of an earlier snapshot instead of the newest.")
@of_user
@common
def pull(context: Context, job: str, folder: Path, snapshot: str | None, of_user: str | None) -> int:
    """Bring a job's newest complete checkpoint into DIR, every byte proven.

    What else its script wrote comes with `runctl jobs fetch`.

    \b
    Examples:
      runctl checkpoint pull last resumed
      runctl checkpoint pull digits-7f3a2c old --from 000012
    """
    from runctl.jobs import outputs
    from runctl.render import fetched as shown
    from runctl.render.transfer import following

    if job.startswith("s3://"):
        raise ValidationError(
            "A checkpoint is pulled of a job", next=f"runctl s3 download {quoted(job)} {quoted(folder)}"
        )
    with context.ledger() as ledger:
        record = known_jobs.mine(context, ledger, job, of_user, "pulled from")
        place = known_jobs.place_of_job(context, context.settings(), record)
        with following(quiet=context.quiet, json=context.json) as emit:
            found = outputs.pull(place, record, folder, name=snapshot, emit=emit)
    shown.show(context.json, found, quiet=context.quiet)
    return ExitCode.INPUT if found.left else ExitCode.SUCCESS


@checkpoint.command()
@_WHERE
@click.option(
    "--keep-last", type=click.IntRange(1), required=True, metavar="N", help="So many of each series stay."
)
@s3_cleanup.keep_more
@click.option("--dry-run", is_flag=True, help="Show what would go and what stays, and touch nothing.")
@click.option("--force", is_flag=True, help="Those of the last hour, too.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@moving.endpoint_option
@on_cloud
@of_user
@common
def cleanup(
    context: Context,
    *,
    where: str,
    keep_last: int,
    keep_every: int | None,
    keep_best: str | None,
    dry_run: bool,
    force: bool,
    yes: bool,
    endpoint_url: str | None,
    on: str | None,
    of_user: str | None,
) -> int:
    """Delete old checkpoints; the newest N complete ones of each series stay.

    One that is being written, the newest complete one, and one that a live job began from are never deleted,
    nor a file that a snapshot which stays needs; one that is younger than an hour only with --force.

    \b
    Examples:
      runctl checkpoint cleanup last --keep-last 3 --dry-run
      runctl checkpoint cleanup runs/checkpoints --keep-last 2 --keep-every 1000 --keep-best val_loss
      runctl checkpoint cleanup s3://my-bucket/runs --keep-last 1 --yes
    """
    from runctl.safety.checkpoints import Keep

    objects = _objects(context, where, on, endpoint_url)
    seal = ""
    measured: Callable[[str], Mapping[int, float]] = s3_cleanup.nothing_logged
    if objects is None:
        from runctl.jobs import logged

        with context.ledger() as ledger:
            job = known_jobs.mine(context, ledger, where, of_user, "cleaned up")
            objects = _of_job(context, ledger, job)
            attempts = len(ledger.jobs.attempts(job.id))
            place = known_jobs.place_of_job(context, context.settings(), job)
        seal = job.seal

        measured = functools.partial(logged.measured, place, job.seal, attempts)

    keep = Keep(keep_last, keep_every, keep_best)
    now = _now(context, where, on)
    return s3_cleanup.clean(
        context,
        objects,
        keep,
        lambda: now,
        dry_run=dry_run,
        force=force,
        yes=yes,
        seal=seal,
        measured=measured,
    )


def _objects(context: Context, where: str, on: str | None, endpoint_url: str | None) -> Objects | None:
    """What lies under a prefix or in a folder; None for a job."""
    if where.startswith("s3://"):
        return moving.store(moving.prefix(where), moving.access(context, on, endpoint_url))
    if "/" in where or Path(where).is_dir():
        from runctl.resources.folder_objects import FolderObjects

        return FolderObjects(Path(where))
    return None


def _of_job(context: Context, ledger: Ledger, job: JobRecord) -> Objects:
    """All that the bucket has of a job."""
    from runctl.resources.reaching import job_access
    from runctl.storage.bulk import BulkStore

    if job.folder is not None:
        raise ValidationError(
            f"Job {job.id} keeps its newest snapshots by itself",
            why="it ran here; what its script saved lies in its folder",
            next=f"runctl checkpoint cleanup {quoted(Path(job.folder) / 'checkpoints')} --keep-last N",
        )
    place = known_jobs.place_of_job(context, context.settings(), ledger.jobs.get(job.id))
    assert place.session is not None  # noqa: S101 (it is in a cloud)
    assert place.bucket is not None  # noqa: S101 (it is in a cloud)
    return BulkStore(place.bucket, place.prefix, job_access(place.session))


def _now(context: Context, where: str, on: str | None) -> datetime:
    """The time of those files: the cloud's, or this computer's."""
    if where.startswith("s3://"):
        return s3_cleanup.now_of(context, on)
    if "/" in where or Path(where).is_dir():
        return datetime.now(UTC)
    with context.ledger() as ledger:
        record = ledger.jobs.get(where)
        if record.cloud == "local":
            return datetime.now(UTC)
        return known_jobs.place_of_job(context, context.settings(), record).clock.now()
