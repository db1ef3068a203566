"""Carrying a job to its end: look, judge, act, again. Whoever holds the lease may be killed at any line.

Every act is guarded by a transition in the ledger, so that a successor finds either the state before it
or the state after it, and goes on.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from datetime import UTC, datetime, timedelta

import msgspec

from runctl import processes
from runctl.errors import (
    CapacityError,
    CloudError,
    Conflict,
    CredentialsError,
    QuotaError,
    TrainctlError,
)
from runctl.events import Emit, Heartbeat, Notice, Transition
from runctl.jobs import (
    accounting,
    adopted,
    ended_cloud,
    limits,
    outcomes,
    retrying,
    silent,
    start,
    state,
    steps,
)
from runctl.jobs.attempt import AgentState, seal_of
from runctl.jobs.closing import Closing
from runctl.jobs.judge import Judgement, Sighting, Standing, judge
from runctl.jobs.launch import Launcher, attempt_of, is_hopeless
from runctl.jobs.place import Place, guard, offers
from runctl.jobs.promises import Promises
from runctl.jobs.retention import Retention
from runctl.jobs.spec import decode, encode
from runctl.jobs.watch import REFUSED_LOOK_SECONDS, Watch
from runctl.ledger import AttemptRecord, JobRecord, Ledger, decoded
from runctl.model import JobId, JobState, Offer
from runctl.providers.base import Machine, MachineState
from runctl.quoting import quoted
from runctl.safety import transaction

LEASE_SECONDS = 15.0
"""How long a supervisor that does not renew keeps others out, in real seconds."""

POLL_SECONDS = 0.5
LOCAL_POLL_SECONDS = 0.05
PRICE_LOOK_SECONDS = 60.0
CAPACITY_WAIT = timedelta(minutes=1)
QUOTA_PATIENCE = timedelta(minutes=15)
"""How long a later attempt waits for a quota: the machine before it counts until EC2 has ended it."""

_WITH_MACHINE = frozenset({JobState.STAGING, JobState.RUNNING, JobState.ENDING})


def is_supervised(ledger: Ledger, job: JobId) -> bool:
    """Whether a process takes care of a job, as far as can be known."""
    holder = ledger.jobs.supervisor(job, datetime.now(UTC))
    return holder is not None and not _is_dead(holder)


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
        self._watch: Watch | None = None
        self._closing = Closing(ledger, place, emit)
        self._promises = Promises(ledger, place)
        self._retention = Retention(ledger, place, emit)
        self._log_from_start = log_from_start
        self._last_event = 0
        self._refused = ""  # for want of credentials, and said so

    def run(self, *, detach_after_launch: bool = False, at_most: float | None = None) -> JobRecord:
        """Until the job is final, or launched when it shall be left alone. Raises what ends it for good.

        Also returns after `at_most` real seconds, with the job as it stands then.
        """
        until = None if at_most is None else time.monotonic() + at_most
        try:
            while True:
                if why := self._place.ended:
                    ended_cloud.close(self._ledger, self._place.cloud_key, why)
                job = self._ledger.jobs.get(self._job)
                self._tell_events(job)
                if job.state.final:
                    if self._watch is not None and not self._place.ended:
                        self._watch.show_log(to_the_end=True)
                    return job
                if detach_after_launch and job.state in {JobState.STAGING, JobState.RUNNING}:
                    return job
                if until is not None and time.monotonic() >= until:
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

    def look_once(self) -> JobRecord:
        """What has become of a job whose machine works without us; waits for nothing and launches nothing.

        Leaves it as it is known where another process supervises it.
        """
        job = self._ledger.jobs.get(self._job)
        try:
            while job.state in _WITH_MACHINE and self._holds_lease():
                with contextlib.suppress(Conflict):  # another process moved the job meanwhile
                    self._look(job)
                before, job = job, self._ledger.jobs.get(self._job)
                if job.state is before.state:
                    break
        finally:
            self._ledger.jobs.release(self._job, self._owner)
        return job

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
            watch = self._watching(job, attempts[-1])
            watch.show_log()

    # Beginning an attempt

    def _begin_attempt(self, job: JobRecord) -> None:
        attempts = self._ledger.jobs.attempts(job.id)
        spec = decode(job.spec)
        now = self._place.clock.now()
        number = len(attempts) + 1
        if spec.stop_asked:
            self._move(job, JobState.STOPPED, "stopped by the user; it has no machine")
            return
        if not adopted.has_code(spec):
            way = f"runctl jobs resume {quoted(job.id)} --root FOLDER"
            cause = f"it was adopted, and what it runs is not named: {way}"
            self._move(job, JobState.STOPPED, cause)
            return
        if (limit := limits.reached(self._ledger, job.id, spec, now)) is not None:
            self._move(job, JobState.OVER_BUDGET, limit.cause)
            return
        if spec.budget is not None and accounting.spent(self._ledger, job.id, now).total.known is None:
            self._emit(
                Notice(text="a part of the cost has no known price: the budget misses it", warning=True)
            )
        if steps.used(attempts, spec.not_from) >= spec.max_attempts:
            many = f"{spec.max_attempts} failed, or were interrupted before they came further"
            self._move(job, JobState.FAILED, f"no attempts left: {many}")
            return
        if why := silent.twice(attempts):
            self._move(job, JobState.FAILED, why)
            return
        if not self._is_staged(job):
            return
        self._move(job, JobState.PROVISIONING, f"attempt {number}", attempt=number)
        self._ledger.jobs.save_attempt(
            AttemptRecord(job=job.id, number=number, state="provisioning", created=now)
        )

    def _is_staged(self, job: JobRecord) -> bool:
        """Whether code and data are in the store: whoever made the job may have died before they were."""
        try:
            start.stage(self._ledger, self._place, job, emit=self._emit)
        except TrainctlError as error:
            if self._is_to_wait_for(job, error, len(self._ledger.jobs.attempts(job.id)) + 1):
                return False
            self._move(job, JobState.FAILED, str(error))
            raise
        return True

    def _is_to_wait_for(self, job: JobRecord, error: TrainctlError, attempt: int) -> bool:
        """Whether time mends it: what does not answer, and for a job that ran before, a login.

        It is said once. Credentials of an evening are over when a machine is taken back at night.
        """
        if isinstance(error, CloudError) and error.retryable:
            self._emit(Notice(text=f"no answer, trying again: {error}", warning=True))
            return True
        if not isinstance(error, CredentialsError) or attempt == 1:
            return False
        if self._refused != str(error):
            self._refused = str(error)
            text = f"the job waits until there are credentials: {error}: {error.why}; next: {error.next}"
            self._emit(Notice(text=text, warning=True))
        until = time.monotonic() + REFUSED_LOOK_SECONDS
        while time.monotonic() < until and self._ledger.jobs.get(job.id).state is job.state:
            self._holds_lease()
            time.sleep(POLL_SECONDS)
        return True

    def _may_come_free(self, attempt: AttemptRecord) -> bool:
        """Whether the machine that was lost a moment ago may have the quota: it counts until it is gone."""
        return attempt.number > 1 and self._place.clock.now() < attempt.created + QUOTA_PATIENCE

    def _launch(self, job: JobRecord) -> None:
        """Finish what a dead process began, or launch anew; the attempt's row was written before."""
        attempt = attempt_of(self._ledger, job.id, self._place.clock.now())
        try:
            cause = self._launched(job, attempt)
        except KeyboardInterrupt:
            # What may be left is for recovery: only a job that left nothing is stopped.
            if attempt.instance_id is None and not transaction.abandoned(
                self._ledger, subject=f"{job.id}/{attempt.number}"
            ):
                self._move(job, JobState.STOPPED, "stopped while it was provisioned; nothing is left")
            raise
        if cause is not None:
            self._move(job, JobState.STAGING, cause)

    def _launched(self, job: JobRecord, attempt: AttemptRecord) -> str | None:
        """How an attempt has come to its machine; None where it has to be tried again."""
        spec, attempts = decode(job.spec), self._ledger.jobs.attempts(job.id)
        launcher = Launcher(self._ledger, self._place, job, spec, self._emit, self._holds_lease)
        try:
            # Also where the machine is known: its launch may have been cut off just before its end.
            machine = launcher.recover(attempt)
            if machine is None and attempt.instance_id is not None:
                return f"{attempt.instance_id} was launched"
            if machine is None:
                guard(self._place, spec, emit=self._emit)
                found = offers(self._place, spec, avoid=self._lost_zones(attempts), emit=self._emit)
                # A budget cannot count what has no price.
                priced = [one for one in found if one.price or spec.budget is None]
                machine = launcher.launch(attempt, priced)
        except CapacityError as error:
            if is_hopeless(error) and not self._may_come_free(attempt):
                self._move(job, JobState.FAILED, f"{error}: {error.code}")
                raise
            self._wait_for_capacity(job, error)
            return None
        except Conflict:
            raise
        except TrainctlError as error:
            if self._is_to_wait_for(job, error, attempt.number):
                return None
            self._move(job, JobState.FAILED, str(error))
            raise
        self._refused = ""
        if self._place.session is None:
            return "the agent started"
        return f"{machine.id}: {machine.instance_type} {machine.market} in {machine.zone}"

    def _wait_for_capacity(self, job: JobRecord, error: CapacityError) -> None:
        """A minute, or until somebody stops the job: it has no machine and costs nothing."""
        what = "the quota is spent" if isinstance(error, QuotaError) else "no capacity anywhere"
        self._emit(Notice(text=f"{what} ({error.code}); trying again in a minute", warning=True))
        until = self._place.clock.now() + CAPACITY_WAIT
        while self._place.clock.now() < until and self._ledger.jobs.get(job.id).state is job.state:
            self._holds_lease()
            time.sleep(POLL_SECONDS)

    def _lost_zones(self, attempts: list[AttemptRecord]) -> set[str]:
        """Zones that took a machine back within the last hour."""
        since = self._place.clock.now() - timedelta(hours=1)
        return {
            decoded(attempt.offer, Offer, attempt.job).zone
            for attempt in attempts
            if attempt.offer
            and attempt.cause in {"notice", "lost", "silent"}
            and attempt.ended
            and attempt.ended > since
        }

    # Watching an attempt

    def _look(self, job: JobRecord) -> None:
        attempt = self._ledger.jobs.attempts(job.id)[-1]
        watch = self._watching(job, attempt)
        seen = self._sight(job, attempt, watch)
        watch.show_log()
        judgement = judge(seen, watch.read_at)
        if judgement.standing is Standing.DOUBTFUL:
            watch.doubt("standing", judgement.why)
        else:
            watch.settle("standing")
        try:
            if why := self._promises.broken(job, watch, seen):
                self._lose(job, attempt, watch, why, broken=True)
                return
            self._follow_up(job, attempt, watch, judgement)
        except Conflict:
            raise
        except TrainctlError as error:
            # The machine needs nobody, and what failed is looked at and done again.
            watch.doubt("act", f"it is tried again: {error}", error)
        else:
            watch.settle("act")

    def _sight(self, job: JobRecord, attempt: AttemptRecord, watch: Watch) -> Sighting:
        # The cloud first: of a machine that it says is gone, the agent's last word is in the store by now.
        # The other way round, one that ended between the two looks would be taken for lost.
        self._ask_the_cloud(job, attempt, watch)
        was_over = watch.agent_is_over
        watch.look_at_agent()
        if watch.agent_is_over and not was_over:
            self._ask_the_cloud(job, attempt, watch)
        return Sighting(
            agent=watch.agent,
            store_answered=watch.store_answered,
            machine=watch.machine,
            cloud_answered=watch.cloud_answered,
            launched=attempt.started or attempt.created,
        )

    def _ask_the_cloud(self, job: JobRecord, attempt: AttemptRecord, watch: Watch) -> None:
        if attempt.instance_id:
            asked = self._place.clock.now()
            watch.look_at_machine(
                attempt.instance_id, lambda machine: self._account(job, attempt, watch, machine, asked)
            )

    def _follow_up(self, job: JobRecord, attempt: AttemptRecord, watch: Watch, judgement: Judgement) -> None:
        """What a standing asks for. Raises Conflict where another process moved the job meanwhile."""
        standing, agent = judgement.standing, watch.agent
        if standing is Standing.ENDED:
            self._end_attempt(job, attempt, watch)
        elif standing is Standing.LOST:
            self._lose(job, attempt, watch, judgement.why)
        elif standing is Standing.RUNNING and job.state is JobState.STAGING:
            resumed = agent.resumed_from if agent else None
            self._closing.save(attempt, agent, state="running")
            offered = f", and was given {resumed}" if resumed else ""
            self._move(job, JobState.RUNNING, f"the script runs{offered}")
        elif standing is Standing.ENDING and job.state in {JobState.STAGING, JobState.RUNNING}:
            self._move(job, JobState.ENDING, (agent.cause if agent else None) or "ending")
        if agent is not None and standing is Standing.RUNNING:
            self._beat(job, agent)
            self._tell_where_it_began(job, attempt, watch, agent)
            self._tell_silence(attempt, watch, agent)
            self._retention.look(job, watch)

    def _account(
        self, job: JobRecord, attempt: AttemptRecord, watch: Watch, machine: Machine, asked: datetime
    ) -> None:
        """Note what the cloud says; one that says `gone` is not believed before the agent agrees."""
        if decode(job.spec).instance:
            return
        if machine.state in {MachineState.PENDING, MachineState.RUNNING}:
            booted = watch.agent.booted_at if watch.agent else None
            accounting.note_machine(
                self._ledger, self._place, job, attempt.number, machine, asked=asked, booted=booted
            )
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

    def _end_attempt(self, job: JobRecord, attempt: AttemptRecord, watch: Watch) -> None:
        agent = watch.agent
        assert agent is not None  # noqa: S101 (the judge saw it end)
        outcome = outcomes.of(agent)
        cause = outcomes.cause_of(agent)
        if outcome is JobState.STOPPED and watch.asked_to_end and not decode(job.spec).stop_asked:
            outcome, cause = JobState.OVER_BUDGET, watch.limit or cause
        if job.state in {JobState.STAGING, JobState.RUNNING} and outcome is not JobState.FAILED:
            self._move(job, JobState.ENDING, agent.cause or "ending")
            return
        if not self._closing.machine_is_over(job, attempt, watch):
            return
        earlier = retrying.earlier(self._place, job.seal, decode(job.spec), agent)
        self._closing.close_books(attempt, watch, at=agent.ended)
        self._closing.save(attempt, agent, state="ended")
        for text in agent.losses:
            self._emit(Notice(text=text, warning=True))
        if earlier is None:
            self._move(job, outcome, cause)
            self._retention.look(self._ledger.jobs.get(job.id), watch)
            return
        spec = msgspec.structs.replace(decode(job.spec), not_from=earlier.instead_of)
        self._ledger.jobs.replace_spec(job.id, encode(spec))
        cause = f"{agent.message} at once from {agent.resumed_from}: {earlier.name} before it is tried"
        self._emit(Notice(text=cause, warning=True))
        self._move(job, JobState.RECOVERING, cause)

    def _lose(
        self, job: JobRecord, attempt: AttemptRecord, watch: Watch, why: str, *, broken: bool = False
    ) -> None:
        """No work goes on, or what the machine owed is `broken`: what is left of it ends, the job goes on."""
        watch.lost_because = why = watch.lost_because or why  # not what we did to the machine since then
        if not self._closing.machine_is_over(job, attempt, watch, broken=why if broken else ""):
            return
        self._closing.close_books(attempt, watch, at=watch.agent.last_sign if watch.agent else None)
        if silent.could_not_start(watch):
            self._closing.save(attempt, watch.agent, state="lost", cause="launch", message=why)
            self._move(job, JobState.FAILED, why)
            return
        never_spoke = silent.is_so(self._place, watch)
        if never_spoke and (console := silent.console(self._place, attempt.instance_id)):
            why = f"{why}; its console ends with: {console}"
        cause = "silent" if never_spoke else "lost"
        self._closing.save(attempt, watch.agent, state="lost", cause=cause, message=why)
        self._move(job, JobState.RECOVERING, f"the machine is lost: {why}")

    # Telling

    def _watching(self, job: JobRecord, attempt: AttemptRecord) -> Watch:
        if self._watch is None or self._watch.number != attempt.number:
            whole_log = self._log_from_start or self._watch is not None
            self._watch = Watch(
                self._place,
                self._job,
                attempt.number,
                self._emit,
                seal=seal_of(job, attempt),
                log_from_start=whole_log,
                before=self._watch,
            )
        return self._watch

    def _tell_where_it_began(
        self, job: JobRecord, attempt: AttemptRecord, watch: Watch, agent: AgentState
    ) -> None:
        """A script that begins anew although it was given a checkpoint: while there is time to stop it."""
        if agent.resumed_from is None or agent.began_at_step is None:
            return
        attempts = self._ledger.jobs.attempts(job.id)
        now = msgspec.structs.replace(
            attempt,
            began_step=agent.began_at_step,
            last_step=agent.step,
            resumed_from=agent.resumed_from,
            resumed_step=agent.resumed_step,
        )
        if steps.began_anew([*attempts[: attempt.number - 1], now], attempt.number - 1):
            given = f"it was given {agent.resumed_from}"
            watch.doubt("anew", f"the script begins anew, at step {agent.began_at_step}, though {given}")

    def _tell_silence(self, attempt: AttemptRecord, watch: Watch, agent: AgentState) -> None:
        """Steps go on and no checkpoint is kept: once a silence, and in the ledger for whoever asks."""
        if agent.silence_told:
            watch.doubt("silence", agent.silence_told)
        else:
            watch.settle("silence")
        if bool(agent.silence_told) != bool(attempt.silence):
            self._closing.save(attempt, agent, state=attempt.state)

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


def _this_owner() -> str:
    pid = os.getpid()
    return f"{platform.node()}:{pid}:{processes.born(pid) or 0.0:.2f}"


def _is_dead(owner: str) -> bool:
    """Whether a supervisor's process is gone; one on another host is left to its lease."""
    host, pid, started = owner.rsplit(":", 2)
    return host == platform.node() and not processes.is_same(int(pid), float(started))
