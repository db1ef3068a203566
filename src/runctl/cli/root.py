"""The root command: knows its children by name alone until one is called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import click

from runctl import __version__
from runctl.cli.main import COMMANDS

FORMATS = ("text", "json")


class LazyGroup(click.Group):
    """A group whose help needs none of its commands' code; the table has `module:attribute` and a line."""

    table: ClassVar[Mapping[str, tuple[str, str]]] = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's form)
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self.table:
            return None
        module, _, name = self.table[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101 (our own table)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.table and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], list(self.table), n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="runctl", message="%(prog)s %(version)s")
@click.option(
    "--output", "-o", type=click.Choice(FORMATS), help="Text for people, JSON for scripts.  [default: text]"
)
@click.option("--quiet", "-q", is_flag=True, help="Print ids alone.")
@click.option("--config", metavar="PATH", help="Read this configuration file instead of the usual ones.")
@click.option("--profile", help="The AWS profile.")
@click.option("--region", help="The AWS region.")
@click.pass_context
def root(ctx: click.Context, **given: Any) -> None:
    """Train ML models on cheap, interruptible machines without losing work, money or data.

    \b
    Examples:
      runctl train train.py -- --epochs 50
      runctl train train.py --on aws --spot --gpus 1 --budget 20 -- --epochs 50
      runctl jobs wait last

    The options below may also stand behind a command.
    """
    ctx.obj = given
