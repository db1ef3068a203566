"""What commands that change the cloud share: the operation, the question before harm, the verdict shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runctl.cli.main import AFTER_OUTPUT
from runctl.cli.options import Context, user_name
from runctl.errors import Interrupted, TrainctlError, ValidationError

if TYPE_CHECKING:
    from runctl.providers.aws.session import Session
    from runctl.resources.instance_limits import Limits
    from runctl.resources.operation import Operation
    from runctl.safety.protection import Request, Verdict
    from runctl.safety.saga import Plan

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def operation(context: Context, on: str | None, *, region: str | None = None) -> Generator[Operation]:
    """The cloud, ledger and door of one command.

    What it carries out counts as told once the command's output has left, after the end of the block.
    """
    from runctl.resources import recovery
    from runctl.resources.operation import Operation
    from runctl.safety.destroy import Door

    settings = context.settings()
    session = context.session(settings, on, region=region)
    with context.ledger() as ledger:
        door = Door(session, ledger, user_name(settings), policy=policy(context), emit=session.emit)
        found = Operation(session=session, ledger=ledger, door=door, emit=session.emit, to_be_told=True)
        try:
            yield found
            if found.untold():
                # Only the output tells: whoever is killed before it has left is told by the next command.
                notes = click.get_current_context().meta.setdefault(AFTER_OUTPUT, [])
                notes.append(lambda: _note_told(context))
        except TrainctlError as error:
            recovery.explain(ledger, error, session.cloud.key)
            raise


def _note_told(context: Context) -> None:
    from runctl.safety import transaction

    with context.ledger() as ledger:
        ledger.journal.told(transaction.this_process())


def policy(context: Context) -> Any:
    """How careful the settings are."""
    return context.settings().values.protection


def limits(context: Context) -> Limits:
    from runctl.resources.instance_limits import Limits

    found = context.settings().values.protection
    return Limits(warn=found.warn_instances, refuse=found.refuse_instances)


def sessions(context: Context, operation: Operation, regions: str | None) -> list[Session]:
    """A session for each region that is named; `all` is every region that the account may use."""
    if regions is None:
        return [operation.session]
    if regions == "all":
        from runctl.providers.aws import market

        names = market.regions(operation.session)
    else:
        names = [name.strip() for name in regions.split(",") if name.strip()]
    on = "sandbox" if operation.session.cloud.name == "sandbox" else "aws"
    settings = context.settings()
    return [context.session(settings, on, region=name) for name in names]


def destructive(function: F) -> F:
    """Add the options of every command that may destroy: they come as one `Request` and `ways`."""
    for option in reversed(
        (
            click.option("--dry-run", is_flag=True, help="Show what would happen, and touch nothing."),
            click.option("--explain", is_flag=True, help="Show the verdict of every rule."),
            click.option("--yes", "-y", is_flag=True, help="Do not ask."),
            click.option("--force", is_flag=True, help="Where a rule allows it with force alone."),
            click.option("--unmanaged", is_flag=True, help="A resource that runctl did not make."),
        )
    ):
        function = option(function)
    return function


def asked(
    context: Context, *, force: bool, unmanaged: bool, bulk: bool = False, graceful: bool = True
) -> Request:
    """The user's request as the policy reads it."""
    from runctl.safety.protection import Request

    return Request(
        bulk=bulk,
        force=force,
        unmanaged=unmanaged,
        graceful=graceful,
        user=user_name(context.settings()),
    )


def confirm(question: str, *, yes: bool) -> None:
    """Ask before harm. Raises ValidationError without a terminal, Interrupted for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ValidationError(
            "This needs a confirmation", why="there is no terminal to ask on", next="add --yes"
        )
    from runctl.render import output

    if not output.ask(question):
        raise Interrupted("Nothing was done")


def refuse_or_show(
    context: Context,
    verdicts: list[Verdict],
    *,
    explain: bool,
    dry_run: bool,
    more: Mapping[str, Any] | None = None,
) -> bool:
    """Show verdicts where they were asked for, with JSON `more` beside them; answers whether to go on.

    Raises Protected for the first that blocks, unless it is a dry run.
    """
    from runctl.errors import Protected

    if explain or dry_run:
        _show(context, verdicts, every_rule=explain, more=more or {})
    if dry_run:
        return False
    for verdict in verdicts:
        if not verdict.allowed:
            raise Protected(
                f"{verdict.resource} is protected from this: {verdict.action}",
                reasons=tuple(finding.rule for finding in verdict.blocking),
                why="; ".join(finding.reason for finding in verdict.blocking),
                next=next((finding.next for finding in verdict.blocking if finding.next), ""),
            )
    return True


def _show(context: Context, verdicts: list[Verdict], *, every_rule: bool, more: Mapping[str, Any]) -> None:
    from runctl.render import output

    if context.json:
        output.write_json({"verdicts": verdicts, **more})
        return
    from runctl.render.verdict import show_verdict

    for verdict in verdicts:
        show_verdict(verdict, every_rule=every_rule)


def planned(function: F) -> F:
    """`--dry-run` of a command whose work is a plan of steps; it comes as `dry_run`."""
    return click.option("--dry-run", is_flag=True, help="Show the steps and touch nothing.")(function)


def show_plan(context: Context, plan: Plan) -> None:
    """The steps of an operation, each with what else is tried where there is no capacity."""
    from runctl.cli import trusting
    from runctl.render import output

    if context.json:
        output.write_json({"plan": plan, "from_project": trusting.origins(context.settings())})
        return
    trusting.show_origins(context.settings())
    for step in plan.steps:
        ways = [str(request.get("what")) for request in step.requests if request.get("what")]
        output.write_line(f"{step.kind}{': ' + ways[0] if ways else _about(step.requests[0])}")
        for way in ways[1:]:
            output.write_line(f"  else {way}")


def _about(request: Mapping[str, Any]) -> str:
    """What a step is about, as far as it is there before the operation."""
    words = [request.get(key) for key in ("volume", "snapshot", "instance", "path")]
    known = [word for word in words if isinstance(word, str)]
    spec = request.get("spec")
    if isinstance(spec, dict) and "volume_type" in spec:
        known.append(f"{spec['size_gib'] or 'as many'} GiB {spec['volume_type']} in {spec['zone']}")
    return f": {', '.join(known)}" if known else ""
