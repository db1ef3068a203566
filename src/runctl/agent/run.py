"""One attempt from its spec to its end: prepare, run, end in one way whatever the cause."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, Dict, List, Optional

from . import clock
from .attempt import Attempt
from .commit import Commit, Committer
from .failures import StoreAway, StoreRefused
from .files import write_atomically
from .imds import Metadata
from .machine import NOTICE_POLL_SECONDS, DeadMan, NoticeWatch
from .mirror import Mirror
from .preparation import PreparationFailed, Prepared, prepare_attempt
from .progress import StepReader
from .script import Script, become_subreaper, end_descendants, end_left_behind
from .store import open_store

HEARTBEAT_SECONDS = 5.0
PREPARATION_ENDS_WITHIN = 5.0
TICK = 0.25
LEAST_RESERVE = 10.0
GRACE_SECONDS = 90.0
NOTICE_SECONDS = 120.0  # what EC2 promises where a notice names no time
STORE_PATIENCE = 900.0
DISK_PATIENCE = 5.0  # a full disk does not return by itself
_LOG_CHUNK = 1024 * 1024


class Ending:
    """Why and until when an attempt is being ended; the first cause stays."""

    def __init__(self) -> None:
        self.cause: Optional[str] = None
        self.message = ""
        self.deadline = 0.0
        self._lock = threading.Lock()

    def begin(self, cause: str, deadline: float, message: str) -> None:
        """A notice that comes second still says when the machine goes."""
        with self._lock:
            if self.cause is None:
                self.deadline, self.message, self.cause = deadline, message, cause
            elif cause == "notice":
                self.deadline = min(self.deadline, deadline)


class Run:
    """The agent's work on one attempt."""

    def __init__(self, attempt: Attempt, home: str) -> None:
        self._attempt = attempt
        self._spec: Dict[str, Any] = attempt.spec
        self._home = home
        self._store = open_store(attempt.spec, Metadata())
        self._mirror = Mirror(attempt, self._store)
        self._dead_man = DeadMan(attempt.spec)
        self._ending = Ending()
        self._asked_to_stop = threading.Event()
        self._steps = StepReader()
        self._log_read = 0
        self._speed_from = (0.0, 0)
        self._next_beat = 0.0
        self._script_runs = threading.Event()
        self._committer = Committer(
            self._store,
            attempt.in_job(self._spec["checkpoint_dir"]),
            attempt.number,
            self._committed,
            lambda text: attempt.event("note", text=text),
            attempt.seal,
        )

    def run(self) -> int:
        """Answers the script's exit code, or 1 where it never started."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._hear)
        become_subreaper()
        self._attempt.keep_reserve()
        self._attempt.beat()
        threading.Thread(target=self._keep_beating, name="beat", daemon=True).start()
        self._mirror.start()
        machine = self._spec.get("machine", {})
        if machine.get("watch_notice"):
            NoticeWatch(
                lambda identity: self._attempt.update(**identity),
                self._noticed,
                lambda: self._attempt.event("rebalance-recommended"),
                float(machine.get("notice_poll_seconds") or NOTICE_POLL_SECONDS),
            )
        try:
            prepared = self._prepare()
            if prepared is None:
                message = "%s, before the script began" % self._ending.message
                return self._finish(str(self._ending.cause), message, None)
            self._attempt.update(step_name="script")
            self._committer.forget_what_lies_there()
            self._attempt.state["script_started"] = clock.now()
            script = Script(prepared.command, prepared.workdir, prepared.environment, self._attempt.log)
        except Exception as error:  # whatever it is, a machine must not wait for its timer
            if not isinstance(error, (PreparationFailed, OSError)):
                error = PreparationFailed("the agent failed: %r" % error)
            return self._finish("prepare-failed", str(error), None)
        try:
            return self._accompany(script)
        except Exception as error:
            script.kill()
            self._script_runs.clear()
            return self._finish("failed", "the agent failed: %r" % error, script.exit_code())

    def _prepare(self) -> Optional[Prepared]:
        """None where something ends the attempt meanwhile. Raises whatever preparation raises."""
        results: List[Prepared] = []
        errors: List[Exception] = []

        def work() -> None:
            try:
                self._keep_what_was_left()
                results.append(prepare_attempt(self._attempt, self._store, self._home))
            except Exception as error:
                errors.append(error)

        worker = threading.Thread(target=work, name="preparation", daemon=True)
        worker.start()
        while worker.is_alive():
            if self._should_end():
                _end_preparation(worker)
                return None
            worker.join(_tick())
        if errors:
            raise errors[0]
        return results[0]

    def _hear(self, *_: Any) -> None:
        self._asked_to_stop.set()

    def _accompany(self, script: Script) -> int:
        self._script_runs.set()
        self._attempt.update(phase="running", pid=script.pid)
        self._attempt.event("script-started", pid=script.pid)
        self._mirror.hurry()
        self._committer.start()
        while script.exit_code() is None and not self._should_end():
            time.sleep(_tick())
            self._look(script)
        if self._ending.cause is not None and script.exit_code() is None:
            self._end(script)
        alive = script.kill()
        self._script_runs.clear()
        self._look(script, force=True)
        self._committer.stop()
        code = script.exit_code()
        self._commit_last(whole=code == 0 or not (script.was_cut_off or alive))
        # On its way down the system signals the script, too, and it may have ended before we looked.
        shut_down = code != 0 and self._is_shut_down() and self._should_end()
        if self._attempt.state["signalled"] or shut_down:
            return self._finish(str(self._ending.cause), self._ending.message, code)
        if code == 0:
            return self._finish("finished", "the script finished", code)
        return self._finish("failed", "the script ended with exit code %s" % code, code)

    def _should_end(self) -> bool:
        """Whether anything asks for the end; notes the first cause."""
        now = clock.now()
        grace = float(self._spec.get("grace_seconds", GRACE_SECONDS))
        if self._is_shut_down():
            self._ending.begin("shutdown", now + grace, "the machine was shut down")
        if self._asked_to_stop.is_set() or os.path.exists(self._attempt.path("stop")):
            self._ending.begin("stop", now + grace, "stopped as asked")
        deadline = self._spec.get("deadline")
        if deadline and now >= deadline:
            self._ending.begin("deadline", now + grace, "its time is over")
        budget = self._spec.get("budget")
        if budget and self.spent(budget, now) >= float(budget["usd"]):
            spent = (_usd(self.spent(budget, now)), _usd(float(budget["usd"])))
            self._ending.begin("budget", now + grace, "%s of a budget of %s are spent" % spent)
        return self._ending.cause is not None

    def _is_shut_down(self) -> bool:
        """Nobody signals the agent of a disposable machine but its operating system, on its way down."""
        return self._asked_to_stop.is_set() and bool(self._spec.get("machine", {}).get("disposable"))

    @staticmethod
    def spent(budget: Dict[str, Any], now: float) -> float:
        hours = max(0.0, now - float(budget["since"])) / 3600
        return float(budget.get("spent_usd") or 0) + hours * float(budget.get("usd_per_hour") or 0)

    def _end(self, script: Script) -> None:
        """Signal, wait within what the deadline leaves after the upload, save what is complete meanwhile."""
        ending, begun = self._ending, clock.now()
        number = getattr(signal, str(self._spec.get("signal") or "SIGTERM"))
        self._attempt.update(phase="ending", cause=ending.cause, signalled=True)
        self._attempt.event("ending", cause=ending.cause, deadline=ending.deadline)
        self._mirror.hurry()
        self._committer.hurry()
        while clock.now() < (until := max(begun + 1.0, ending.deadline - self._reserve())):
            if not script.go_on_ending(number, late=clock.now() > (begun + until) / 2):
                return
            time.sleep(clock.SHORTEST_WAIT)
            self._look(script)
        self._attempt.event("killed", reason="it did not end by itself in time")

    def _reserve(self) -> float:
        """Seconds before the machine is taken that belong to the upload; nobody takes a machine otherwise."""
        if self._attempt.state["notice_at"] is None:
            return 0.0
        return max(LEAST_RESERVE, 1.5 * self._committer.upload_seconds())

    def _look(self, script: Script, force: bool = False) -> None:
        """Read what is new in the log; beat when it is time."""
        state = self._attempt.state
        try:
            with open(self._attempt.log, "rb") as file:
                file.seek(self._log_read)
                while True:
                    data = file.read(_LOG_CHUNK)
                    if not data:
                        break
                    self._log_read += len(data)
                    self._steps.feed(data)
        except OSError:  # no log yet
            pass
        if force:
            self._steps.feed(b"\n")
        state["log_bytes"] = self._log_read
        state["step"] = self._steps.step
        now = clock.now()
        if force or now >= self._next_beat:
            self._next_beat = now + HEARTBEAT_SECONDS
            self._measure_speed(now)
            script.reap()
            self._attempt.beat()
            self._dead_man.put_off()

    def _measure_speed(self, now: float) -> None:
        step = self._steps.step
        if step is None:
            return
        then, before = self._speed_from
        if then and now - then >= HEARTBEAT_SECONDS / 2 and step >= before:
            self._attempt.state["steps_per_second"] = (step - before) / (now - then)
        self._speed_from = (now, step)

    def _keep_beating(self) -> None:
        """Before and after the script, while stores are waited for; the main loop beats between."""
        while True:
            if not self._script_runs.is_set():
                self._attempt.beat()
                self._dead_man.put_off()
            clock.sleep(HEARTBEAT_SECONDS)

    def _noticed(self, action: str, at: Optional[float]) -> None:
        now = clock.now()
        self._attempt.event("notice", action=action, time=at)
        deadline = at if at is not None else now + NOTICE_SECONDS
        self._ending.begin("notice", deadline, "the cloud takes the machine back")
        if self._attempt.state["notice_at"] is None:
            self._attempt.state["notice_at"] = now

    def _committed(self, commit: Commit) -> None:
        notice = self._attempt.state["notice_at"]
        self._attempt.update(
            committed={
                "name": commit.name,
                "step": commit.step,
                "at": commit.at,
                "seconds_after_notice": None if notice is None else max(0.0, commit.at - notice),
            }
        )
        self._attempt.event("committed", name=commit.name, step=commit.step)
        self._mirror.hurry()

    def _keep_what_was_left(self) -> None:
        """A local job's folder may hold a checkpoint that an agent before us could not commit any more."""
        if self._attempt.number == 1 and not self._attempt.ran_before:
            return
        number = getattr(signal, str(self._spec.get("signal") or "SIGTERM"))
        grace = clock.real(float(self._spec.get("grace_seconds", GRACE_SECONDS)))
        end_left_behind(self._spec["job"], self._attempt.in_job(self._spec["checkpoint_dir"]), number, grace)
        if self._store.mirrors:
            return
        try:
            self._committer.forget_what_is_committed(since=self._attempt.job_began)
            self._committer.commit_newest(final=True, whole=False)
        except (StoreAway, StoreRefused, OSError) as error:
            self._attempt.event("note", text="what was left could not be committed: %s" % error)

    def _commit_last(self, whole: bool) -> None:
        self._patiently(
            lambda: self._committer.commit_newest(final=True, whole=whole, last_step=self._steps.step)
        )

    def _patiently(self, send: Any) -> None:
        """Keep trying while the store is away: until the machine is taken, or for a quarter of an hour."""
        patience = clock.now() + (STORE_PATIENCE if self._store.mirrors else DISK_PATIENCE)
        wait = 0.5
        while True:
            try:
                send()
                return
            except (StoreAway, OSError) as error:
                noticed = self._attempt.state["notice_at"] is not None
                if clock.now() >= (self._ending.deadline if noticed else patience):
                    self._attempt.event("note", text="given up: %s" % error)
                    return
                clock.sleep(wait)
                wait = min(wait * 2, 10.0)
            except StoreRefused as error:
                self._attempt.event("note", text="refused: %s" % error)
                return

    def _finish(self, cause: str, message: str, code: Optional[int]) -> int:
        self._attempt.spend_reserve()
        if self._store.mirrors and code is not None:
            self._patiently(self._send_outputs)
        self._attempt.update(phase="ended", cause=cause, message=message, exit_code=code, ended=clock.now())
        self._attempt.event("ended", cause=cause, exit_code=code)
        self._mirror.stop()
        self._patiently(self._mirror.flush)
        self._attempt.beat()
        try:
            write_atomically(self._attempt.path("exit"), str(1 if code is None else code).encode())
        except OSError:
            pass  # the state says it too
        if cause == "notice":
            self._dead_man.end_soon()
        else:
            self._dead_man.end_now()
        return 1 if code is None else code

    def _send_outputs(self) -> None:
        output = self._attempt.in_job(self._spec["output_dir"])
        for parent, _, leaves in os.walk(output):
            for leaf in sorted(leaves):
                path = os.path.join(parent, leaf)
                key = "outputs/" + os.path.relpath(path, output).replace(os.sep, "/")
                self._store.put_file(key, path, os.path.getsize(path))


def _usd(amount: float) -> str:
    return ("$%.2f" if amount >= 1 else "$%.4f") % amount


def _end_preparation(worker: threading.Thread) -> None:
    """End what it started, and what it starts before it has seen that its last step failed."""
    until = time.monotonic() + PREPARATION_ENDS_WITHIN
    while worker.is_alive() and time.monotonic() < until:
        end_descendants()
        worker.join(0.05)
    end_descendants()


def _tick() -> float:
    """Real seconds between two looks."""
    return TICK if clock.real(1.0) >= 1.0 else clock.SHORTEST_WAIT
