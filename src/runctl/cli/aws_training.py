"""`runctl aws train|monitor|processes`: training on an instance that exists."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from runctl.cli import acting
from runctl.cli.options import Context, common, on_cloud
from runctl.cli.train import train as on_any_place
from runctl.quoting import quoted

if TYPE_CHECKING:
    from runctl.resources.processes import Processes

WATCH_SECONDS = 2.0


def _train(instance: str, **options: Any) -> Any:
    assert on_any_place.callback is not None  # noqa: S101 (it is a command)
    return on_any_place.callback(on=instance, **options)


train = type(on_any_place)(
    name="train",
    callback=_train,
    params=[
        click.Argument(["instance"]),
        *(parameter for parameter in on_any_place.params if parameter.name != "on"),
    ],
    help="""Train on an instance that exists; it is left running afterwards.

    The same as `runctl train --on INSTANCE`, with the same options.

    \b
    Examples:
      runctl aws train i-0123456789abcdef0 train.py -- --epochs 50
      runctl aws train i-0123456789abcdef0 --resume-arg=--resume train.py
    """,
)


@click.command()
@click.argument("instance")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@common
@click.pass_context
def monitor(ctx: click.Context, context: Context, instance: str, follow: bool) -> None:
    """Show what the job on an instance writes.

    \b
    Examples:
      runctl aws monitor i-0123456789abcdef0
      runctl aws monitor i-0123456789abcdef0 -f
    """
    from runctl.cli.jobs import logs
    from runctl.errors import NotFound

    with context.ledger() as ledger:
        job = ledger.jobs.on_instance(instance)
    if job is None:
        raise NotFound(
            f"The ledger knows no job on {instance}",
            why="another user's, or none that runctl started",
            next=f"runctl aws processes {quoted(instance)}, or runctl resources adopt",
        )
    words = [job, *(["--follow"] if follow else []), "--output", context.output]
    with logs.make_context("runctl aws monitor", words, parent=ctx.find_root()) as found:
        logs.invoke(found)


@click.command()
@click.argument("instance")
@click.option("--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
@click.option("--limit", type=click.IntRange(1), default=15, show_default=True)
@on_cloud
@common
def processes(context: Context, instance: str, on: str | None, watch: bool, limit: int) -> None:
    """Show the processes on an instance: CPU, memory and GPU, the busiest first.

    \b
    Examples:
      runctl aws processes i-0123456789abcdef0
      runctl aws processes i-0123456789abcdef0 --watch
    """
    from runctl.resources import processes as reading

    with acting.operation(context, on) as operation:
        while True:
            _show(context, reading.read(operation.session, instance), limit)
            if not watch:
                return
            time.sleep(WATCH_SECONDS)


def _show(context: Context, found: Processes, limit: int) -> None:
    from runctl.render import output

    if context.json:
        output.write_json(found)
        return
    if context.quiet:
        for process in found.processes[:limit]:
            output.write_line(str(process.pid))
        return
    from runctl.render.instance import show_processes

    show_processes(found, limit)
