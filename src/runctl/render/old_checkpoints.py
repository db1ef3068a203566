"""What a cleanup of checkpoints would delete, what stays and why, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runctl.render import output
from runctl.render.figures import count, moment, size

if TYPE_CHECKING:
    from runctl.resources.old_checkpoints import CheckpointReport
    from runctl.safety.checkpoints import CheckpointCleanup, StoredCheckpoint


def plan_body(planned: CheckpointCleanup) -> dict[str, Any]:
    """A plan as JSON."""
    from runctl.resources.old_checkpoints import reasons

    return {
        "delete": [{**_body(item.checkpoint), "freed": item.freed} for item in planned.allowed],
        "freed": planned.size,
        "keep": [_body(one) for one in planned.kept],
        "left": reasons(planned),
    }


def show_plan(planned: CheckpointCleanup) -> None:
    """A row for each checkpoint: what becomes of it, and why."""
    rows = [
        (one.name, moment(one.modified), size(one.size), "stays", planned.why[one.name])
        for one in planned.kept
    ]
    for item in planned.items:
        one, blocking = item.checkpoint, item.verdict.blocking
        why = "; ".join(finding.reason for finding in blocking) if blocking else "older than those to keep"
        freed = one.size if blocking else item.freed
        if freed < one.size and not blocking:
            why += "; newer ones need a part of it"
        rows.append((one.name, moment(one.modified), size(freed), "stays" if blocking else "deleted", why))
    output.write_table(("checkpoint", "modified", "size", "what", "why"), sorted(rows), right=("size",))
    if planned.allowed:
        output.talk(f"{count(len(planned.allowed), 'checkpoint')} with {size(planned.size)} can go")
    else:
        output.talk("there is nothing to delete")


def show_report(report: CheckpointReport, *, quiet: bool) -> None:
    for name, why in report.failed.items():
        output.talk(f"failed: {name}: {why}", style="red")
    if not quiet:
        output.talk(f"deleted {count(len(report.deleted), 'checkpoint')}, {size(report.freed)}")


def _body(one: StoredCheckpoint) -> dict[str, Any]:
    return {
        "name": one.name,
        "series": one.series,
        "objects": len(one.keys),
        "size": one.size,
        "modified": one.modified,
        "whole": one.whole,
    }
