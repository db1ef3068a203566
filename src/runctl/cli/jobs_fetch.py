"""`runctl jobs fetch`: what a job's script wrote, to a folder here."""

from __future__ import annotations

from pathlib import Path

import click

from runctl.cli import known_jobs
from runctl.cli.options import Context, common, complete_jobs, of_user
from runctl.errors import ExitCode

TREES = ("outputs", "work", "checkpoints", "all")


@click.command()
@click.argument("job", shell_complete=complete_jobs)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--tree",
    "trees",
    multiple=True,
    type=click.Choice(TREES),
    help="What to fetch; may be given again.  [default: outputs and work]",
)
@click.option("--from", "snapshot", metavar="NAME", help="An earlier snapshot instead of the newest.")
@of_user
@common
def fetch(
    context: Context,
    job: str,
    folder: Path,
    trees: tuple[str, ...],
    snapshot: str | None,
    of_user: str | None,
) -> int:
    """Bring home what a job's script wrote, also while it runs or after it failed.

    It comes from the job's newest snapshot: `outputs` are the files of RUNCTL_OUTPUT_DIR, `work` is what the
    script wrote in its own folder; both come to DIR with their paths. `checkpoints` come to DIR/checkpoints,
    or where --checkpoints named them. What lies in DIR and differs is kept as NAME.before-1, and told;
    what is the same is not fetched again.

    \b
    Examples:
      runctl jobs fetch last results
      runctl jobs fetch digits-7f3a2c . --tree all
      runctl jobs fetch digits-7f3a2c old --from 000012 --output json
    """
    from runctl.jobs import outputs
    from runctl.jobs.spec import decode
    from runctl.render import fetched as shown
    from runctl.render.transfer import following

    wanted = outputs.TREES if "all" in trees else trees or outputs.USUAL
    with context.ledger() as ledger:
        record = known_jobs.mine(context, ledger, job, of_user, "fetched from")
        place = known_jobs.place_of_job(context, context.settings(), record)
        with following(quiet=context.quiet, json=context.json) as emit:
            found = outputs.fetch(
                place, decode(record.spec), record, folder, trees=wanted, name=snapshot, emit=emit
            )
    shown.show(context.json, found, quiet=context.quiet)
    return ExitCode.INPUT if found.left else ExitCode.SUCCESS
