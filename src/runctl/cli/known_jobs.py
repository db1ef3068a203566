"""A job that exists already: whose it is, where it is, and how it stands now."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runctl.events import ignore
from runctl.quoting import quoted

if TYPE_CHECKING:
    from runctl.cli.options import Context
    from runctl.clouds import Cloud
    from runctl.config import Settings
    from runctl.jobs.place import Place
    from runctl.ledger import JobRecord, Ledger


def mine(context: Context, ledger: Ledger, job: str, of_user: str | None, verb: str) -> JobRecord:
    """A job that may be acted on. Raises Protected for one of somebody else that was not named as theirs."""
    from runctl.cli.options import user_name
    from runctl.jobs import adopted

    record = ledger.jobs.get(job)
    adopted.require_mine(record, user=user_name(context.settings()), of_user=of_user, verb=verb)
    return record


def place_of_job(context: Context, settings: Settings, job: JobRecord) -> Place:
    """The place of a job that exists. Raises ConfigError where its sandbox is gone."""
    from runctl import clouds
    from runctl.cli import running
    from runctl.errors import ConfigError
    from runctl.jobs.place import cloud_place, local_place
    from runctl.jobs.spec import decode
    from runctl.storage.location import S3Location, parse

    if job.folder is not None:
        return local_place(Path(job.folder))
    store = parse(job.store)
    assert isinstance(store, S3Location)  # noqa: S101 (remote jobs live in buckets)
    if why := clouds.ended(job.cloud):
        raise ConfigError(
            f"The sandbox of job {job.id} is gone, with its machines, log and checkpoints",
            why=why,
            next=f"begin anew: {anew(job)}",
        )
    cloud = context.cloud("sandbox" if job.cloud.startswith("sandbox") else "aws", settings)
    if cloud.name == "aws":
        import msgspec

        cloud = msgspec.structs.replace(cloud, region=_region_of(cloud, job, store.bucket))
    return cloud_place(
        cloud,
        job.id,
        decode(job.spec),
        running.aws_settings(settings),
        bucket=store.bucket,
        emit=running.follower(context),
    )


def _region_of(cloud: Cloud, job: JobRecord, bucket: str) -> str:
    """Where a job is, whatever today's settings say: where its bucket is.

    Raises ConfigError for the bucket of another account.
    """
    from runctl.errors import CloudError, ConfigError, NotFound
    from runctl.providers.aws.session import Session

    session = Session(cloud)
    try:
        return session.bucket_region(bucket, owner=session.account())
    except (CloudError, NotFound) as error:
        if isinstance(error, CloudError) and error.code not in {"403", "AccessDenied"}:
            raise
        raise ConfigError(
            f"Job {job.id} is not of this account: {session.account()}",
            why=f"its bucket {bucket} is another's, or is gone",
            next="--profile NAME, of the account that it was started with",
        ) from error


def refreshed(context: Context, ledger: Ledger, job: JobRecord) -> JobRecord:
    """A job as it stands now, where a look costs nothing: here, and in a sandbox that is up."""
    near = job.cloud == "local" or job.cloud.startswith("sandbox")
    if job.state.final or not near:
        return job  # before anything is loaded: most jobs of a list are over
    from runctl.errors import ConfigError
    from runctl.jobs.supervise import Supervisor, is_supervised

    if is_supervised(ledger, job.id):
        return job
    with contextlib.suppress(ConfigError):  # its sandbox ended just now: the next command closes it
        place = place_of_job(context, context.settings(), job)
        return Supervisor(ledger, place, job.id, ignore, log_from_start=False).look_once()
    return job


def mention_neglected(ledger: Ledger, jobs: Sequence[JobRecord]) -> None:
    """The command that goes on with each job that nobody takes care of."""
    at_work = [job for job in jobs if not job.state.final]
    if not at_work:
        return
    from runctl.jobs.supervise import is_supervised
    from runctl.render import figures, output

    for job in at_work:
        if not is_supervised(ledger, job.id):
            known = f"{job.id} was {job.state} at {figures.moment(job.updated)} UTC"
            output.talk(f"{known}, and nobody waits for it; next: runctl jobs wait {quoted(job.id)}")


def anew(job: JobRecord) -> str:
    """The commands that begin a job again whose sandbox is gone."""
    from runctl.clouds import read_sandbox_record
    from runctl.errors import ConfigError
    from runctl.jobs.spec import again, decode

    spec = decode(job.spec)
    folder = Path(os.path.normpath(Path(spec.root, spec.workdir)))
    steps = [] if folder == Path.cwd() else [shlex.join(["cd", str(folder)])]
    try:
        read_sandbox_record()
    except ConfigError:
        steps.append("runctl sandbox up")
    return " && ".join([*steps, again(spec)])
