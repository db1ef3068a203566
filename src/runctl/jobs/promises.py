"""Whether the machine of an attempt keeps what it owes: looked at by whoever supervises, beside the agent."""

from __future__ import annotations

import time
from datetime import timedelta

from runctl.errors import TrainctlError
from runctl.jobs import limits, overdue
from runctl.jobs.judge import Sighting
from runctl.jobs.place import Place
from runctl.jobs.spec import decode
from runctl.jobs.watch import Watch
from runctl.ledger import JobRecord, Ledger

LIMITS_LOOK_SECONDS = 5.0


class Promises:
    """Those of one job's machines at one place."""

    def __init__(self, ledger: Ledger, place: Place) -> None:
        self._ledger = ledger
        self._place = place

    def broken(self, job: JobRecord, watch: Watch, seen: Sighting) -> str:
        """What the machine owed and did not keep; empty where it keeps all that is due."""
        if self._place.session is None:
            return ""
        spec = decode(job.spec)
        is_ours = not spec.instance and not spec.keep
        if time.monotonic() >= watch.next_look_at_limits:
            watch.next_look_at_limits = time.monotonic() + LIMITS_LOOK_SECONDS
            reached = limits.reached(self._ledger, job.id, spec, watch.read_at)
            watch.limit = reached.cause if reached else ""
        limit_for = watch.due_for("limit", is_due=bool(watch.limit))
        if limit_for is not None and limit_for > overdue.ASKED_AFTER and not watch.asked_to_end:
            self._ask_to_end(job, watch)
        return overdue.broken(
            seen,
            overdue.Owed(
                lease=timedelta(minutes=self._place.settings.lease_minutes) if is_ours else None,
                grace=timedelta(seconds=spec.grace_seconds),
                limit=watch.limit,
                limit_for=limit_for or timedelta(0),
                stop_for=watch.due_for("stop", is_due=spec.stop_asked),
            ),
            watch.read_at,
        )

    def _ask_to_end(self, job: JobRecord, watch: Watch) -> None:
        """The agent counts with the price of its launch, and may not know that a limit is reached."""
        from runctl.providers.aws import shell

        assert self._place.session is not None  # noqa: S101 (asked before)
        agent, machine = watch.agent, watch.machine
        if agent is None or agent.phase != "running" or machine is None:
            return
        watch.asked_to_end = True
        try:
            if shell.is_online(self._place.session, machine.id):
                self._place.provider.ask_to_stop(machine.id, job.id, watch.number)
        except TrainctlError as error:
            watch.doubt("limit", f"{watch.limit}, and its agent cannot be told: {error}", error)
