"""`runctl resources cleanup|stop-all`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runctl.cli import acting
from runctl.cli.options import Context, common, on_cloud, user_name
from runctl.quoting import quoted

if TYPE_CHECKING:
    from runctl.resources.operation import Operation
    from runctl.safety.cleanup import Limits, Report
    from runctl.safety.cleanup_plan import Plan
    from runctl.safety.vocabulary import Action, ResourceKind, Verdict

FILE = click.Path(path_type=Path, dir_okay=False)


def in_bulk(function: Any) -> Any:
    """The options of a command that acts on many resources at once."""
    for option in reversed(
        (
            click.option("--dry-run", is_flag=True, help="Show the plan, and touch nothing."),
            click.option("--explain", is_flag=True, help="Show the verdict of every rule."),
            click.option("--yes", "-y", is_flag=True, help="Do not ask."),
            click.option("--force", is_flag=True, help="Where a rule allows it with force, in bulk, too."),
        )
    ):
        function = option(function)
    return function


@click.command()
@click.option(
    "--older-than",
    type=click.IntRange(0, 36_500),
    default=7,
    show_default=True,
    help="Days of not being needed.",
)
@click.option("--save", type=FILE, help="Write the plan to this file, and touch nothing.")
@click.option("--apply", "apply_", type=FILE, help="Carry out the plan in this file.")
@click.option(
    "--max-count", type=click.IntRange(1), default=25, show_default=True, help="Stop after so many."
)
@click.option(
    "--max-usd-per-hour",
    default="10",
    show_default=True,
    help="Stop where what is removed would cost more.",
)
@in_bulk
@on_cloud
@common
def cleanup(context: Context, on: str | None, max_count: int, max_usd_per_hour: str, **options: Any) -> None:
    """Plan and remove what nobody needs any more; persistent and protected resources are never touched.

    Unattached volumes, instances stopped for long, whose lease has run out or whose job is over, snapshots
    of volumes that are gone: yours alone, made by runctl, in one region.

    \b
    Examples:
      runctl resources cleanup --dry-run
      runctl resources cleanup --older-than 30 --save plan.json
      runctl resources cleanup --apply plan.json --yes
    """
    from runctl.errors import ValidationError
    from runctl.safety.cleanup import Limits

    saved: Path | None = options["apply_"]
    if saved and options["save"]:
        raise ValidationError("A plan is either saved or applied", next="--save FILE, or --apply FILE")
    limits = Limits(max_count=max_count, max_usd_per_hour=_usd(max_usd_per_hour))
    with acting.operation(context, on) as operation:
        if saved:
            plan, verdicts = _read(saved), []
        else:
            older_than = timedelta(days=options["older_than"])
            plan, verdicts = _planned(context, operation, options, older_than)
        if options["save"]:
            _save(context, plan, options["save"])
            return
        report = _carry_out(context, operation, plan, verdicts, limits, options)
    _finish(context, plan, report)


@click.command("stop-all")
@in_bulk
@on_cloud
@common
def stop_all(context: Context, on: str | None, **options: Any) -> None:
    """Stop every instance of yours that runs: training saves first, protected ones go on.

    \b
    Examples:
      runctl resources stop-all --dry-run
      runctl resources stop-all --yes
    """
    from runctl.safety.cleanup import UNLIMITED

    with acting.operation(context, on) as operation:
        plan, verdicts = _planned(context, operation, options, timedelta(0), stop=True)
        report = _carry_out(context, operation, plan, verdicts, UNLIMITED, options)
    _finish(context, plan, report)


def _planned(
    context: Context,
    operation: Operation,
    options: dict[str, Any],
    older_than: timedelta,
    *,
    stop: bool = False,
) -> tuple[Plan, list[Verdict]]:
    """The plan of what is there now, and the verdicts that it stands on."""
    from runctl.resources.survey import for_cleanup, survey
    from runctl.safety import cleanup_plan

    user = user_name(context.settings())
    request = acting.asked(context, force=options["force"], unmanaged=False, bulk=True)
    verdicts: list[Verdict] = []

    def assess(action: Action, kind: ResourceKind, resource: str) -> Verdict:
        verdicts.append(operation.door.assess(action, kind, resource, request))
        return verdicts[-1]

    seen = for_cleanup(survey(operation, [operation.session], user=user))
    cloud = operation.session.cloud
    view = cleanup_plan.view_of(operation.ledger, cloud.key, now=cloud.clock.now(), older_than=older_than)
    make: Callable[..., Plan] = cleanup_plan.plan_stop if stop else cleanup_plan.plan
    return make(seen, view, user=user, assess=assess), verdicts


def _usd(text: str) -> Decimal:
    from runctl.errors import ValidationError

    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not (amount.is_finite() and amount >= 0):
        raise ValidationError(f"{text!r} is no amount of USD", next="such as --max-usd-per-hour 20")
    return amount


def _read(path: Path) -> Plan:
    from runctl.errors import NotFound
    from runctl.safety import cleanup_plan

    if not path.is_file():
        raise NotFound(f"There is no plan {path}", next=f"runctl resources cleanup --save {quoted(path)}")
    return cleanup_plan.decode(path.read_bytes())


def _save(context: Context, plan: Plan, path: Path) -> None:
    from runctl.render import cleanup as render
    from runctl.render import output
    from runctl.safety import cleanup_plan

    output.write_file(path, cleanup_plan.encode(plan))
    render.show_plan(plan, as_json=context.json, quiet=context.quiet)
    output.talk(f"the plan is in {path}: runctl resources cleanup --apply {quoted(path)}")


def _carry_out(
    context: Context,
    operation: Operation,
    plan: Plan,
    verdicts: list[Verdict],
    limits: Limits,
    options: dict[str, Any],
) -> Report | None:
    """Show the plan, ask, act; None where nothing was to be done."""
    from runctl.render import cleanup as render
    from runctl.safety import cleanup

    if options["explain"] and not context.json and not context.quiet:
        from runctl.render.verdict import show_verdict

        for verdict in verdicts:
            show_verdict(verdict, every_rule=True)
    if options["dry_run"] or not plan.items:
        render.show_plan(
            plan,
            as_json=context.json,
            quiet=context.quiet,
            verdicts=verdicts if options["explain"] else None,
        )
        return None
    if not context.json and not context.quiet:
        render.show_plan(plan, as_json=False, quiet=False)
    acting.confirm(render.question(plan), yes=options["yes"])
    report = cleanup.apply(operation.ledger, operation.door, plan, limits=limits, force=options["force"])
    _note(operation, report)
    return report


def _note(operation: Operation, report: Report) -> None:
    """The ledger learns at once what ended, with the instances' disks."""
    from runctl.resources import noting
    from runctl.safety.cleanup import Outcome
    from runctl.safety.vocabulary import ResourceKind

    items = [result.item for result in report.having(Outcome.DONE, Outcome.GONE)]
    ids = {kind: [item.id for item in items if item.kind is kind] for kind in ResourceKind}
    disks = [disk for item in items for disk in item.disks]
    noting.note(
        operation,
        instances=ids[ResourceKind.INSTANCE],
        volumes=[*ids[ResourceKind.VOLUME], *disks],
        snapshots=ids[ResourceKind.SNAPSHOT],
    )


def _finish(context: Context, plan: Plan, report: Report | None) -> None:
    """Show what became of it. Raises where not everything was done."""
    if report is None:
        return
    from runctl.render import cleanup as render

    render.show_report(plan, report, as_json=context.json, quiet=context.quiet)
    if error := render.shortfall(report):
        raise error
