"""Carrying a job to its end: look, judge, act, again. Whoever holds the lease may be killed at any line.

Every act is guarded by a transition in the ledger, so that a successor finds either the state before it
or the state after it, and goes on.
"""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime, timedelta

import msgspec

from runctl import processes
from runctl.errors import CapacityError, CloudError, Conflict, TrainctlError
from runctl.events import Emit, Heartbeat, LogOutput, Notice, Transition
from runctl.jobs import accounting, state
from runctl.jobs.attempt import AgentState
from runctl.jobs.judge import Judgement, Sighting, Standing, judge
from runctl.jobs.launch import Launcher
from runctl.jobs.place import Place, offers
from runctl.jobs.spec import JobSpec, decode
from runctl.ledger import AttemptRecord, JobRecord, Ledger
from runctl.model import JobId, JobState, Offer
from runctl.providers.base import Machine, MachineState
from runctl.safety import transaction

LEASE_SECONDS = 15.0
"""How long a supervisor that does not renew keeps others out, in real seconds."""

POLL_SECONDS = 0.5
LOCAL_POLL_SECONDS = 0.05
CLOUD_LOOK_SECONDS = 2.0
PRICE_LOOK_SECONDS = 60.0
CAPACITY_WAIT = timedelta(minutes=1)
END_PATIENCE = timedelta(minutes=2)
"""On the cloud's clock: how long a machine whose work is done may take to end itself."""

_OUTCOMES = {
    "finished": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "prepare-failed": JobState.FAILED,
    "notice": JobState.RECOVERING,
    "shutdown": JobState.RECOVERING,
    "stop": JobState.STOPPED,
    "budget": JobState.OVER_BUDGET,
    "deadline": JobState.OVER_BUDGET,
}


class _Watch(msgspec.Struct):
    """What a supervisor remembers between two looks at one attempt; all of it may be forgotten."""

    number: int
    log_offset: int = 0
    looked_at_cloud: float = 0.0
    machine: Machine | None = None
    cloud_answered: bool = False
    looked_at_prices: float = 0.0
    agent: AgentState | None = None
    doubt: str = ""


class Supervisor:
    """Supervises one job, or follows it while another process does."""

    def __init__(
        self, ledger: Ledger, place: Place, job: JobId, emit: Emit, *, log_from_start: bool = True
    ) -> None:
        self._ledger = ledger
        self._place = place
        self._job = job
        self._emit = emit
        self._owner = _this_owner()
        self._watch: _Watch | None = None
        self._log_from_start = log_from_start
        self._last_event = 0

    def run(self, *, detach_after_launch: bool = False) -> JobRecord:
        """Until the job is final, or launched when it shall be left alone. Raises what ends it for good."""
        try:
            while True:
                job = self._ledger.jobs.get(self._job)
                self._tell_events(job)
                if job.state.final:
                    self._show_log()
                    return job
                if detach_after_launch and job.state in {JobState.STAGING, JobState.RUNNING}:
                    return job
                if self._holds_lease():
                    self._act(job)
                else:
                    self._follow(job)
                if self._ledger.jobs.get(self._job).state is not job.state:
                    continue  # something happened: what follows from it need not wait
                time.sleep(LOCAL_POLL_SECONDS if self._place.session is None else POLL_SECONDS)
        finally:
            self._ledger.jobs.release(self._job, self._owner)

    def _holds_lease(self) -> bool:
        now = datetime.now(UTC)
        holder = self._ledger.jobs.supervisor(self._job, now)
        if holder is not None and holder != self._owner and _is_dead(holder):
            self._ledger.jobs.release(self._job, holder)
        return self._ledger.jobs.supervise(self._job, self._owner, now=now, seconds=LEASE_SECONDS)

    def _act(self, job: JobRecord) -> None:
        try:
            if job.state in {JobState.PLANNED, JobState.RECOVERING}:
                self._begin_attempt(job)
            elif job.state is JobState.PROVISIONING:
                self._launch(job)
            else:
                self._look(job)
        except Conflict:
            return  # another process moved the job meanwhile: look again

    def _follow(self, job: JobRecord) -> None:
        """Another process supervises: only show."""
        attempts = self._ledger.jobs.attempts(job.id)
        if attempts:
            watch = self._watching(attempts[-1])
            watch.agent = self._place.view(watch.number).state()
            self._show_log()

    # Beginning an attempt

    def _begin_attempt(self, job: JobRecord) -> None:
        attempts = self._ledger.jobs.attempts(job.id)
        spec = decode(job.spec)
        now = self._place.clock.now()
        number = len(attempts) + 1
        limit = self._over_limit(job, spec, now)
        if limit is not None:
            self._move(job, *limit)
            return
        if number > spec.max_attempts:
            self._move(job, JobState.FAILED, f"no attempts left: {spec.max_attempts} were made")
            return
        self._move(job, JobState.PROVISIONING, f"attempt {number}", attempt=number)
        self._ledger.jobs.save_attempt(
            AttemptRecord(job=job.id, number=number, state="provisioning", created=now)
        )

    def _over_limit(self, job: JobRecord, spec: JobSpec, now: datetime) -> tuple[JobState, str] | None:
        if spec.budget is not None:
            spent = accounting.spent(self._ledger, job.id, now).total
            if spent.usd >= spec.budget:
                return JobState.OVER_BUDGET, f"the budget of {spec.budget} USD is spent"
            if spent.known is None:
                self._emit(
                    Notice(text="a part of the cost has no known price: the budget misses it", warning=True)
                )
        return None

    def _launch(self, job: JobRecord) -> None:
        """Finish what a dead process began, or launch anew; the attempt's row was written before."""
        attempts = self._ledger.jobs.attempts(job.id)
        number = self._ledger.jobs.events(job.id)[-1].attempt
        now = self._place.clock.now()
        attempt = next((known for known in attempts if known.number == number), None) or AttemptRecord(
            job=job.id, number=number, state="provisioning", created=now
        )
        spec = decode(job.spec)
        launcher = Launcher(self._ledger, self._place, job, spec, self._emit, self._holds_lease)
        if attempt.instance_id is None:
            try:
                machine = launcher.recover(attempt)
                if machine is None:
                    avoid = self._lost_zones(attempts)
                    found = offers(self._place, spec, avoid=avoid, emit=self._emit)
                    # A budget cannot count what has no price.
                    priced = [offer for offer in found if offer.price or spec.budget is None]
                    machine = launcher.launch(attempt, priced)
            except CapacityError as error:
                self._wait_for_capacity(error)
                return
            except CloudError as error:
                if error.retryable:
                    self._emit(Notice(text=f"the cloud does not answer, trying again: {error}", warning=True))
                    return
                self._move(job, JobState.FAILED, str(error))
                raise
            except KeyboardInterrupt:
                # What may be left is for recovery: only a job that left nothing is stopped.
                if not transaction.abandoned(self._ledger, subject=f"{job.id}/{number}"):
                    self._move(job, JobState.STOPPED, "stopped while it was provisioned; nothing is left")
                raise
            except Conflict:
                raise
            except TrainctlError as error:
                self._move(job, JobState.FAILED, str(error))
                raise
            where = f"{machine.instance_type} {machine.market} in {machine.zone}"
            cause = f"{machine.id}: {where}" if self._place.session else "the agent started"
        else:
            cause = f"{attempt.instance_id} was launched"
        self._move(job, JobState.STAGING, cause)

    def _wait_for_capacity(self, error: CapacityError) -> None:
        self._emit(
            Notice(text=f"no capacity anywhere ({error.code}); trying again in a minute", warning=True)
        )
        until = self._place.clock.now() + CAPACITY_WAIT
        while self._place.clock.now() < until:
            self._holds_lease()
            time.sleep(POLL_SECONDS)

    def _lost_zones(self, attempts: list[AttemptRecord]) -> set[str]:
        """Zones that took a machine back within the last hour."""
        since = self._place.clock.now() - timedelta(hours=1)
        return {
            msgspec.json.decode(attempt.offer, type=Offer).zone
            for attempt in attempts
            if attempt.offer
            and attempt.cause in {"notice", "lost"}
            and attempt.ended
            and attempt.ended > since
        }

    # Watching an attempt

    def _look(self, job: JobRecord) -> None:
        attempt = self._ledger.jobs.attempts(job.id)[-1]
        watch = self._watching(attempt)
        seen = self._sight(job, attempt, watch)
        self._show_log()
        judgement = judge(seen, self._place.clock.now())
        self._note_doubt(watch, judgement)
        if judgement.standing is Standing.ENDED:
            self._end_attempt(job, attempt, watch)
        elif judgement.standing is Standing.LOST:
            self._lose(job, attempt, watch, judgement.why)
        elif judgement.standing is Standing.RUNNING and job.state is JobState.STAGING:
            resumed = watch.agent.resumed_from if watch.agent else None
            self._save(attempt, watch.agent, state="running")
            self._move(job, JobState.RUNNING, f"resumed from {resumed}" if resumed else "the script runs")
        elif judgement.standing is Standing.ENDING and job.state in {JobState.STAGING, JobState.RUNNING}:
            self._move(job, JobState.ENDING, (watch.agent.cause if watch.agent else None) or "ending")
        if watch.agent is not None and judgement.standing is Standing.RUNNING:
            self._beat(job, watch.agent)

    def _sight(self, job: JobRecord, attempt: AttemptRecord, watch: _Watch) -> Sighting:
        store_answered = True
        try:
            watch.agent = self._place.view(attempt.number).state() or watch.agent
        except TrainctlError as error:
            store_answered = False
            self._doubt(watch, f"the store does not answer: {error}")
        ended = watch.agent is not None and watch.agent.is_over
        interval = LOCAL_POLL_SECONDS * 4 if self._place.session is None else CLOUD_LOOK_SECONDS
        if attempt.instance_id and (ended or time.monotonic() - watch.looked_at_cloud >= interval):
            watch.looked_at_cloud = time.monotonic()
            try:
                watch.machine = self._place.provider.describe(attempt.instance_id)
                watch.cloud_answered = True
                if watch.machine is not None:
                    self._account(job, attempt, watch, watch.machine)
            except CloudError as error:
                watch.cloud_answered = False
                self._doubt(watch, f"the cloud does not answer: {error}")
        return Sighting(
            agent=watch.agent,
            store_answered=store_answered,
            machine=watch.machine,
            cloud_answered=watch.cloud_answered,
            launched=attempt.started or attempt.created,
        )

    def _account(self, job: JobRecord, attempt: AttemptRecord, watch: _Watch, machine: Machine) -> None:
        """Note what the cloud says; one that says `gone` is not believed before the agent agrees."""
        if decode(job.spec).instance:
            return
        if machine.state in {MachineState.PENDING, MachineState.RUNNING}:
            accounting.note_machine(self._ledger, self._place, job, attempt.number, machine)
            if (
                self._place.session is not None
                and time.monotonic() - watch.looked_at_prices >= PRICE_LOOK_SECONDS
                and machine.market.value == "spot"
            ):
                watch.looked_at_prices = time.monotonic()
                accounting.note_prices(
                    self._ledger,
                    self._place,
                    machine.instance_type,
                    machine.zone,
                    start=machine.launched,
                    end=self._place.clock.now(),
                )

    # Ending an attempt

    def _end_attempt(self, job: JobRecord, attempt: AttemptRecord, watch: _Watch) -> None:
        agent = watch.agent
        assert agent is not None  # noqa: S101 (the judge saw it end)
        outcome = _OUTCOMES.get(agent.cause or "", JobState.RECOVERING)
        if job.state in {JobState.STAGING, JobState.RUNNING} and outcome is not JobState.FAILED:
            self._move(job, JobState.ENDING, agent.cause or "ending")
            return
        if not self._machine_is_over(job, attempt, watch, agent):
            return
        self._close(attempt, watch, at=agent.ended)
        self._save(attempt, agent, state="ended")
        cause = agent.message or agent.cause or ""
        if outcome is JobState.RECOVERING:
            cause = _recovery_cause(agent)
        self._move(job, outcome, cause)

    def _machine_is_over(
        self, job: JobRecord, attempt: AttemptRecord, watch: _Watch, agent: AgentState
    ) -> bool:
        """Whether the machine costs nothing any more, or is kept; ends it where it does not end itself."""
        spec = decode(job.spec)
        if self._place.session is None or spec.instance:
            return True
        if not watch.cloud_answered or attempt.instance_id is None:
            return False
        machine = watch.machine
        if machine is None or machine.state in {MachineState.ENDING, MachineState.GONE, MachineState.STOPPED}:
            return True
        if spec.keep and agent.cause != "notice":
            self._emit(Notice(text=f"{attempt.instance_id} is kept, and goes on costing", warning=True))
            return True
        patience = END_PATIENCE + (timedelta(minutes=2) if agent.cause == "notice" else timedelta(0))
        waited = self._place.clock.now().timestamp() - (agent.ended or 0.0)
        if waited > patience.total_seconds():
            from runctl.safety import destroy

            self._emit(Notice(text=f"{attempt.instance_id} did not end itself and is terminated"))
            destroy.terminate_job_instance(self._place.session, attempt.instance_id, job=job.id)
        return False

    def _lose(self, job: JobRecord, attempt: AttemptRecord, watch: _Watch, why: str) -> None:
        """Both sources say that the machine is gone."""
        self._close(attempt, watch, at=watch.agent.heartbeat if watch.agent else None)
        self._save(attempt, watch.agent, state="lost", cause="lost", message=why)
        self._move(job, JobState.RECOVERING, f"the machine is lost: {why}")

    def _close(self, attempt: AttemptRecord, watch: _Watch, at: float | None) -> None:
        if self._place.session is None or attempt.instance_id is None:
            return
        machine = watch.machine
        proven = datetime.fromtimestamp(at, UTC) if at else self._place.clock.now()
        if decode(self._ledger.jobs.get(attempt.job).spec).instance:
            use = accounting.use_of(attempt.instance_id, attempt.job, attempt.number)
            accounting.close_machine(self._ledger, self._place, use, at=proven, ended_by="user")
            return
        if machine is not None and machine.state in {MachineState.PENDING, MachineState.RUNNING}:
            return  # kept by the user: its bill goes on
        accounting.close_machine(
            self._ledger,
            self._place,
            attempt.instance_id,
            at=(machine.ended if machine else None) or proven,
            ended_by=machine.ended_by if machine else None,
        )

    def _save(
        self,
        attempt: AttemptRecord,
        agent: AgentState | None,
        *,
        state: str,
        cause: str | None = None,
        message: str | None = None,
    ) -> None:
        now = self._place.clock.now()
        changed = msgspec.structs.replace(attempt, state=state, cause=cause, message=message)
        if agent is not None:
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
            )
        if state in {"ended", "lost"}:
            ended = datetime.fromtimestamp(agent.ended, UTC) if agent and agent.ended else now
            spent = accounting.spent(self._ledger, attempt.job, now, attempt=attempt.number)
            changed = msgspec.structs.replace(changed, ended=ended, cost=spent.total.known)
        self._ledger.jobs.save_attempt(changed)

    # Telling

    def _watching(self, attempt: AttemptRecord) -> _Watch:
        if self._watch is None or self._watch.number != attempt.number:
            offset = 0
            if self._watch is None and not self._log_from_start:
                agent = self._place.view(attempt.number).state()
                offset = agent.log_bytes if agent else 0
            self._watch = _Watch(attempt.number, log_offset=offset)
        return self._watch

    def _show_log(self) -> None:
        watch = self._watch
        if watch is None:
            return
        try:
            data = self._place.view(watch.number).log(watch.log_offset)
        except TrainctlError as error:
            self._doubt(watch, f"the log cannot be read: {error}")
            return
        if data:
            watch.log_offset += len(data)
            self._emit(LogOutput(job=self._job, attempt=watch.number, data=data))

    def _beat(self, job: JobRecord, agent: AgentState) -> None:
        spent = accounting.spent(self._ledger, job.id, self._place.clock.now())
        self._emit(
            Heartbeat(
                job=job.id,
                attempt=agent.attempt,
                step=agent.step,
                steps_per_second=agent.steps_per_second,
                cost=spent.total.known if self._place.session else None,
            )
        )

    def _note_doubt(self, watch: _Watch, judgement: Judgement) -> None:
        if judgement.standing is Standing.DOUBTFUL:
            self._doubt(watch, judgement.why)
        else:
            watch.doubt = ""

    def _doubt(self, watch: _Watch, text: str) -> None:
        """Say each doubt once, its figures aside."""
        kind = text.split(";", maxsplit=1)[0].split(" for ", maxsplit=1)[0]
        if watch.doubt != kind:
            watch.doubt = kind
            self._emit(Notice(text=text, warning=True))

    def _tell_events(self, job: JobRecord) -> None:
        events = self._ledger.jobs.events(job.id)
        for event in events[self._last_event :]:
            self._emit(
                Transition(
                    job=job.id,
                    attempt=event.attempt,
                    state=event.state,
                    at=event.at,
                    cause=event.cause,
                    cost=event.cost,
                )
            )
        self._last_event = len(events)

    def _move(self, job: JobRecord, to: JobState, cause: str, *, attempt: int | None = None) -> None:
        now = self._place.clock.now()
        number = self._ledger.jobs.events(job.id)[-1].attempt if attempt is None else attempt
        cost = accounting.spent(self._ledger, job.id, now).total.known if self._place.session else None
        self._ledger.jobs.transition(
            job.id,
            to,
            # The state that this process saw: whoever moved it meanwhile wins.
            allowed_from={job.state} & state.may_come_from(to),
            at=now,
            attempt=number,
            cause=cause,
            cost=cost,
        )


def _last_step(agent: AgentState) -> int | None:
    """A script that wrote nothing yet did no step; one that names no steps leaves them unknown."""
    if agent.step is None and agent.log_bytes == 0:
        return agent.resumed_step or 0
    return agent.step


def _recovery_cause(agent: AgentState) -> str:
    if agent.cause != "notice":
        return f"{agent.message or agent.cause}; going on from the newest checkpoint"
    if agent.committed is None:
        return "spot interruption; no checkpoint was committed"
    seconds = agent.committed.seconds_after_notice
    if seconds is None or seconds <= 0:
        return f"spot interruption; the newest checkpoint {agent.committed.name} was safe before the notice"
    return f"spot interruption; {agent.committed.name} was safe {seconds:.1f} s after the notice"


def _this_owner() -> str:
    pid = os.getpid()
    return f"{platform.node()}:{pid}:{processes.born(pid) or 0.0:.2f}"


def _is_dead(owner: str) -> bool:
    """Whether a supervisor's process is gone; one on another host is left to its lease."""
    host, pid, started = owner.rsplit(":", 2)
    return host == platform.node() and not processes.is_same(int(pid), float(started))
