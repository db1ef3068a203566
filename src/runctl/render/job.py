"""Jobs, plans and reports as tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from runctl.jobs.spec import retained
from runctl.model import Offer
from runctl.quoting import quoted
from runctl.render import figures, output

if TYPE_CHECKING:
    from runctl.jobs.plan import Plan
    from runctl.jobs.report import AttemptReport, JobReport
    from runctl.ledger import JobEvent, JobRecord

_OFFERS_SHOWN = 6


def show_plan(plan: Plan) -> None:
    """What will be done, on stderr: it is talk, not data."""
    spec = plan.spec
    lines = [f"plan for {plan.job}", f"  command   {' '.join(spec.command)}"]
    if spec.is_local:
        lines.append(f"  machine   this one, in {spec.root}")
    else:
        if plan.code_files:
            lines.append(f"  code      {plan.code_files} files, {figures.size(plan.code_bytes)}")
        if plan.python:
            lines.append(f"  python    {plan.python}")
        new = " (will be created)" if plan.bucket_is_new else ""
        lines.append(f"  bucket    {plan.bucket}{new}")
        lines.append("  offers    type          market     zone         USD/h     price from")
        lines.extend(_offer_line(offer) for offer in plan.offers[:_OFFERS_SHOWN])
        if len(plan.offers) > _OFFERS_SHOWN:
            lines.append(f"            and {len(plan.offers) - _OFFERS_SHOWN} more")
        if plan.disk:
            lines.append(f"  disk      {plan.disk_gib} GiB gp3, {figures.usd(plan.disk.usd_per_hour)}/h")
        if plan.hours_in_budget is not None:
            hours = timedelta(hours=float(plan.hours_in_budget))
            lines.append(
                f"  budget    {figures.usd(spec.budget)}: {figures.duration(hours)} on the first offer"
            )
    lines.extend(_kept(plan))
    if not spec.is_local:
        lines.extend(_retained(plan))
    if plan.data:
        lines.append(f"  data      {spec.data}, {plan.data.strategy}: {plan.data.why}")
    lines.extend(f"  note      {warning}" for warning in plan.warnings)
    for line in lines:
        output.talk(line)


def _kept(plan: Plan) -> list[str]:
    """What is kept of what the script writes, and up to which size."""
    spec = plan.spec
    folders = f"{spec.checkpoints or 'RUNCTL_CHECKPOINT_DIR'} and RUNCTL_OUTPUT_DIR"
    if spec.is_local or not spec.keep_written:
        return [f"  keeps     {folders}"]
    most = figures.size(spec.keep_written)
    return [
        f"  keeps     {folders},",
        f"            and up to {most} of what the script writes in its folder",
    ]


def _retained(plan: Plan) -> list[str]:
    """How many snapshots stay, and what that cost before."""
    spec = plan.spec
    words = retained(spec.keep_last, spec.keep_every, spec.keep_best)
    lines = [
        f"  retention {words}; older ones go"
        if words
        else "  retention all checkpoints; --keep-last N bounds them"
    ]
    if (before := plan.before) is not None:
        a_month = f"{figures.size(before.bytes)} a snapshot, {figures.usd(before.usd_per_month)} a month"
        lines.append(f"            {before.job} kept {a_month}")
        if before.bound is not None:
            bound = f"{figures.size(before.bound)}, {figures.usd(before.bound_usd)} a month"
            lines.append(f"            so at most about {bound}")
    return lines


def _offer_line(offer: Offer) -> str:
    price, source = "unknown", ""
    if offer.price:
        price = figures.usd(offer.price.usd_per_hour)
        source = f"{offer.price.source}, {offer.price.as_of:%Y-%m-%d %H:%M}"
    place = f"{offer.instance_type:<13} {offer.market:<10} {offer.zone:<12}"
    return f"            {place} {price:<9} {source}"


def show_report(report: JobReport, *, brief: bool = False) -> None:
    """What a job came to, on stdout; `brief` is one line on stderr for a local job without trouble."""
    if brief:
        output.talk(f"{report.id}: {report.state}; outputs and checkpoints are in {report.store}")
        return
    write = output.write_line
    write("")
    write(f"{report.id}: {report.state}  ({report.cause})")
    rows = [
        [
            str(attempt.number),
            attempt.machine,
            attempt.cause or attempt.state,
            figures.duration(attempt.ended - attempt.started) if attempt.ended and attempt.started else "",
            _began(attempt),
            "" if attempt.last_step is None else str(attempt.last_step),
            "" if attempt.seconds_to_safety is None else f"{attempt.seconds_to_safety:.1f} s",
            figures.number(attempt.steps_lost)
            if attempt.cause in {"notice", "lost", "silent", "shutdown"}
            else "",
            figures.usd(attempt.cost) if report.target != "local" else "",
        ]
        for attempt in report.attempts
    ]
    columns = [
        "attempt",
        "machine",
        "end",
        "time",
        "from step",
        "to step",
        "notice to safety",
        "steps lost",
        "cost",
    ]
    output.write_table(columns, rows, right=["attempt", "from step", "to step", "steps lost", "cost"])
    if report.interruptions:
        plural = "s" if report.interruptions > 1 else ""
        lost = figures.number(report.steps_lost)
        write(f"work lost   {lost} steps lost over {report.interruptions} interruption{plural}")
    _show_doubts(report)
    if report.target != "local":
        parts = f"machines {figures.usd(report.compute)}, disks {figures.usd(report.disks)}"
        write(f"cost        {figures.usd(report.cost)}: {parts}")
        if report.saved is not None and report.saved > 0 and report.on_demand:
            percent = report.saved / report.on_demand * 100
            write(
                f"saved       {figures.usd(report.saved)} ({percent:.0f}%) against"
                f" {figures.usd(report.on_demand)} on demand"
            )
        write(f"kept        {_kept_of(report)}")
        if report.retention:
            write(f"retention   {report.retention}; older ones go")
    write(f"kept at     {report.store}")
    if report.adopted:
        write(f"adopted     from there; said to be {report.user}'s")


def _show_doubts(report: JobReport) -> None:
    write = output.write_line
    for attempt in report.attempts:
        if attempt.began_anew:
            write(f"began anew  attempt {attempt.number}, at step {attempt.began_step}, though it was given")
            write(f"            {attempt.resumed_from}: the script does not go on from it")
        if attempt.silence:
            what, _, seen = attempt.silence.partition(": ")
            write(f"not kept    attempt {attempt.number}: {what}")
            for line in seen.split("; "):
                write(f"            {line}")
    if report.retried:
        write(
            f"tried again from the snapshot before {report.retried[-1]}, from which the script failed at once"
        )


def _began(attempt: AttemptReport) -> str:
    if attempt.began_anew:
        return "anew"
    step = attempt.resumed_step
    if step is None and attempt.number > 1:
        step = attempt.began_step
    return "" if step is None else str(step)


def _kept_of(report: JobReport) -> str:
    """How much of what the script wrote lies in the store, and how it comes home."""
    if not report.kept_files and not report.state.final:
        return f"so far: runctl jobs fetch {quoted(report.id)} DIR"
    if report.kept_files is None:
        return "unknown: no machine has told"
    if not report.kept_files:
        own = "its folder, " if report.keep_written else ""
        more = "" if report.keep_written else "; its own folder was not kept: --keep-written"
        return f"nothing: the script wrote no file in {own}RUNCTL_CHECKPOINT_DIR or RUNCTL_OUTPUT_DIR{more}"
    files = f"{figures.count(report.kept_files, 'file')}, {figures.size(report.kept_bytes or 0)}"
    return f"{files}: runctl jobs fetch {quoted(report.id)} DIR"


def show_events(events: Sequence[JobEvent]) -> None:
    """Every change of state, with its cause and the cost so far."""
    rows = [
        [
            figures.moment(event.at),
            str(event.attempt),
            event.state,
            event.cause,
            figures.usd(event.cost) if event.cost is not None else "",
        ]
        for event in events
    ]
    output.write_line("")
    output.write_table(
        ["time (UTC)", "attempt", "state", "cause", "cost so far"], rows, right=["cost so far"]
    )


def show_jobs(jobs: Sequence[JobRecord]) -> None:
    rows = [[job.id, job.state, job.target, figures.moment(job.created), job.store] for job in jobs]
    columns = ["job", "state", "on", "created", "kept at"]
    if any(job.adopted_at for job in jobs):
        columns.insert(1, "adopted")
        for row, job in zip(rows, jobs, strict=True):
            row.insert(1, f"{job.user or 'nobody'}'s" if job.adopted_at else "")
    output.write_table(columns, rows)
