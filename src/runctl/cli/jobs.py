"""`runctl jobs`."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import click

from runctl import clouds
from runctl.cli import acting, known_jobs, running
from runctl.cli.jobs_fetch import fetch
from runctl.cli.options import Context, common, job_argument, of_user
from runctl.model import JobState
from runctl.quoting import quoted
from runctl.render import output


@click.group()
def jobs() -> None:
    """List, show, follow, stop and resume jobs, and fetch what they wrote."""


jobs.add_command(fetch)


@jobs.command("list")
@click.option("--limit", type=int, default=20, show_default=True)
@common
def list_(context: Context, limit: int) -> None:
    """List jobs, the newest first, from the ledger; those that run here are looked at.

    \b
    Examples:
      runctl jobs list
      runctl jobs list --quiet --limit 5
    """
    with context.ledger() as ledger:
        found = [
            known_jobs.refreshed(context, ledger, job) if job.cloud == "local" else job
            for job in ledger.jobs.list(limit=limit)
        ]
        if not context.json and not context.quiet:
            known_jobs.mention_neglected(ledger, found)
    if context.json:
        output.write_json([running.summary(job) for job in found])
    elif context.quiet:
        for job in found:
            output.write_line(job.id)
    elif not found:
        output.talk("there is no job yet: runctl train SCRIPT")
    else:
        from runctl.render.job import show_jobs

        show_jobs(found)


@jobs.command()
@job_argument
@common
def show(context: Context, job: str) -> None:
    """Show a job's attempts, cost, saving and lost work.

    \b
    Examples:
      runctl jobs show last
      runctl jobs show digits-7f3a2c --output json
    """
    from runctl.clock import SystemClock
    from runctl.jobs.report import report
    from runctl.render.job import show_events, show_report

    with context.ledger() as ledger:
        record = known_jobs.refreshed(context, ledger, ledger.jobs.get(job))
        now = SystemClock().now()
        if not record.state.final and record.cloud.startswith("sandbox"):
            now = known_jobs.place_of_job(context, context.settings(), record).clock.now()
        found = report(ledger, record, now)
        events = ledger.jobs.events(record.id)
        if not context.json:
            known_jobs.mention_neglected(ledger, [record])
    if context.json:
        output.write_json({"report": found, "events": events})
        return
    show_report(found)
    show_events(events)


@jobs.command()
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@click.option("--attempt", type=int, help="Of this attempt instead of the last.")
@common
def logs(context: Context, job: str, follow: bool, attempt: int | None) -> None:
    """Print what the script wrote.

    \b
    Examples:
      runctl jobs logs last
      runctl jobs logs digits-7f3a2c -f
    """
    from runctl.jobs import logs as kept
    from runctl.render.follow import JsonFollower, TextFollower

    show = JsonFollower() if context.json else TextFollower()
    with context.ledger() as ledger:
        record = ledger.jobs.get(job)
        place = known_jobs.place_of_job(context, context.settings(), record)
        for piece in kept.read(ledger, place, record.id, attempt=attempt, follow=follow):
            show(piece)
    output.end_log()


@jobs.command()
@job_argument
@of_user
@common
def wait(context: Context, job: str, of_user: str | None) -> int:
    """Follow a job to its end; take over its supervision where nobody has it.

    \b
    Examples:
      runctl jobs wait last
      runctl jobs wait digits-7f3a2c --output json
    """
    with context.ledger() as ledger:
        record = known_jobs.mine(context, ledger, job, of_user, "waited for")
        if record.state.final and record.state is not JobState.SUCCEEDED and clouds.ended(record.cloud):
            return running.show_end(context, ledger, record, record.updated)
        place = known_jobs.place_of_job(context, context.settings(), record)
        emit = running.follower(context)
        return running.follow(context, ledger, place, record, emit, log_from_start=False)


@jobs.command()
@job_argument
@of_user
@click.option("--dry-run", is_flag=True, help="Say what would be done and stop.")
@common
def stop(context: Context, job: str, of_user: str | None, dry_run: bool) -> None:
    """Let a job save, upload and end; it can be resumed.

    \b
    Examples:
      runctl jobs stop last
      runctl jobs stop digits-7f3a2c --dry-run
    """
    from runctl.jobs import control
    from runctl.jobs.supervise import Supervisor

    with context.ledger() as ledger:
        record = known_jobs.mine(context, ledger, job, of_user, "stopped")
        control.require_unfinished(record)
        if dry_run:
            running.show_stop_plan(context, control.plan_stop(ledger, record.id))
            return
        place = known_jobs.place_of_job(context, context.settings(), record)
        emit = running.follower(context)
        control.stop(ledger, place, record.id, emit=emit)
        at_most = control.patience(record)
        final = Supervisor(ledger, place, record.id, emit, log_from_start=False).run(at_most=at_most)
    control.require_ended(final, at_most)
    if context.json:
        output.write_json({"job": running.summary(final)})
    else:
        over = final.state is JobState.SUCCEEDED
        advice = "it had finished" if over else f"resume it: runctl jobs resume {quoted(final.id)}"
        output.talk(f"job {final.id} is {final.state}; {advice}")


@jobs.command()
@job_argument
@click.option("--from", "checkpoint", help="A committed checkpoint instead of the newest.")
@click.option("--budget", help="A new budget in USD, over all attempts.")
@click.option("--max-hours", type=float, help="A new limit in hours, over all attempts.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Of an adopted job: the folder to send as code."
)
@click.option("--accept-code", metavar="SHA256", help="Of an adopted job: run the code that the bucket has.")
@click.option("--outputs", metavar="LOCATION", help="Of an adopted job: where its outputs go.")
@click.option("--data", metavar="LOCATION", help="Of an adopted job: its data.")
@of_user
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--detach", is_flag=True, help="Leave the job alone once it is launched.")
@click.option("--dry-run", is_flag=True, help="Show from where and on what it would go on, and stop.")
@common
def resume(
    context: Context,
    *,
    job: str,
    checkpoint: str | None,
    budget: str | None,
    max_hours: float | None,
    root: Path | None,
    accept_code: str | None,
    outputs: str | None,
    data: str | None,
    of_user: str | None,
    yes: bool,
    detach: bool,
    dry_run: bool,
) -> int:
    """Take up a job again that failed, was stopped or ran over its budget.

    What a job that was adopted is said to be stands in its bucket, where others can write: it is shown, and
    you name its code.

    \b
    Examples:
      runctl jobs resume last --dry-run
      runctl jobs resume digits-7f3a2c --from 000012-epoch-00007.npz
      runctl jobs resume digits-7f3a2c --root . --outputs results
    """
    from runctl.jobs import adopted, checkpoints, start

    amount: Decimal | None = running.money(budget) if budget else None
    with context.ledger() as ledger:
        record = known_jobs.mine(context, ledger, job, of_user, "resumed")
        place = known_jobs.place_of_job(context, context.settings(), record)
        found = checkpoints.verify(place, checkpoint, record.seal) if checkpoint is not None else None
        now = place.clock.now()
        spec = start.resumed(
            ledger,
            record,
            now=now,
            resume_from=found.name if found else None,
            budget=amount,
            max_hours=max_hours,
        )
        named = adopted.Named(
            root=root,
            code=accept_code,
            output=running.absolute(outputs, Path.cwd()),
            data=running.absolute(data, Path.cwd()),
        )
        spec = adopted.resumption(place, record, spec, named, found)
        if dry_run:
            return running.show_resumption(context, place, record, spec)
        if record.adopted_at is not None:
            adopted.require_code(record, spec, adopted.said_of(place))
            running.show_resumption(context, place, record, spec)
            acting.confirm(f"Resume {record.id} so?", yes=yes)
        start.reopen(ledger, record, spec, now=now, cause="resumed")
        running.tell_id(context, record.id, detach=detach)
        emit = running.follower(context)
        return running.follow(context, ledger, place, ledger.jobs.get(record.id), emit, detach=detach)
