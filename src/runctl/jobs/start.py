"""Making a job: its row, its folder or its prefix, its code sent. The first attempt is the supervisor's."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runctl.clouds import Cloud
from runctl.errors import BudgetExceeded, Conflict, NotFound, TrainctlError, ValidationError
from runctl.events import Emit, Progress, ignore
from runctl.jobs import folders, limits, state, steps
from runctl.jobs import spec as specs
from runctl.jobs.code import send_code, send_uv
from runctl.jobs.place import AwsSettings, Place, cloud_place, local_place
from runctl.jobs.plan import Plan, make_plan, with_python
from runctl.jobs.script import Script
from runctl.jobs.spec import JobSpec
from runctl.ledger import JobRecord, Ledger
from runctl.links import refuse_brought
from runctl.model import JobId, JobState
from runctl.quoting import quoted
from runctl.storage.location import LocalPath, S3Location, parse

if TYPE_CHECKING:
    from runctl.storage.bundle import BundlePlan


def place_of(
    job: JobId,
    spec: JobSpec,
    settings: AwsSettings,
    cloud: Callable[[], Cloud],
    *,
    bucket: str | None = None,
    emit: Emit = ignore,
) -> Place:
    """The place that a spec names. Raises ConfigError where its cloud cannot be used."""
    if spec.is_local:
        return local_place(folders.job_folder(Path(spec.root), job))
    return cloud_place(cloud(), job, spec, settings, bucket=bucket, emit=emit)


def prepare(
    job: JobId, spec: JobSpec, place: Place, script: Script, *, emit: Emit = ignore
) -> tuple[Plan, BundlePlan | None]:
    """The plan of a new job, with the code that it would send."""
    check_data(spec)
    folders.check(spec)
    code = None
    if place.session is not None:
        from runctl.storage import bundle

        code = bundle.plan(script.root)
    plan = make_plan(
        job,
        spec,
        place,
        code_files=len(code.files) if code else 0,
        code_bytes=code.total_bytes if code else 0,
        emit=emit,
    )
    return with_python(plan, place, emit=emit), code


def check_data(spec: JobSpec) -> None:
    """Local data must be there before anything is spent. Raises ValidationError, HoldsSecrets, NotFound."""
    if spec.data is None:
        return
    location = parse(spec.data)
    if isinstance(location, LocalPath):
        refuse_brought(location.path, root=Path(spec.root), reading=True)
    if isinstance(location, LocalPath) and not location.path.exists():
        raise NotFound(f"There is no data at {spec.data}", next="check --data")
    if isinstance(location, LocalPath) and not spec.is_local and location.path.is_dir():
        from runctl.storage.secret_files.refusals import require_none_in_data

        require_none_in_data(location.path)


def create(
    ledger: Ledger, plan: Plan, place: Place, code: BundlePlan | None, *, emit: Emit = ignore
) -> JobRecord:
    """Write the job into the ledger as planned, then bring its code and data to the store.

    In this order: nothing lies in a bucket that no ledger knows of, and who dies in between leaves a job
    that the next `jobs wait` stages and carries on.
    """
    spec, now = plan.spec, place.clock.now()
    folder = None if place.session else str(folders.job_folder(Path(spec.root), plan.job))
    record = JobRecord(
        id=plan.job,
        name=spec.name,
        spec=specs.encode(spec),
        state=JobState.PLANNED,
        target=spec.on,
        cloud=place.cloud_key,
        folder=folder,
        store=f"s3://{place.bucket}/{place.prefix}" if place.session else str(folder),
        project=spec.project,
        user=spec.user,
        created=now,
        updated=now,
        seal=secrets.token_hex(32) if place.session else "",
    )
    ledger.jobs.add(record, "asked for")
    try:
        stage(ledger, place, record, code=code, emit=emit)
    except TrainctlError as error:
        _give_up(ledger, place, record, JobState.FAILED, str(error))
        raise
    except KeyboardInterrupt:
        _give_up(ledger, place, record, JobState.STOPPED, "stopped before anything was launched")
        raise
    return ledger.jobs.get(record.id)


def stage(
    ledger: Ledger, place: Place, job: JobRecord, *, code: BundlePlan | None = None, emit: Emit = ignore
) -> None:
    """Bring a job's code and data to its store where they are not there yet; repeating it is harmless.

    That all is there stands in the ledger, with the digest of the code: nothing in the store is asked.
    Raises NotFound where the code was never sent and does not lie here (any more).
    """
    if job.folder is not None:
        folders.make(Path(job.folder))
        return
    spec = specs.decode(job.spec)
    if spec.code is not None and (spec.data is None or isinstance(parse(spec.data), S3Location)):
        return
    from runctl.storage import bundle

    # Without a root, the code of an adopted job that nobody named is not that of the folder we stand in.
    if spec.code is None and not (spec.root and Path(spec.root).is_dir()):
        raise NotFound(
            f"The code of job {job.id} was not sent", why=f"{spec.root} is not here", next="runctl train"
        )
    sent = spec.code or send_code(place, code or bundle.plan(Path(spec.root)), emit)
    spec = send_uv(place, spec)
    spec = msgspec.structs.replace(_with_data_in_store(place, spec, emit), code=sent)
    place.store.write("spec.json", specs.encode(spec))  # for whoever has to adopt the job: we never read it
    ledger.jobs.replace_spec(job.id, specs.encode(spec))


def _give_up(ledger: Ledger, place: Place, job: JobRecord, to: JobState, cause: str) -> None:
    with contextlib.suppress(Conflict):  # another process took it up: it is that one's now
        ledger.jobs.transition(
            job.id, to, allowed_from={JobState.PLANNED}, at=place.clock.now(), attempt=0, cause=cause
        )


def resumed(
    ledger: Ledger,
    job: JobRecord,
    *,
    now: datetime,
    resume_from: str | None,
    budget: Decimal | None = None,
    max_hours: float | None = None,
) -> JobSpec:
    """The spec with which a job goes on that ended short of success; new limits are over all its attempts.

    Raises ValidationError for one that did not, BudgetExceeded where its limits leave nothing.
    """
    if job.state is JobState.SUCCEEDED or not job.state.final:
        raise ValidationError(
            f"Job {job.id} is {job.state}",
            why="only a job that failed, was stopped or ran over its budget can be resumed",
            next=f"runctl jobs wait {quoted(job.id)}",
        )
    before = specs.decode(job.spec)
    folders.check(before)
    attempts = ledger.jobs.attempts(job.id)
    spec = specs.check(
        msgspec.structs.replace(
            before,
            resume_from=resume_from,
            resume_since=len(attempts) + 1 if resume_from else 0,
            stop_asked=False,
            not_from=(),
            # A new request of the user is worth as many attempts as the first one.
            max_attempts=steps.used(attempts, before.not_from) + before.max_attempts,
            budget=before.budget if budget is None else budget,
            max_hours=before.max_hours if max_hours is None else max_hours,
        )
    )
    limit = limits.not_raised(ledger, job.id, before, spec) or limits.reached(ledger, job.id, spec, now)
    if limit is not None:
        raise BudgetExceeded(
            f"Job {job.id} has nothing left to go on with",
            why=limit.cause,
            next=f"runctl jobs resume {quoted(job.id)} {limit.option}",
        )
    return spec


def reopen(ledger: Ledger, job: JobRecord, spec: JobSpec, *, now: datetime, cause: str) -> None:
    """Take up a job again with what `resumed` answered. Raises Conflict where another process did."""
    ledger.jobs.replace_spec(job.id, specs.encode(spec))
    ledger.jobs.transition(
        job.id,
        JobState.RECOVERING,
        allowed_from=state.may_come_from(JobState.RECOVERING) & {job.state},
        at=now,
        attempt=len(ledger.jobs.attempts(job.id)),
        cause=cause,
    )


def _with_data_in_store(place: Place, spec: JobSpec, emit: Emit) -> JobSpec:
    """Local data of a remote job goes to its prefix; the machine reads it from there."""
    if spec.data is None or isinstance(location := parse(spec.data), S3Location):
        return spec
    assert isinstance(location, LocalPath)  # noqa: S101 (`check` refused instances)
    from runctl.storage.store import upload_folder

    task = "sending the data"
    if location.path.is_dir():
        root = Path(spec.root) if spec.root else None
        upload_folder(
            location.path,
            place.store,
            "data/",
            task=task,
            emit=emit,
            follows=lambda link: refuse_brought(link, root=root, reading=True),
        )
    else:
        size = location.path.stat().st_size
        emit(Progress(task=task, done=0, total=size, unit="B"))
        place.store.upload(location.path, f"data/{location.path.name}")
        emit(Progress(task=task, done=size, total=size, unit="B"))
    return msgspec.structs.replace(spec, data=f"s3://{place.bucket}/{place.prefix}/data/")
