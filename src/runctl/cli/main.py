"""The entry point: commands are imported when they are called, errors are rendered in one place."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import click

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("runctl.cli.train:train", "Train a script here, on the sandbox cloud or on AWS."),
    "jobs": ("runctl.cli.jobs:jobs", "List, show, follow, stop and resume jobs."),
    "drill": ("runctl.cli.drill:drill", "A fire drill: interrupt a run and see what it costs."),
    "demo": ("runctl.cli.demo:demo", "Watch a job survive a spot interruption on the sandbox cloud."),
    "sandbox": ("runctl.cli.sandbox:sandbox", "A cloud on this machine, to try and test everything."),
    "config": ("runctl.cli.config:config", "Show, set and check settings."),
    "completion": ("runctl.cli.completion:completion", "Print the completion script of a shell."),
}


def main() -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from runctl import __version__

        sys.stdout.write(f"runctl {__version__}\n")
        sys.exit(0)
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run one command; answers the exit code."""
    try:
        result = _root().main(args=arguments, prog_name="runctl", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        from runctl.cli import failures

        return failures.render(error, arguments)
    return result if isinstance(result, int) else 0


def _root() -> click.Group:
    from runctl.cli.root import root

    return root
