"""Closing an attempt: its machine ended or left, its books closed, its row written. May be repeated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from runctl.errors import Protected
from runctl.events import Emit, Notice
from runctl.jobs import accounting
from runctl.jobs.attempt import AgentState
from runctl.jobs.place import Place
from runctl.jobs.spec import decode
from runctl.jobs.watch import Watch
from runctl.ledger import AttemptRecord, JobRecord, Ledger
from runctl.providers.base import MachineState

END_PATIENCE = timedelta(minutes=2)
"""On the cloud's clock: how long a machine whose work is done may take to end itself."""

_OVER = frozenset({MachineState.ENDING, MachineState.GONE})


class Closing:
    """Closes the attempts of one ledger's jobs at one place."""

    def __init__(self, ledger: Ledger, place: Place, emit: Emit) -> None:
        self._ledger = ledger
        self._place = place
        self._emit = emit

    def machine_is_over(
        self, job: JobRecord, attempt: AttemptRecord, watch: Watch, *, broken: str = ""
    ) -> bool:
        """Whether the machine costs nothing any more, or is kept; ends it where it does not end itself.

        The agent is over, or both sources say that the machine is lost, or it is `broken` what it owed: then
        one that may not be ended is not over, for its script may still run.
        """
        spec = decode(job.spec)
        if self._place.session is None or spec.instance:
            if broken:
                self._emit(Notice(text=f"{attempt.instance_id} is left as it is: {broken}", warning=True))
            return True
        if not watch.cloud_answered or attempt.instance_id is None:
            return False
        machine, agent = watch.machine, watch.agent
        if machine is None or machine.state in _OVER:
            return True
        stopped = machine.state is MachineState.STOPPED
        if stopped:
            # Its hours are free from now on, those of its disks are not; only now EC2 shows since when.
            accounting.note_machine(
                self._ledger,
                self._place,
                job,
                attempt.number,
                machine,
                asked=self._place.clock.now(),
                booted=agent.booted_at if agent else None,
            )
        if spec.keep and not _was_noticed(agent):
            self._emit(Notice(text=f"{attempt.instance_id} is kept, and goes on costing", warning=True))
            return True
        if not stopped and not broken and not self._is_overdue(agent):
            return False
        why = "was stopped from outside" if stopped else "did not end itself"
        is_left = self._terminate(job, attempt, watch, f"is terminated: {broken or 'it ' + why}")
        return is_left and not broken

    def _is_overdue(self, agent: AgentState | None) -> bool:
        """Whether a machine whose agent is over had its time to end by itself."""
        if agent is None or not agent.is_over:
            return False
        patience = END_PATIENCE + (timedelta(minutes=2) if _was_noticed(agent) else timedelta(0))
        return self._place.clock.now().timestamp() - (agent.ended or 0.0) > patience.total_seconds()

    def close_books(self, attempt: AttemptRecord, watch: Watch, at: float | None) -> None:
        """The machine's bill ends where the cloud says so, else at `at`, seconds since the epoch, or now."""
        if self._place.session is None or attempt.instance_id is None:
            return
        machine = watch.machine
        proven = datetime.fromtimestamp(at, UTC) if at else self._place.clock.now()
        if decode(self._ledger.jobs.get(attempt.job).spec).instance:
            use = accounting.use_of(attempt.instance_id, attempt.job, attempt.number)
            accounting.close_machine(self._ledger, self._place, use, at=proven, ended_by="user")
            return
        if machine is not None and machine.state not in _OVER:
            return  # it is kept: its bill goes on
        accounting.close_machine(
            self._ledger,
            self._place,
            attempt.instance_id,
            at=(machine.ended if machine else None) or proven,
            ended_by=machine.ended_by if machine else None,
            booted=watch.agent.booted_at if watch.agent else None,
        )

    def save(
        self,
        attempt: AttemptRecord,
        agent: AgentState | None,
        *,
        state: str,
        cause: str | None = None,
        message: str | None = None,
    ) -> None:
        """Write the attempt's row as its agent left it."""
        now = self._place.clock.now()
        changed = msgspec.structs.replace(attempt, state=state, cause=cause, message=message)
        if agent is not None:
            none_kept = 0 if agent.is_over else None
            changed = msgspec.structs.replace(
                changed,
                cause=cause or agent.cause,
                message=message or agent.message,
                resumed_from=agent.resumed_from,
                resumed_step=agent.resumed_step,
                last_step=_last_step(agent),
                exit_code=agent.exit_code,
                committed_name=agent.committed.name if agent.committed else None,
                committed_step=agent.committed.step if agent.committed else None,
                committed_seconds=agent.committed.seconds_after_notice if agent.committed else None,
                began_step=agent.began_at_step,
                silence=agent.silence_told or None,
                kept_files=agent.kept.files if agent.kept else none_kept,
                kept_bytes=agent.kept.bytes if agent.kept else none_kept,
            )
        if state in {"ended", "lost"}:
            ended = datetime.fromtimestamp(agent.ended, UTC) if agent and agent.ended else now
            spent = accounting.spent(self._ledger, attempt.job, now, attempt=attempt.number)
            changed = msgspec.structs.replace(changed, ended=ended, cost=spent.total.known)
        self._ledger.jobs.save_attempt(changed)

    def _terminate(self, job: JobRecord, attempt: AttemptRecord, watch: Watch, why: str) -> bool:
        """Ask for the machine's end; whether it has to be left to the user instead."""
        from runctl.safety import destroy

        assert self._place.session is not None  # noqa: S101 (a machine of the cloud's)
        assert attempt.instance_id is not None  # noqa: S101 (asked before)
        watch.doubt("end", f"{attempt.instance_id} {why}")
        try:
            destroy.terminate_job_instance(
                self._place.session, attempt.instance_id, job=job.id, ledger=self._ledger
            )
        except Protected as error:
            text = f"{attempt.instance_id} is left as it is, and goes on costing: {error.why}"
            watch.doubt("left", text, error)
            return True
        watch.ask_the_cloud_next()
        return False


def _was_noticed(agent: AgentState | None) -> bool:
    return agent is not None and agent.cause == "notice"


def _last_step(agent: AgentState) -> int | None:
    """A script that wrote nothing yet did no step; one that names no steps leaves them unknown."""
    if agent.step is None and agent.log_bytes == 0:
        return agent.resumed_step or 0
    return agent.step
