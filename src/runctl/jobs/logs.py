"""What a job's script wrote, read from where it is kept: one attempt after the other, to the end."""

from __future__ import annotations

import time
from collections.abc import Iterator

from runctl.events import LogOutput
from runctl.jobs.place import Place
from runctl.ledger import Ledger
from runctl.model import JobId

POLL_SECONDS = 1.0


def read(
    ledger: Ledger,
    place: Place,
    job: JobId,
    *,
    attempt: int | None = None,
    follow: bool = False,
    poll: float = POLL_SECONDS,
) -> Iterator[LogOutput]:
    """The log of `attempt`, or of the last; with `follow` to its end, or through later ones to the job's."""
    numbers = [known.number for known in ledger.jobs.attempts(job)]
    number, offset = attempt or (numbers[-1] if numbers else 1), 0
    view = place.view(number)
    while True:
        # Asked before the log is read: once the job or a later attempt says so, all of it is there.
        over = ledger.jobs.get(job).state.final
        later = [known.number for known in ledger.jobs.attempts(job) if known.number > number]
        for piece in view.log(offset):
            offset = piece.end
            yield LogOutput(job=job, attempt=number, data=piece.data)
        if later and attempt is None and follow:
            number, offset = later[0], 0
            view = place.view(number)
        elif over or later or not follow:
            return
        else:
            time.sleep(poll)
