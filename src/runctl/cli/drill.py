"""`runctl drill`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from runctl.cli import running
from runctl.cli.options import Context, common, user_name
from runctl.errors import JobFailed, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from runctl.events import Event
    from runctl.jobs.drill import DrillReport, Run
    from runctl.ledger import Ledger


@click.command()
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--on", type=click.Choice(["local", "sandbox"]), default="local", show_default=True)
@click.option("--instance-type", default="g5.xlarge", show_default=True, help="On the sandbox.")
@click.option("--notice", type=float, default=120.0, show_default=True, help="Seconds from notice to end.")
@click.option("--checkpoints", help="The script's checkpoint folder, if it is not RUNCTL_CHECKPOINT_DIR.")
@click.option("--resume-arg", help="A flag that is given the checkpoint's path on resumed attempts.")
@click.option("--seed", type=int, help="Interrupt at the same moment again.")
@click.option("--most-steps-lost", type=int, help="Fail when more steps are lost.")
@common
def drill(context: Context, script: str, arguments: tuple[str, ...], **options: object) -> int:
    """Interrupt a run with a spot notice, resume it, and report what it cost.

    The script is run twice, on copies of its project: once in peace, once with a notice at a random
    moment. The exit code is 0 when it survives with the same result, so that it can stand in your CI.

    \b
    Examples:
      runctl drill train.py -- --epochs 100
      runctl drill train.py --on sandbox --most-steps-lost 0 -- --epochs 100
    """
    from runctl.ledger import Ledger

    settings = context.settings()
    request = running.Request(
        script=script,
        arguments=arguments,
        on=str(options["on"]),
        instance_type=str(options["instance_type"]) if options["on"] == "sandbox" else None,
        gpus=None,
        spot=options["on"] == "sandbox",
        fallback=False,
        data=None,
        output=None,
        checkpoints=_text(options["checkpoints"]),
        resume_arg=_text(options["resume_arg"]),
        max_attempts=5,
        budget=None,
        max_hours=None,
        name=f"drill-{Path(script).stem}",
        detach=False,
        keep=False,
        dry_run=False,
        project=settings.values.project,
        user=user_name(settings),
        cwd=Path.cwd(),
    )
    emit = running.follower(msgspec.structs.replace(context, quiet=True) if context.json else context)
    with tempfile.TemporaryDirectory(prefix="runctl-drill-") as folder, Ledger.open(Path(folder)) as ledger:
        found = _drill(context, ledger, request, Path(folder), options, emit)
    _show(context, found)
    return _verdict(found, options["most_steps_lost"])


def _drill(
    context: Context,
    ledger: Ledger,
    request: running.Request,
    folder: Path,
    options: dict[str, object],
    emit: Callable[[Event], None],
) -> DrillReport:
    from runctl.jobs import drill as drills

    runs = [prepare(context, ledger, request, folder / name, emit) for name in ("peaceful", "disturbed")]
    seed = options["seed"] if isinstance(options["seed"], int) else None
    notice = float(str(options["notice"]))
    os.environ["RUNCTL_DRILL"] = "1"
    if request.on == "sandbox":
        from runctl.cli.sandbox import SandboxNotice

        return drills.drill(ledger, runs[0], runs[1], SandboxNotice(notice), seed=seed, emit=emit)
    service = drills.LocalNotice(notice)
    os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = service.endpoint
    try:
        return drills.drill(ledger, runs[0], runs[1], service, seed=seed, emit=emit)
    finally:
        service.close()


def prepare(
    context: Context,
    ledger: Ledger,
    request: running.Request,
    folder: Path,
    emit: Callable[[Event], None],
) -> Run:
    """A job on a copy of the project, so that the user's own checkpoints are never met."""
    import tarfile

    from runctl.jobs import start
    from runctl.jobs.drill import Run
    from runctl.jobs.outputs import fetch
    from runctl.jobs.script import inspect
    from runctl.jobs.spec import new_job_id
    from runctl.storage import bundle

    original = inspect(request.script, request.arguments, cwd=request.cwd)
    copy = folder / "project"
    copy.mkdir(parents=True)
    archive = folder / "code.tar.gz"
    bundle.write(bundle.plan(original.root), archive)
    with tarfile.open(archive) as tar:
        tar.extractall(copy, filter="data")
    (copy / ".runctl.toml").touch()  # marks the copy as a project of its own
    moved = msgspec.structs.replace(
        request,
        script=str(copy / (request.cwd / (request.script or "")).resolve().relative_to(original.root)),
        cwd=copy / original.workdir_in_root,
    )
    spec, script = running.to_spec(moved)
    settings = context.settings()
    job_id = new_job_id(spec.name)
    place = start.place_of(
        job_id, spec, running.aws_settings(settings), lambda: context.cloud("sandbox", settings), emit=emit
    )
    plan, code = start.prepare(job_id, spec, place, script, emit=emit)
    job = start.create(ledger, plan, place, code, emit=emit)

    def outputs() -> Path:
        if job.folder is not None:
            return Path(job.folder) / "outputs"
        target = folder / "outputs"
        shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(NotFound):  # its script wrote nothing
            fetch(place, spec, job, target, trees=("outputs",))
        return target

    return Run(place, job, outputs)


def _show(context: Context, found: DrillReport) -> None:
    from runctl.render import figures, output

    if context.json:
        output.write_json({"drill": found, "survived": found.survived})
        return
    write = output.write_line
    write("")
    write(f"drill               {'survived' if found.survived else 'NOT survived'}: the job {found.state}")
    write(f"in peace            {found.peaceful_seconds:.1f} s")
    if not found.interrupted:
        write("interruption        none")
        return
    at = f" at step {found.noticed_at_step}" if found.noticed_at_step is not None else ""
    write(f"notice              after {found.noticed_after_seconds or 0:.1f} s{at}")
    safety = "no checkpoint was committed"
    if found.seconds_to_safety is not None:
        safety = f"{found.seconds_to_safety:.1f} s from the notice to a committed checkpoint"
    write(f"safety              {safety}")
    write(f"steps lost          {figures.number(found.steps_lost)}")
    result = {True: "the same as in peace", False: "DIFFERENT", None: "no output files to compare"}
    write(f"result              {result[found.same_result]}")
    for name in found.different_files[:5]:
        write(f"                    differs: {name}")


def _verdict(found: DrillReport, most: object) -> int:
    short = found.shortcoming
    if short is not None:
        raise JobFailed(short.what, why=short.why, next=short.next)
    if isinstance(most, int) and (found.steps_lost is None or found.steps_lost > most):
        raise JobFailed(
            f"The interruption cost {found.steps_lost if found.steps_lost is not None else 'unknown'} steps",
            why=f"--most-steps-lost is {most}",
            next="save on SIGTERM: see examples/digits/train.py",
        )
    return 0


def _text(value: object) -> str | None:
    return None if value is None else str(value)
