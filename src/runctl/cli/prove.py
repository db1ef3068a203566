"""`runctl prove`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runctl.cli import running
from runctl.cli.drill import prepare
from runctl.cli.options import Context, common, user_name
from runctl.errors import JobFailed, ValidationError

if TYPE_CHECKING:
    from runctl.jobs.drill import Run
    from runctl.jobs.prove import Proof, Wanted
    from runctl.ledger import Ledger

_PARTS = (0.35, 0.62, 0.9, 0.2, 0.75, 0.5)
"""Of the straight run: early, after the middle and late, where names such as ckpt_9 and ckpt_10 meet."""


@click.command()
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--cuts", type=click.IntRange(1, len(_PARTS)), default=3, show_default=True, help="How many.")
@click.option("--at", type=float, multiple=True, metavar="STEP", help="Cut at this step; may be given again.")
@click.option("--notice", type=float, default=15.0, show_default=True, help="Seconds from notice to end.")
@click.option("--checkpoints", help="The script's checkpoint folder, if it is not RUNCTL_CHECKPOINT_DIR.")
@click.option("--resume-arg", help="A flag that is given the checkpoint's path on resumed attempts.")
@click.option("--max-hours", type=float, default=1.0, show_default=True, help="The most for one run.")
@click.option("--keep", is_flag=True, help="Leave the folders of all runs where they are, and say where.")
@common
def prove(context: Context, script: str, arguments: tuple[str, ...], **options: object) -> int:
    """Find out whether an interruption changes what a script does, and what is to blame.

    The script runs on copies of its project: twice straight, then once for each cut. Cuts are notices with
    SIGTERM and plain kills; one comes in the middle of a save, if saves take long enough to be hit. What it
    prints by step (losses, rates, ids of samples) and what it leaves is compared with the straight runs.

    The exit code is 0 when nothing of its work was lost or changed, so that it can stand in your CI.

    \b
    Examples:
      runctl prove train.py
      runctl prove train.py --at 55 --at 120 -- --epochs 3
      runctl prove train.py --checkpoints ckpt --output json
    """
    from runctl.ledger import Ledger

    folder = Path(tempfile.mkdtemp(prefix="runctl-prove-"))
    try:
        with Ledger.open(folder) as ledger:
            found = _prove(context, ledger, folder, script, arguments, options)
    finally:
        if not options["keep"]:
            shutil.rmtree(folder, ignore_errors=True)
    from runctl.render import proof

    proof.show(found, json=context.json, quiet=context.quiet, folder=str(folder) if options["keep"] else None)
    return _verdict(found)


def _prove(
    context: Context,
    ledger: Ledger,
    folder: Path,
    script: str,
    arguments: tuple[str, ...],
    options: dict[str, object],
) -> Proof:
    from runctl.events import ignore
    from runctl.jobs import prove as proving
    from runctl.jobs.drill import LocalNotice
    from runctl.jobs.script import inspect
    from runctl.proving.judgement import source_of
    from runctl.render import output

    settings = context.settings()
    request = running.Request(
        script=script,
        arguments=arguments,
        on="local",
        instance_type=None,
        gpus=None,
        spot=False,
        fallback=False,
        data=None,
        output=None,
        checkpoints=_text(options["checkpoints"]),
        resume_arg=_text(options["resume_arg"]),
        max_attempts=2,
        budget=None,
        max_hours=float(str(options["max_hours"])),
        name=f"prove-{Path(script).stem}",
        detach=False,
        keep=False,
        dry_run=False,
        project=settings.values.project,
        user=user_name(settings),
        cwd=Path.cwd(),
    )
    inspect(script, arguments, cwd=request.cwd)  # raises what is wrong with it before anything runs
    text = _source(request)
    emit = ignore

    def told(line: str) -> None:
        if not context.quiet and not context.json:
            output.talk(f"[prove] {line}")

    os.environ["RUNCTL_DRILL"] = "1"
    service = LocalNotice(float(str(options["notice"])))
    os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = service.endpoint

    def made(name: str) -> Run:
        return prepare(context, ledger, request, folder / name, ignore)

    try:
        return proving.prove(ledger, made, service, _wanted(options), source_of(text), emit=emit, told=told)
    finally:
        service.close()


def _wanted(options: dict[str, object]) -> list[Wanted]:
    """Notices and kills in turn."""
    from runctl.jobs.prove import LOST, NOTICE, Wanted

    kinds = (NOTICE, LOST)
    at = options["at"]
    if isinstance(at, tuple) and at:
        return [Wanted(kind, 0.5, float(str(step))) for step in at for kind in kinds]
    count = int(str(options["cuts"]))
    return [Wanted((NOTICE, LOST, LOST)[number % 3], part) for number, part in enumerate(_PARTS[:count])]


def _source(request: running.Request) -> str:
    """The script's own text, which tells of shuffling, generators, optimizers and schedules."""
    path = request.cwd / (request.script or "")
    try:
        return path.read_text("utf-8", "replace") if path.is_file() else ""
    except OSError as error:
        raise ValidationError(f"{path} cannot be read", why=error.strerror or str(error)) from error


def _verdict(found: Proof) -> int:
    if not found.straight_succeeded:
        raise JobFailed(
            "The script fails without any interruption",
            why=found.last_words,
            next="let it end with exit code 0 first: runctl train SCRIPT",
        )
    if not found.cuts:
        raise JobFailed(
            "Nothing was cut, so nothing is proven",
            why=f"a straight run takes {found.seconds:.1f} s, and was over before",
            next="give it more to do, such as more steps, or name the steps: --at STEP",
        )
    if found.findings:
        first = found.findings[0]
        raise JobFailed(
            f"An interruption changes what the script does: {first.culprit}",
            why=first.evidence,
            next=first.next,
        )
    return 0


def _text(value: object) -> str | None:
    return None if value is None else str(value)
