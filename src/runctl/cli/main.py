"""The entry point: commands are imported when they are called, errors are rendered in one place."""

from __future__ import annotations

import gc
import os
import sys
from itertools import pairwise

from runctl.cli import interrupts

COMPLETE_VARIABLE = "_RUNCTL_COMPLETE"
AFTER_OUTPUT = "runctl.after_output"
"""In a click context's `meta`: what is to be noted once the command's whole output has left."""
GARBAGE_THRESHOLD = 50_000
"""Allocations between two garbage collections: at Python's 700 they are a quarter of an import's time."""

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("runctl.cli.train:train", "Train a script here, on the sandbox cloud or on AWS."),
    "jobs": ("runctl.cli.jobs:jobs", "List, show, follow, stop, resume jobs, and fetch their files."),
    "checkpoint": ("runctl.cli.checkpoint:checkpoint", "Checkpoints: list, look at, bring home, clean up."),
    "aws": ("runctl.cli.aws:aws", "EC2 instances and EBS volumes, one by one."),
    "resources": ("runctl.cli.resources:resources", "Everything that costs: list, sum up, clean up."),
    "transfer": ("runctl.cli.transfer:transfer", "Copy files between here, S3 and instances, verified."),
    "data": ("runctl.cli.data:data", "Datasets: where they lie, and how training reads them."),
    "s3": ("runctl.cli.s3:s3", "Objects in S3: send, fetch, keep in step, review."),
    "tx": ("runctl.cli.tx:tx", "Operations that were left unfinished: finish or undo them."),
    "ledger": ("runctl.cli.ledger:ledger", "This user's memory: check it, bring it back from a copy."),
    "drill": ("runctl.cli.drill:drill", "A fire drill: interrupt a run and see what it costs."),
    "prove": ("runctl.cli.prove:prove", "Find out whether an interruption changes what a script does."),
    "demo": ("runctl.cli.demo:demo", "Watch a job survive a spot interruption on the sandbox cloud."),
    "sandbox": ("runctl.cli.sandbox:sandbox", "A cloud on this machine, to try and test everything."),
    "config": ("runctl.cli.config:config", "Show, set and check settings."),
    "completion": ("runctl.cli.completion:completion", "Print the completion script of a shell."),
}


def main() -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:]
    gc.set_threshold(GARBAGE_THRESHOLD)
    if arguments == ["--version"]:
        from runctl import __version__

        sys.stdout.write(f"runctl {__version__}\n")
        sys.exit(0)
    interrupts.listen(as_json=wants_json(arguments))
    code = run(arguments)
    interrupts.finish(code)
    # `python -m` ends by SIGINT where an interrupt ever passed an exec of text (imports have them), handled
    # or not; the next exec makes Python forget it. bpo-1054041, Py_RunMain.
    exec("")  # noqa: S102
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; answers the exit code."""
    try:
        return _run(arguments)
    except KeyboardInterrupt as error:
        return interrupts.tell(error, as_json=wants_json(arguments))


def _run(arguments: list[str]) -> int:
    try:
        code = _invoke(list(arguments))
        sys.stdout.flush()  # of a command that ended by `Exit`, such as --help
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        from runctl.cli import failures

        return failures.render(error, as_json=wants_json(arguments))
    finally:
        _keep_home_private()
    return code


def _keep_home_private() -> None:
    """What an older runctl left open to others, and what was made on the way."""
    if (clouds := sys.modules.get("runctl.clouds")) is not None:
        from runctl import private_files

        private_files.tighten(clouds.home())


def wants_json(arguments: list[str]) -> bool:
    """Looked up in the bare words: an error may be about the options themselves."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return not {"--output=json", "-ojson"}.isdisjoint(own) or any(
        pair in {("--output", "json"), ("-o", "json")} for pair in pairwise(own)
    )


def _invoke(arguments: list[str]) -> int:
    """What click's own `main` does, but that errors come out as they are, a closed pipe's included."""
    from click.exceptions import Exit

    from runctl.cli.root import root

    if COMPLETE_VARIABLE in os.environ:
        root.main(arguments, prog_name="runctl", complete_var=COMPLETE_VARIABLE)
    try:
        with root.make_context("runctl", arguments) as context:
            result = root.invoke(context)
            sys.stdout.flush()
            for note in context.meta.get(AFTER_OUTPUT, ()):
                note()
    except Exit as done:
        return done.exit_code
    return result if isinstance(result, int) else 0
