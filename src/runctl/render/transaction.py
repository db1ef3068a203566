"""The journal, as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from runctl.ledger import TransactionRecord
from runctl.quoting import quoted
from runctl.render import figures, output


def show_transactions(found: Sequence[tuple[TransactionRecord, str]]) -> None:
    """One row each."""
    output.write_table(
        ("transaction", "operation", "of", "begun", "state", "steps done"),
        [
            (
                record.id,
                record.operation,
                record.subject,
                figures.moment(record.begun),
                state,
                str(sum(step.outcome == "done" for step in record.steps)),
            )
            for record, state in found
        ],
        right=("steps done",),
    )


def show_transaction(record: TransactionRecord, state: str) -> None:
    """Every step."""
    output.write_line(f"{record.id}: {record.operation} of {record.subject}, {state}")
    output.write_table(
        ("step", "name", "outcome", "result"),
        [
            (
                str(step.number),
                step.name,
                step.outcome or "unknown: the process ended meanwhile",
                step.error or (step.result or b"").decode("utf-8", "replace"),
            )
            for step in record.steps
        ],
        right=("step",),
    )
    if state == "left unfinished":
        output.talk(f"next: runctl tx resume {quoted(record.id)}, or runctl tx rollback {quoted(record.id)}")
