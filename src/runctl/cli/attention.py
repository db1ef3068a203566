"""What every command that touches a cloud says beside its work, on stderr: what was left, what is dear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl.clouds import home
from runctl.errors import LedgerDamaged, TrainctlError
from runctl.model import JobState
from runctl.quoting import quoted

if TYPE_CHECKING:
    from runctl.cli.options import Context
    from runctl.ledger import Ledger


_WITHOUT_MACHINE = (JobState.PLANNED, JobState.PROVISIONING, JobState.RECOVERING)
"""A job in one of these goes on only while somebody waits for it."""


def close_ended(context: Context, ledger: Ledger) -> None:
    """Close what sandboxes left that have ended, and say once which jobs went with them."""
    from runctl.jobs import ended_cloud

    for job in ended_cloud.settle(ledger):
        _say(context, f"job {job} is closed: {ledger.jobs.events(job)[-1].cause}")


def mention_missing(context: Context) -> None:
    """A ledger that is gone is begun anew, and never without a word while its copies are there."""
    _say(context, "the ledger is gone, a new one begins; runctl ledger restore brings back what was copied")


def mention_unfinished(context: Context) -> None:
    """Operations of dead processes, by their ids."""
    if not _has_ledger():
        return
    from runctl.safety import transaction

    try:
        with context.ledger() as ledger:
            left = transaction.abandoned(ledger)
            idle = ledger.jobs.list(states=_WITHOUT_MACHINE)
            if idle:
                from runctl.jobs.supervise import is_supervised

                idle = [job for job in idle if not is_supervised(ledger, job.id)]
    except LedgerDamaged as error:  # not every command needs it
        _say(context, f"{error.what}; see runctl ledger check")
        return
    if not left and not idle:
        return
    from runctl.resources import recovery

    ways = {recovery.way_on(record): f"{record.operation} of {record.subject}" for record in left}
    for job in idle:
        ways.setdefault(f"runctl jobs wait {quoted(job.id)}", f"job {job.id}, which is {job.state}")
    shown = "; ".join(f"{what}: {way}" for way, what in list(ways.items())[:3])
    more = f"; and {len(ways) - 3} more: runctl tx list, runctl jobs list" if len(ways) > 3 else ""
    _say(context, f"left unfinished: {shown}{more}")


def warn_of_costs(context: Context) -> None:
    """A word for each threshold that is reached, by the ledger; however the command ended."""
    if not _has_ledger():
        return
    from runctl.resources import costs

    limits = context.settings().values.thresholds
    try:
        with context.ledger() as ledger:
            for cloud in context.reached:
                for warning in costs.warnings(ledger, cloud.key, cloud.clock.now(), limits):
                    _say(context, warning)
    except LedgerDamaged:
        return  # that was said when the cloud was reached
    except TrainctlError as error:  # a command that has done its work has not failed
        _say(context, f"what all costs is not known: {error.what}")


def _has_ledger() -> bool:
    """Where there is none, nothing was begun and nothing was spent."""
    return (home() / "ledger.sqlite3").exists()


def _say(context: Context, text: str) -> None:
    """Also with --quiet, which is about stdout."""
    import msgspec

    from runctl.events import Notice

    msgspec.structs.replace(context, quiet=False).emit()(Notice(text=text, warning=True))
