"""Transfers on the terminal: the plan, a bar while it runs, the report."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from runctl.events import Emit, Event, Progress
from runctl.render import output
from runctl.render.figures import count, moment, size
from runctl.render.harmless import harmless
from runctl.storage.entries import Entry
from runctl.storage.listing import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from runctl.storage.plans import Plan
    from runctl.storage.sync import TwoWays
    from runctl.storage.transfer import LeftOut, TransferReport

_SHOWN = 20


@contextmanager
def following(*, quiet: bool, json: bool) -> Generator[Emit]:
    """Where a transfer's events go: a bar on a terminal, JSON lines or a line now and then elsewhere."""
    from runctl.render.follow import JsonFollower, TextFollower

    if json:
        yield JsonFollower(talk=True)
    elif quiet or not output.talk_on_terminal():
        yield TextFollower(quiet=quiet)
    else:
        with _bar() as emit:
            yield emit


@contextmanager
def _bar() -> Generator[Emit]:
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    from runctl.render.follow import TextFollower

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    follower = TextFollower()
    with Bar(*columns, console=output.console(talk=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def emit(event: Event) -> None:
            if not isinstance(event, Progress):
                follower(event)
                return
            if event.task not in tasks:
                tasks[event.task] = bar.add_task(harmless(event.task), total=event.total)
            bar.update(tasks[event.task], completed=event.done, total=event.total)

        yield emit


def plan_body(plan: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    todo = plan.comparison
    return {
        "move": [{"name": entry.key, "size": entry.size} for entry in todo.missing],
        "compare": [{"name": entry.key, "size": entry.size} for entry in todo.doubtful],
        "delete": plan.deletions,
        "equal_files": todo.equal_files,
        "left_out": plan.left_out,
    }


def show_plan(plan: Plan) -> None:
    todo = plan.comparison
    verb = plan.words.verb
    for entry in todo.missing[:_SHOWN]:
        output.write_line(f"{verb:8} {size(entry.size):>10}  {entry.key}")
    _more(len(todo.missing))
    for entry in todo.doubtful[:_SHOWN]:
        output.write_line(f"{'compare':8} {size(entry.size):>10}  {entry.key}")
    _more(len(todo.doubtful))
    show_deletions(plan)
    show_left_out("left out", plan.left_out)
    total = sum(entry.size for entry in todo.missing)
    parts = [f"{count(len(todo.missing), 'file')} to {verb} ({size(total)})"]
    if todo.doubtful:
        parts.append(f"{len(todo.doubtful)} to compare")
    parts.append(f"{todo.equal_files} equal")
    if plan.deletions:
        parts.append(f"{len(plan.deletions)} to delete")
    output.write_line(", ".join(parts) + "; nothing was touched")


def show_would(
    files: Sequence[tuple[str, int]], delete: Sequence[str], left_out: Sequence[LeftOut], *, equal: int
) -> None:
    """What a transfer with an instance would do."""
    for name, length in files[:_SHOWN]:
        output.write_line(f"{'send':8} {size(length):>10}  {name}")
    _more(len(files))
    for name in delete[:_SHOWN]:
        output.write_line(f"{'delete':8} {'':>10}  {name}")
    _more(len(delete))
    show_left_out("left out", left_out)
    total = sum(length for _, length in files)
    parts = [f"{count(len(files), 'file')} to send ({size(total)})", f"{equal} equal"]
    if delete:
        parts.append(f"{len(delete)} to delete")
    output.write_line(", ".join(parts) + "; nothing was touched")


def show_deletions(plan: Plan) -> None:
    for name in plan.deletions[:_SHOWN]:
        output.write_line(f"{'delete':8} {'':>10}  {name}")
    _more(len(plan.deletions))


def show_report(report: TransferReport, *, upload: bool, quiet: bool, done: str = "") -> None:
    """What became of it; `done` is the word for it where it is neither an upload nor a download."""
    show_left_out("left out", report.left_out)
    show_left_out("failed", report.failed)
    if quiet:
        return
    verb = done or ("sent" if upload else "fetched")
    rate = f", {size(int(report.moved_bytes / report.seconds))}/s" if report.seconds > 0.05 else ""
    parts = [f"{count(report.moved_files, 'file')} {verb} ({size(report.moved_bytes)}{rate})"]
    if report.equal_files:
        parts.append(f"{report.equal_files} equal already")
    if report.deleted_files:
        parts.append(f"{report.deleted_files} deleted")
    if report.left_out:
        parts.append(f"{len(report.left_out)} left out")
    if report.failed:
        parts.append(f"{len(report.failed)} FAILED")
    output.write_line(", ".join(parts))


def show_left_out(what: str, items: Sequence[LeftOut]) -> None:
    for item in items[:_SHOWN]:
        output.talk(f"[{what}] {item.name}: {item.why}", style="yellow" if what == "left out" else "red")
    if len(items) > _SHOWN:
        output.talk(f"[{what}] and {len(items) - _SHOWN} more: --output json lists them all")


def _more(number: int) -> None:
    if number > _SHOWN:
        output.write_line(f"{'':8} {'':>10}  and {number - _SHOWN} more")


def show_entries(entries: Iterable[Entry], *, json: bool, quiet: bool) -> None:
    """Objects as lines while they are listed, as JSON lines, or as names alone."""
    files, total = 0, 0
    for entry in entries:
        files, total = files + 1, total + entry.size
        when = datetime.fromtimestamp(entry.modified / 1e9, UTC)
        if json:
            output.write_json({"key": entry.key, "size": entry.size, "modified": when, "etag": entry.etag})
        elif quiet:
            output.write_line(printable(entry.key))
        else:
            output.write_line(f"{moment(when)}  {size(entry.size):>10}  {printable(entry.key)}")
    if not json and not quiet:
        output.talk(f"{count(files, 'object')}, {size(total)}")


def both_body(found: TwoWays) -> dict[str, Any]:
    """Both ways as JSON."""
    return {"up": plan_body(found.up), "down": plan_body(found.down), "left_out": found.left_out}


def show_both(found: TwoWays) -> None:
    show_plan(found.up)
    show_plan(found.down)
    show_left_out("left alone", [item for item in found.left_out if item not in found.up.left_out])
