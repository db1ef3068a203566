"""Checkpoints that were found, and snapshots of a job, as tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runctl.agent.snapshot import Entry
from runctl.render import output
from runctl.render.figures import count, moment, number, size

if TYPE_CHECKING:
    from runctl.jobs.checkpoints import Snapshot
    from runctl.ledger import JobRecord
    from runctl.safety.checkpoints import StoredCheckpoint

_SHOWN = 40


def show_found(found: Sequence[StoredCheckpoint], *, json: bool, quiet: bool) -> None:
    """Those of a folder or a prefix."""
    if json:
        output.write_json([_found(one) for one in found])
        return
    if quiet:
        for one in found:
            output.write_line(one.name)
        return
    if not found:
        output.talk("there is no checkpoint")
        return
    rows = [
        (one.name, number(one.step), size(one.size), moment(one.modified), "yes" if one.whole else "not yet")
        for one in found
    ]
    columns = ("checkpoint", "step", "size", "modified", "complete")
    output.write_table(columns, rows, right=("step", "size"))


def show_one(one: StoredCheckpoint, *, json: bool) -> None:
    """What it consists of."""
    if json:
        output.write_json({**_found(one), "files": one.objects})
        return
    state = "complete" if one.whole else "not complete, as far as can be told"
    output.write_line(f"{one.name}: {count(len(one.objects), 'file')}, {size(one.size)}, {state}")
    rows = [(key, size(one.objects[key])) for key in one.keys[:_SHOWN]]
    output.write_table(("file", "size"), rows, right=("size",))
    _more(len(one.keys))


def show_snapshots(job: JobRecord, found: Sequence[Snapshot], *, json: bool, quiet: bool) -> None:
    """Those of a job, the oldest first."""
    if json:
        output.write_json([_snapshot(one) for one in found])
        return
    if quiet:
        for one in found:
            output.write_line(one.name)
        return
    if not found:
        output.talk(f"nothing of job {job.id} was kept yet")
        return
    rows = [
        (
            one.name,
            _checkpoint(one) or "none",
            number(one.manifest.step),
            str(one.manifest.attempt),
            size(one.size),
            size(one.brought),
            one.manifest.created,
            "" if one.ours else "not sealed by this job",
        )
        for one in found
    ]
    columns = ["snapshot", "checkpoint", "step", "attempt", "size", "sent", "made", ""]
    output.write_table(columns, rows, right=("step", "attempt", "size", "sent"))


def show_snapshot(one: Snapshot, *, verified: bool, json: bool) -> None:
    """What it consists of, and where each file lies."""
    if json:
        entries = [_entry(entry) for entry in one.manifest.entries]
        output.write_json({**_snapshot(one), "verified": verified, "entries": entries})
        return
    checkpoint = f"the checkpoint {_checkpoint(one)}" if _checkpoint(one) else "no checkpoint"
    files = count(len(one.files("checkpoints", "outputs", "work")), "file")
    output.write_line(f"{one.name}: {checkpoint}, {files}, {size(one.size)}, made {one.manifest.created}")
    if verified:
        output.write_line("every byte is what was committed")
    rows = [
        (entry.tree, _printable(entry.path), f"-> {entry.link}" if entry.link else size(entry.size), entry.at)
        for entry in one.manifest.entries[:_SHOWN]
    ]
    output.write_table(("tree", "path", "size", "lies at"), rows)
    _more(len(one.manifest.entries))


def _more(many: int) -> None:
    if many > _SHOWN:
        output.talk(f"and {many - _SHOWN} more: --output json names them all")


def _found(one: StoredCheckpoint) -> dict[str, Any]:
    return {
        "name": one.name,
        "series": one.series,
        "step": one.step,
        "size": one.size,
        "modified": one.modified,
        "complete": one.whole,
        "job": one.job or None,
    }


def _snapshot(one: Snapshot) -> dict[str, Any]:
    return {
        "name": one.name,
        "checkpoint": _checkpoint(one),
        "step": one.manifest.step,
        "attempt": one.manifest.attempt,
        "size": one.size,
        "sent": one.brought,
        "created": one.manifest.created,
        "ours": one.ours,
    }


def _checkpoint(one: Snapshot) -> str | None:
    found = one.manifest.checkpoint
    return _printable("/".join(found)) if found else None


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "tree": entry.tree,
        "path": _printable(entry.path),
        "kind": entry.kind,
        "size": entry.size,
        "link": entry.link or None,
        "at": entry.at or None,
    }


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()
