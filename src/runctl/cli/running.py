"""What `train`, `jobs wait` and their kin share: from a request to a job that is followed to its end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from runctl.cli import known_jobs
from runctl.cli.options import Context
from runctl.config import Settings
from runctl.errors import BudgetExceeded, CloudError, Interrupted, JobFailed, TrainctlError, ValidationError
from runctl.events import Event, ignore
from runctl.model import JobId, JobState
from runctl.quoting import quoted

if TYPE_CHECKING:
    from datetime import datetime

    from runctl.clouds import Cloud
    from runctl.jobs.control import StopPlan
    from runctl.jobs.place import AwsSettings, Place
    from runctl.jobs.plan import Plan
    from runctl.jobs.script import Script
    from runctl.jobs.spec import DataVolume, JobSpec
    from runctl.ledger import JobRecord, Ledger


class Request(msgspec.Struct, frozen=True):
    """Everything that a call of `train` said, over the settings."""

    script: str | None
    arguments: tuple[str, ...]
    on: str
    instance_type: str | None
    gpus: int | None
    spot: bool
    fallback: bool
    data: str | None
    output: str | None
    checkpoints: str | None
    resume_arg: str | None
    max_attempts: int
    budget: Decimal | None
    max_hours: float | None
    name: str | None
    detach: bool
    keep: bool
    dry_run: bool
    project: str | None
    user: str
    cwd: Path
    data_strategy: str = "auto"
    data_volume: str | None = None
    checkpoint_pattern: str | None = None
    keep_written: int | None = None
    keep_last: int | None = None
    keep_every: int | None = None
    keep_best: str | None = None


def money(text: str) -> Decimal:
    """Raises ValidationError for what is no amount."""
    try:
        amount = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        raise ValidationError(f"{text!r} is no amount of USD", next="such as --budget 20") from None
    if not amount.is_finite():
        raise ValidationError(f"{text!r} is no amount of USD", next="such as --budget 20")
    return amount


def train(
    context: Context, settings: Settings, request: Request, *, emit: Callable[[Event], None] | None = None
) -> int:
    """Plan, create and follow a job; answers the exit code."""
    from runctl.jobs import start
    from runctl.jobs.spec import new_job_id

    spec, script = to_spec(request)
    job_id = new_job_id(spec.name)
    emit = emit or follower(context)
    place = start.place_of(
        job_id,
        spec,
        aws_settings(settings),
        lambda: cloud_of(context, settings, spec),
        emit=emit,
    )
    plan, code = start.prepare(job_id, spec, place, script, emit=emit)
    if not spec.is_local:
        from runctl.jobs import retention

        with context.ledger() as ledger:
            plan = msgspec.structs.replace(plan, before=retention.before(ledger, place, plan.spec))
    if request.dry_run or not spec.is_local:
        show_plan(context, plan, settings, as_data=request.dry_run)
    if request.dry_run:
        return 0
    with context.ledger() as ledger:
        job = start.create(ledger, plan, place, code, emit=emit)
        tell_id(context, job.id, detach=request.detach)
        return follow(context, ledger, place, job, emit, detach=request.detach)


def tell_id(context: Context, job: JobId, *, detach: bool) -> None:
    """The id alone, for shells to capture; with JSON it is part of what is told anyway."""
    if not context.json and (context.quiet or detach):
        from runctl.render import output

        output.write_line(job)


def summary(job: JobRecord) -> dict[str, object]:
    """A job as the ledger knows it, for JSON."""
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "on": job.target,
        "created": job.created,
        "store": job.store,
        "user": job.user,
        "adopted": job.adopted_at,
    }


def cloud_of(context: Context, settings: Settings, spec: JobSpec) -> Cloud:
    """The cloud that a spec names; an instance is looked for in the sandbox first, where one is up."""
    if spec.instance is None:
        return context.cloud(spec.on, settings)
    from runctl.errors import ConfigError
    from runctl.providers.aws import instances
    from runctl.providers.aws.session import Session

    try:
        sandbox = context.cloud("sandbox", settings)
    except ConfigError:
        return context.cloud("aws", settings)
    known = instances.describe(Session(sandbox), spec.instance) is not None
    return sandbox if known else context.cloud("aws", settings)


def to_spec(request: Request) -> tuple[JobSpec, Script]:
    """The job's spec and its script. Raises ValidationError for what cannot be run."""
    from runctl.jobs.script import inspect
    from runctl.jobs.spec import KEEP_WRITTEN, JobSpec, PythonSpec, check

    script = inspect(request.script, request.arguments, cwd=request.cwd)
    checkpoints = request.checkpoints
    spec = JobSpec(
        name=request.name or Path(request.script or script.command[0]).stem,
        on=request.on,
        root=str(script.root),
        workdir=script.workdir_in_root,
        command=script.command,
        python=PythonSpec(
            kind=script.python.kind,
            requirements=tuple(script.python.requirements),
            requires_python=script.python.requires_python,
            digest=script.python.digest,
        ),
        instance_type=request.instance_type,
        gpus=request.gpus,
        spot=request.spot,
        fallback=request.fallback,
        data=absolute(request.data, request.cwd),
        data_strategy=request.data_strategy if request.data else "",
        data_volumes=_volume(request),
        output=absolute(request.output, request.cwd),
        checkpoints=checkpoints,
        checkpoint_pattern=request.checkpoint_pattern,
        keep_written=KEEP_WRITTEN if request.keep_written is None else request.keep_written,
        keep_last=request.keep_last,
        keep_every=request.keep_every,
        keep_best=request.keep_best,
        resume_arg=request.resume_arg,
        max_attempts=request.max_attempts,
        budget=request.budget,
        max_hours=request.max_hours,
        keep=request.keep,
        project=request.project or script.root.name,
        user=request.user,
    )
    return check(spec), script


def _volume(request: Request) -> tuple[DataVolume, ...]:
    """The volume that the user named; the plan finds its zone."""
    from runctl.jobs.spec import DataVolume

    if request.data is None and request.data_strategy != "auto":
        raise ValidationError("Which data is to be read so?", next="--data s3://BUCKET/PREFIX")
    if request.data_volume is None:
        return ()
    if request.data is None:
        raise ValidationError(
            "Which data is on the volume?",
            next=f"--data s3://BUCKET/PREFIX --data-volume {quoted(request.data_volume)}",
        )
    return (DataVolume(id=request.data_volume, zone=""),)


def follow(
    context: Context,
    ledger: Ledger,
    place: Place,
    job: JobRecord,
    emit: Callable[[Event], None],
    *,
    detach: bool = False,
    log_from_start: bool = True,
) -> int:
    """Supervise or follow a job to its end, and report; answers the exit code."""
    from runctl.jobs.supervise import Supervisor

    supervisor = Supervisor(ledger, place, job.id, emit, log_from_start=log_from_start)
    try:
        final = supervisor.run(detach_after_launch=detach)
    except KeyboardInterrupt:
        raise _interrupted(ledger, place, job) from None
    if not final.state.final:
        if context.json:
            from runctl.render import output

            output.write_json({"job": summary(final)})
        return 0
    return conclude(context, ledger, place, final, emit)


def conclude(
    context: Context, ledger: Ledger, place: Place, job: JobRecord, emit: Callable[[Event], None]
) -> int:
    """Bring outputs home, show the report, and answer the exit code of a job that has ended."""
    from runctl.jobs import outputs
    from runctl.jobs.spec import decode

    if job.state is JobState.SUCCEEDED:
        outputs.deliver(place, decode(job.spec), job, emit=emit)
    return show_end(context, ledger, job, job.updated if place.ended else place.clock.now())


def show_end(context: Context, ledger: Ledger, job: JobRecord, now: datetime) -> int:
    """Show the report, and answer the exit code of a job that has ended."""
    from runctl.jobs.report import report
    from runctl.jobs.spec import decode

    spec = decode(job.spec)
    found = report(ledger, job, now)
    if context.json:
        from runctl.render import output

        output.write_json({"report": found})
    elif not context.quiet:
        from runctl.render.job import show_report

        show_report(found, brief=spec.is_local and not found.interruptions)
    if job.state is JobState.SUCCEEDED:
        return 0
    raise _failure(ledger, job, found.cause, now)


def follower(context: Context) -> Callable[[Event], None]:
    from runctl.render.follow import JsonFollower, TextFollower

    return JsonFollower() if context.json else TextFollower(quiet=context.quiet)


def show_plan(context: Context, plan: Plan, settings: Settings, *, as_data: bool) -> None:
    """What will be done, and which settings of the project's file had their say in it."""
    from runctl.cli import trusting

    if context.json:
        from runctl.render import output

        if as_data:
            output.write_json({"plan": plan, "from_project": trusting.origins(settings)})
        return
    if not context.quiet:
        from runctl.render.job import show_plan as show

        show(plan)
        trusting.show_origins(settings)


def show_resumption(context: Context, place: Place, job: JobRecord, spec: JobSpec) -> int:
    """From where and on what a job would go on; the exit code."""
    from runctl.jobs import checkpoints
    from runctl.jobs.plan import make_plan
    from runctl.render import output

    plan = make_plan(job.id, spec, place, emit=follower(context))
    newest = checkpoints.newest(place, job.seal) if spec.resume_from is None else None
    accepted = spec.accepted.name if spec.accepted else None
    start = spec.resume_from or (newest.name if newest and (newest.ours or newest.name == accepted) else None)
    if context.json:
        output.write_json({"plan": plan, "resume_from": start})
    else:
        show_plan(context, plan, context.settings(), as_data=True)
        output.talk(f"  resume    from {start or 'the beginning: no checkpoint was committed'}")
        if job.adopted_at is not None:
            from runctl.render.adopted import show_claims

            show_claims(job, spec)
    return 0


def show_stop_plan(context: Context, plan: StopPlan) -> None:
    from runctl.render import output

    if context.json:
        output.write_json({"stop": plan})
    else:
        output.talk(f"job {plan.job} is {plan.state}: {plan.what}")


def aws_settings(settings: Settings) -> AwsSettings:
    from runctl.jobs.place import AwsSettings

    aws = settings.values.aws
    return AwsSettings(
        bucket=aws.bucket,
        instance_profile=aws.instance_profile,
        subnets=aws.subnets,
        security_group=aws.security_group,
        image=aws.image,
        root_volume_gib=aws.root_volume_gib,
        lease_minutes=aws.lease_minutes,
        warn_instances=settings.values.protection.warn_instances,
        refuse_instances=settings.values.protection.refuse_instances,
    )


def absolute(location: str | None, cwd: Path) -> str | None:
    """Local paths as they stand here; S3's as they are."""
    from runctl.storage.location import LocalPath, parse

    if location is None:
        return None
    found = parse(location)
    return str(Path(os.path.normpath(cwd / found.path))) if isinstance(found, LocalPath) else location


def _interrupted(ledger: Ledger, place: Place, job: JobRecord) -> TrainctlError:
    """Ctrl-C: a local job is saved and stopped, a remote one goes on without us."""
    from runctl.jobs import control
    from runctl.jobs.supervise import Supervisor

    now = ledger.jobs.get(job.id)
    advice = f"runctl jobs wait {quoted(job.id)}, or runctl jobs stop {quoted(job.id)}"
    if now.state.final:
        return Interrupted(f"Job {job.id} is {now.state}", next=f"runctl jobs resume {quoted(job.id)}")
    if place.session is None:
        with contextlib.suppress(ValidationError):  # it has just ended
            control.stop(ledger, place, job.id)
        final = Supervisor(ledger, place, job.id, ignore).run()
        return Interrupted(
            f"Job {job.id} is {final.state}; its work is kept",
            next=f"runctl jobs resume {quoted(job.id)}",
        )
    if control.machine_of(ledger, now) or control.is_launching(ledger, job.id):
        return Interrupted(
            f"Job {job.id} goes on without this command",
            why="its machine needs nobody; after an interruption, somebody must wait for it again",
            next=advice,
        )
    return Interrupted(
        f"Job {job.id} is {now.state} and has no machine",
        why="it costs nothing, and gets one only while somebody waits for it",
        next=advice,
    )


def _failure(ledger: Ledger, job: JobRecord, cause: str, now: datetime) -> TrainctlError:
    from runctl import clouds
    from runctl.jobs import limits
    from runctl.jobs.spec import decode

    if clouds.ended(job.cloud):
        return CloudError(
            f"Job {job.id} ended with its sandbox",
            service="sandbox",
            operation="train",
            code=clouds.SANDBOX_ENDED,
            why=cause,
            next=f"begin anew: {known_jobs.anew(job)}",
        )
    attempts = ledger.jobs.attempts(job.id)
    code = attempts[-1].exit_code if attempts else None
    if job.state is JobState.OVER_BUDGET:
        spec = decode(job.spec)
        limit = limits.not_raised(ledger, job.id, spec, spec) or limits.reached(ledger, job.id, spec, now)
        return BudgetExceeded(
            f"Job {job.id} was saved and ended: {cause}",
            next=f"runctl jobs resume {quoted(job.id)} {limit.option if limit else ''}".rstrip(),
        )
    if job.state is JobState.STOPPED:
        return Interrupted(
            f"Job {job.id} was stopped", why=cause, next=f"runctl jobs resume {quoted(job.id)}"
        )
    return JobFailed(
        f"Job {job.id} failed",
        script_exit_code=code,
        why=cause,
        next=f"runctl jobs logs {quoted(job.id)}",
    )
