"""Asking a job to stop: its agent saves, uploads and ends."""

from __future__ import annotations

from runctl.errors import ValidationError
from runctl.jobs import state
from runctl.jobs.place import Place
from runctl.ledger import JobRecord, Ledger
from runctl.model import JobState


def stop(ledger: Ledger, place: Place, job: JobRecord) -> None:
    """Ask; whoever supervises the job sees it end. Raises ValidationError for one that has ended."""
    if job.state.final:
        raise ValidationError(f"Job {job.id} is {job.state} already", next=f"runctl jobs show {job.id}")
    attempts = ledger.jobs.attempts(job.id)
    if job.state in {JobState.PLANNED, JobState.RECOVERING}:
        ledger.jobs.transition(
            job.id,
            JobState.STOPPED,
            allowed_from={job.state} & state.may_come_from(JobState.STOPPED),
            at=place.clock.now(),
            attempt=len(attempts),
            cause="stopped by the user",
        )
        return
    current = attempts[-1] if attempts else None
    if current is None or current.instance_id is None:
        raise ValidationError(
            f"Job {job.id} is being launched",
            why="there is no machine yet to ask",
            next="try again in a moment",
        )
    place.provider.ask_to_stop(current.instance_id, job.id, current.number)
