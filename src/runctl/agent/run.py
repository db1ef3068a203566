"""One attempt from its spec to its end: prepare, run, end in one way whatever the cause."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, Dict, Optional

from . import clock
from .attempt import Attempt
from .commit import Commit, Committer
from .files import write_atomically
from .imds import Metadata
from .machine import DeadMan, NoticeWatch, identity
from .mirror import Mirror
from .preparation import PreparationFailed, prepare_attempt
from .progress import StepReader
from .s3 import StoreAway, StoreRefused
from .script import Script
from .store import open_store

HEARTBEAT_SECONDS = 5.0
TICK = 0.25
LEAST_RESERVE = 10.0
STORE_PATIENCE = 900.0
_LOG_CHUNK = 1024 * 1024


class Ending:
    """Why and until when an attempt is being ended; the first cause stays."""

    def __init__(self) -> None:
        self.cause: Optional[str] = None
        self.deadline = 0.0
        self.since = 0.0

    def begin(self, cause: str, deadline: float) -> bool:
        if self.cause is not None:
            return False
        self.cause, self.deadline, self.since = cause, deadline, clock.now()
        return True


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
        self._committer = Committer(
            self._store,
            attempt.in_job(self._spec["checkpoint_dir"]),
            attempt.number,
            self._committed,
            lambda text: attempt.event("note", text=text),
        )

    def run(self) -> int:
        """Answers the script's exit code, or 1 where it never started."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._asked_to_stop.set())
        self._attempt.beat()
        self._dead_man.put_off()
        beating = threading.Thread(target=self._beat_while_preparing, daemon=True)
        beating.start()
        self._mirror.start()
        try:
            if self._spec.get("machine", {}).get("watch_notice"):
                self._attempt.update(**identity())
                NoticeWatch(self._noticed, lambda: self._attempt.event("rebalance-recommended"))
            self._keep_what_was_left()
            prepared = prepare_attempt(self._attempt, self._store, self._home)
            self._attempt.update(step_name="script")
            self._committer.forget_what_lies_there()
            self._attempt.state["script_started"] = clock.now()
            script = Script(prepared.command, prepared.workdir, prepared.environment, self._attempt.log)
        except (PreparationFailed, OSError) as error:
            cause = self._ending.cause or "prepare-failed"
            return self._finish(cause, str(error), None)
        return self._accompany(script)

    def _accompany(self, script: Script) -> int:
        self._attempt.update(phase="running", pid=script.pid)
        self._attempt.event("script-started", pid=script.pid)
        self._mirror.hurry()
        self._committer.start()
        while script.exit_code() is None and not self._should_end():
            time.sleep(TICK if clock.real(1.0) >= 1.0 else clock.SHORTEST_WAIT)
            self._look()
        if self._ending.cause is not None and script.exit_code() is None:
            self._end(script)
        script.kill()
        self._committer.stop()
        code = script.exit_code()
        self._look(force=True)
        self._commit_last()
        if self._ending.cause:
            message = "ended by %s" % self._ending.cause
        elif code == 0:
            message = "the script finished"
        else:
            message = "the script ended with exit code %s" % code
        return self._finish(self._ending.cause or ("finished" if code == 0 else "failed"), message, code)

    def _should_end(self) -> bool:
        """Whether anything asks for the end; notes the first cause."""
        now = clock.now()
        grace = float(self._spec.get("grace_seconds") or 90)
        if self._asked_to_stop.is_set() or os.path.exists(self._attempt.path("stop")):
            self._ending.begin("stop", now + grace)
        deadline = self._spec.get("deadline")
        if deadline and now >= deadline:
            self._ending.begin("deadline", now + grace)
        budget = self._spec.get("budget")
        if budget and self.spent(budget, now) >= float(budget["usd"]):
            self._ending.begin("budget", now + grace)
        return self._ending.cause is not None

    @staticmethod
    def spent(budget: Dict[str, Any], now: float) -> float:
        hours = max(0.0, now - float(budget["since"])) / 3600
        return float(budget.get("spent_usd") or 0) + hours * float(budget.get("usd_per_hour") or 0)

    def _end(self, script: Script) -> None:
        """Signal, wait within what the deadline leaves after the upload, save what is complete meanwhile."""
        ending = self._ending
        reserve = max(LEAST_RESERVE, 1.5 * self._committer.upload_seconds())
        kill_at = max(clock.now() + 1.0, ending.deadline - reserve)
        number = getattr(signal, str(self._spec.get("signal") or "SIGTERM"))
        self._attempt.update(phase="ending", cause=ending.cause, signalled=True)
        self._attempt.event("ending", cause=ending.cause, deadline=ending.deadline, kill_at=kill_at)
        self._mirror.hurry()
        self._committer.hurry()
        script.signal(number)
        told_the_rest = False
        while clock.now() < kill_at:
            if script.exit_code() is not None:
                if not script.others():
                    return
                if not told_the_rest:
                    script.signal_rest(number)
                    told_the_rest = True
            time.sleep(clock.SHORTEST_WAIT)
            self._look()
        self._attempt.event("killed", reason="it did not end by itself in time")

    def _look(self, force: bool = False) -> None:
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
        except OSError:
            pass
        if force:
            self._steps.feed(b"\n")
        state["log_bytes"] = self._log_read
        state["step"] = self._steps.step
        now = clock.now()
        if force or now >= self._next_beat:
            self._next_beat = now + HEARTBEAT_SECONDS
            self._measure_speed(now)
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

    def _beat_while_preparing(self) -> None:
        while self._attempt.state["phase"] == "preparing":
            self._attempt.beat()
            self._dead_man.put_off()
            clock.sleep(HEARTBEAT_SECONDS)

    def _noticed(self, action: str, at: Optional[float]) -> None:
        now = clock.now()
        self._attempt.state["notice_at"] = now
        self._attempt.event("notice", action=action, time=at)
        self._ending.begin("notice", at if at is not None else now + 120.0)

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
        if self._store.mirrors or self._attempt.number == 1:
            return
        try:
            self._committer.commit_newest(final=True)
        except (StoreAway, StoreRefused, OSError) as error:
            self._attempt.event("note", text="what was left could not be committed: %s" % error)

    def _commit_last(self) -> None:
        self._patiently(lambda: self._committer.commit_newest(final=True, last_step=self._steps.step))

    def _patiently(self, send: Any) -> None:
        """Keep trying while the store is away: until the machine is taken, or for a quarter of an hour."""
        patience = STORE_PATIENCE
        until = self._ending.deadline if self._ending.cause == "notice" else clock.now() + patience
        wait = 0.5
        while True:
            try:
                send()
                return
            except (StoreAway, OSError) as error:
                if clock.now() >= until:
                    self._attempt.event("note", text="given up: %s" % error)
                    return
                self._attempt.beat()
                self._dead_man.put_off()
                clock.sleep(wait)
                wait = min(wait * 2, 10.0)
            except StoreRefused as error:
                self._attempt.event("note", text="refused: %s" % error)
                return

    def _finish(self, cause: str, message: str, code: Optional[int]) -> int:
        if self._store.mirrors and code is not None:
            self._patiently(self._send_outputs)
        self._attempt.update(phase="ended", cause=cause, message=message, exit_code=code, ended=clock.now())
        self._attempt.event("ended", cause=cause, exit_code=code)
        self._mirror.stop()
        self._patiently(self._mirror.flush)
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
