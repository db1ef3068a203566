"""`runctl tx`: operations on several resources, finished and unfinished."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runctl.cli import acting
from runctl.cli.options import Context, common

if TYPE_CHECKING:
    from runctl.ledger import TransactionRecord


@click.group()
def tx() -> None:
    """Operations on several resources: a crash leaves them here, to be finished or undone.

    \b
    Examples:
      runctl tx list
      runctl tx resume tx-5f0c1a
    """


@tx.command("list")
@click.option("--all", "every", is_flag=True, help="Finished ones, too.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@common
def list_(context: Context, every: bool, limit: int) -> None:
    """List unfinished operations.

    \b
    Examples:
      runctl tx list
      runctl tx list --all --output json
    """
    from runctl.render import output
    from runctl.resources import recovery

    with context.ledger() as ledger:
        found = ledger.journal.newest(limit=limit) if every else ledger.journal.unfinished()
        left = {record.id for record in recovery.unfinished(ledger)}
    if context.json:
        output.write_json([_summary(record, record.id in left) for record in found])
    elif context.quiet:
        for record in found:
            output.write_line(record.id)
    elif not found:
        output.talk("nothing is unfinished")
    else:
        from runctl.render.transaction import show_transactions

        show_transactions([(record, _state(record, record.id in left)) for record in found])


@tx.command()
@click.argument("transaction")
@common
def show(context: Context, transaction: str) -> None:
    """Show every step of an operation: what was asked for, what came of it.

    \b
    Examples:
      runctl tx show tx-5f0c1a
      runctl tx show tx-5f0c1a --output json
    """
    from runctl.render import output
    from runctl.resources import recovery

    with context.ledger() as ledger:
        record = recovery.find(ledger, transaction)
        left = record.id in {found.id for found in recovery.unfinished(ledger)}
    if context.json:
        output.write_json(_summary(record, left))
        return
    from runctl.render.transaction import show_transaction

    show_transaction(record, _state(record, left))


@tx.command()
@click.argument("transaction")
@acting.planned
@common
def resume(context: Context, transaction: str, dry_run: bool) -> None:
    """Finish an operation that was left unfinished, from the step at which it stopped.

    \b
    Examples:
      runctl tx resume tx-5f0c1a
      runctl tx resume tx-5f0c1a --output json
    """
    if dry_run:
        _show_left(context, transaction, undo=False)
    else:
        _recover(context, transaction, undo=False)


@tx.command()
@click.argument("transaction")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@acting.planned
@common
def rollback(context: Context, transaction: str, yes: bool, dry_run: bool) -> None:
    """Undo an operation that was left unfinished, the last step first.

    \b
    Examples:
      runctl tx rollback tx-5f0c1a
      runctl tx rollback tx-5f0c1a --yes
    """
    if dry_run:
        _show_left(context, transaction, undo=True)
        return
    acting.confirm(f"Undo {transaction}?", yes=yes)
    _recover(context, transaction, undo=True)


def _show_left(context: Context, reference: str, *, undo: bool) -> None:
    """What would be done, or undone, in its order; read from the journal alone."""
    from runctl.render import output
    from runctl.resources import recovery

    with context.ledger() as ledger:
        left = recovery.left_of(recovery.find(ledger, reference), undo=undo)
    if context.json:
        output.write_json({"undo" if undo else "do": left})
        return
    for step in left:
        output.write_line(f"{'undo' if undo else 'do'} {step}")


def _recover(context: Context, reference: str, *, undo: bool) -> None:
    import msgspec

    from runctl.errors import Conflict
    from runctl.ledger import DONE
    from runctl.render import output
    from runctl.resources import recovery

    with context.ledger() as ledger:
        record = recovery.find(ledger, reference)
    cloud, region = recovery.place_of(record) or (None, None)
    on = None if cloud is None else "sandbox" if cloud.startswith("sandbox") else "aws"
    with acting.operation(context, on, region=region) as operation:
        if cloud not in {None, operation.session.cloud.key}:
            raise Conflict(
                f"The cloud of {record.id} is gone",
                why="the sandbox that is up was started after it",
                next="runctl tx list",
            )
        (recovery.roll_back if undo else recovery.resume)(operation, record)
    with context.ledger() as ledger:
        record = ledger.journal.get(record.id)
    if record.outcome == DONE:  # this very line says so
        record = msgspec.structs.replace(record, outcome="finished")
    if context.json:
        output.write_json(_summary(record, False))
    else:
        output.write_line(f"{record.id} is {record.outcome}: {recovery.results(record)}")


def _state(record: TransactionRecord, left: bool) -> str:
    return record.outcome or ("left unfinished" if left else "under way")


def _summary(record: TransactionRecord, left: bool) -> dict[str, object]:
    return {
        "id": record.id,
        "operation": record.operation,
        "subject": record.subject,
        "begun": record.begun,
        "state": _state(record, left),
        "steps": [
            {
                "number": step.number,
                "name": step.name,
                "outcome": step.outcome or "unknown",
                "result": (step.result or b"").decode("utf-8", "replace"),
                "error": step.error,
            }
            for step in record.steps
        ],
    }
