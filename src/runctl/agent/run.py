"""One attempt from its spec to its end: prepare, run, end in one way whatever the cause."""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from typing import Any, Callable, FrozenSet, List, Optional, Tuple

from . import clock
from .attempt import Attempt
from .ending import Ending
from .failures import StoreAway, StoreRefused
from .files import write_atomically
from .imds import Metadata
from .looking import Looking
from .machine import NOTICE_POLL_SECONDS, DeadMan, NoticeWatch
from .memory import Memory
from .mirror import Mirror
from .output import Output
from .patience import LAST_WORDS_SECONDS, Patience, real_time, say, within
from .preparation import PreparationFailed, Prepared, prepare_attempt
from .progress import Steps
from .restoring import CorruptSnapshot, lying_of, read_manifest, snapshot_names
from .script import Script, become_subreaper, end_descendants, end_left_behind, shield_nothing_yet
from .silence import Silence
from .snapshot import Manifest
from .snapshots import Commit, Snapshots
from .store import open_store
from .trees import trees_of
from .watch import HEARTBEAT_SECONDS, STILL_SECONDS, Watch, tick
from .writers import held_for_writing

PREPARATION_ENDS_WITHIN = 5.0
LEAST_RESERVE = 10.0
LOG_SECONDS = 120.0
"""What is spent at the end on the rest of the log; then only its newest part is sent."""
KILL_SECONDS = 15.0
SIGNAL_SECONDS = 0.1
"""Real seconds: by so much our own SIGTERM may come later than the script's, where both are sent at once."""


class Run:
    """The agent's work on one attempt.

    The work has a thread; the main thread only watches over it, and ends the attempt where it stands still.
    """

    def __init__(self, attempt: Attempt, home: str, restarted: bool = False) -> None:
        """`restarted`: the machine booted anew in the middle of it, and nothing is left to go on with."""
        self._restarted = restarted
        if restarted:
            attempt.take_over()
        self._attempt = attempt
        self._spec = attempt.spec
        self._home = home
        self._store = open_store(attempt.spec, Metadata())
        self._output = Output(attempt.log, attempt.state["log_hole"])
        self._mirror = Mirror(attempt, self._store, self._output)
        self._dead_man = DeadMan(attempt.spec)
        self._ending = Ending(attempt.spec)
        self._watch = Watch(attempt, self._ending, self._dead_man)
        self._patience = Patience(self._store, self._ending, attempt.note, self._watch.turned)
        self._script: Optional[Script] = None
        self._code: Optional[int] = None
        self._memory: Optional[Memory] = None
        self._fault = ""
        self._keeper: Optional[Any] = None
        self._running = True
        self._speed_from = (0.0, 0)
        self._next_measure = 0.0
        self._steps = Steps()
        self._silence = Silence()
        self._last_checkpoint: Optional[Tuple[Any, ...]] = None
        self._trees = trees_of(attempt, self._store.mirrors)
        self._looking = Looking(
            self._trees,
            self._steps,
            lambda: self._script.processes() if self._script is not None else (),
            self._spec.get("checkpoint_pattern"),
        )
        self._snapshots = Snapshots(
            self._store,
            self._looking,
            attempt.number,
            attempt.folder,
            self._committed,
            attempt.note,
            attempt.seal,
            attempt.leave_out,
            str((self._spec.get("bundle") or {}).get("sha256") or ""),
            self._patience.left,
        )

    def run(self) -> int:
        """Answers the script's exit code, or 1 where it never started."""
        become_subreaper()
        threading.excepthook = self._tell_of_thread
        shield_nothing_yet()
        self._attempt.keep_reserve()
        self._attempt.update()
        self._watch.start()
        self._mirror.start()
        machine = self._spec.get("machine", {})
        if machine.get("watch_notice"):
            NoticeWatch(
                lambda identity: self._attempt.update(**identity),
                self._watch.noticed,
                lambda: self._attempt.event("rebalance-recommended"),
                float(machine.get("notice_poll_seconds") or NOTICE_POLL_SECONDS),
                self._attempt.note,
            )
        work = threading.Thread(target=self._work, name="work", daemon=True)
        work.start()
        if not self._watch.over(work):
            return self._break_off("its work stood still for %d s" % STILL_SECONDS)
        return self._break_off(self._fault) if self._code is None else self._code

    def _tell_of_thread(self, died: Any) -> None:
        """No thread ends without a word."""
        name = died.thread.name if died.thread is not None else "a thread"
        self._attempt.note("%s ended: %r" % (name, died.exc_value))

    # The work

    def _work(self) -> None:
        try:
            self._code = self._prepare_and_run()
        except BaseException as error:  # the main thread ends what is left
            self._fault = repr(error)

    def _prepare_and_run(self) -> int:
        if self._restarted:
            return self._finish("shutdown", "the machine was restarted, or crashed", None)
        try:
            prepared = self._prepare()
            if prepared is None:
                message = "%s, before the script began" % self._ending.message
                return self._finish(str(self._ending.cause), message, None)
            self._attempt.update(step_name="script")
            self._snapshots.begin_with(prepared.manifest, prepared.lying)
            self._list_environment(prepared.made)
            self._attempt.state["script_started"] = clock.now()
            self._memory = Memory()
            script = Script(prepared.command, prepared.workdir, prepared.environment, self._attempt.log)
        except Exception as error:  # whatever it is, a machine must not wait for its timer
            if not isinstance(error, (PreparationFailed, OSError)):
                error = PreparationFailed("the agent failed: %r" % error)
            return self._finish("prepare-failed", str(error), None)
        self._script = script
        script.dies_before_us()  # what was started before has our old score
        try:
            return self._accompany(script)
        except Exception as error:
            script.kill()
            return self._finish("failed", "the agent failed: %r" % error, script.exit_code())

    def _prepare(self) -> Optional[Prepared]:
        """None where something ends the attempt meanwhile. Raises whatever preparation raises."""
        results: List[Prepared] = []
        errors: List[Exception] = []

        def work() -> None:
            try:
                self._keep_what_was_left()
                results.append(prepare_attempt(self._attempt, self._store, self._home, self._trees))
            except Exception as error:
                errors.append(error)

        worker = threading.Thread(target=work, name="preparation", daemon=True)
        worker.start()
        while worker.is_alive():
            self._watch.turned()
            if self._ending.cause is not None:
                _end_preparation(worker)
                return None
            clock.wait(lambda: not worker.is_alive(), tick())
        if errors:
            raise errors[0]
        return results[0]

    def _list_environment(self, made: Optional[str]) -> None:
        """What was installed for this attempt is kept for the next one."""
        if made is None or not self._store.mirrors or not self._attempt.seal:
            return
        from .kept_environment import Keeper  # what a local job does not need is not loaded

        self._keeper = Keeper(
            self._store,
            self._attempt.seal,
            self._home,
            made,
            lambda: self._ending.cause is None and self._running,
            lambda: self._snapshots.is_busy,
            self._attempt.note,
        )

    def _accompany(self, script: Script) -> int:
        self._attempt.update(phase="running", pid=script.pid)
        self._attempt.event("script-started", pid=script.pid)
        self._mirror.hurry()
        self._silence.begins(clock.now())
        self._snapshots.start()
        if self._keeper is not None:
            self._keeper.start()
        while script.exit_code() is None and self._ending.cause is None:
            clock.wait(self._ending.came.is_set, tick())
            self._look(script)
        self._running = False
        if self._ending.cause is not None and script.exit_code() is None:
            self._end(script)
        # Who signals us may have signalled the script, too: its clean exit proves no finished work then.
        told_to_end = self._is_told_to_end()
        cut = self._held()
        alive = script.kill()
        self._look(script, end=True)
        self._snapshots.stop()
        code = script.exit_code()
        whole = code == 0 or not (script.was_cut_off or alive)
        self._patience.spend(lambda: self._snapshots.take(final=True, whole=whole, suspect=cut))
        self._snapshots.tell_left()
        if told_to_end:
            self._watch.ask()
        if self._ending.cause is not None and (self._attempt.state["signalled"] or told_to_end):
            return self._finish(str(self._ending.cause), self._ending.message, code)
        if out_of_memory := self._memory.why(code) if self._memory is not None else None:
            return self._finish("failed", out_of_memory, code)
        if code == 0:
            return self._finish("finished", "the script finished", code)
        return self._finish("failed", "the script ended with exit code %s" % code, code)

    def _is_told_to_end(self) -> bool:
        """Whether we got a signal until now, or get it in this moment."""
        if self._ending.cause is None:
            clock.wait(lambda: self._watch.was_signalled, SIGNAL_SECONDS)
        return self._watch.was_signalled

    def _end(self, script: Script) -> None:
        """Signal, wait within what the deadline leaves after the upload, save what is complete meanwhile."""
        ending, begun = self._ending, time.monotonic()
        self._attempt.update(phase="ending", cause=ending.cause, signalled=True)
        until = clock.now() + ending.seconds_for_script(0.0)
        self._attempt.event("ending", cause=ending.cause, deadline=until)
        self._mirror.hurry()
        self._snapshots.hurry()
        while time.monotonic() - begun < 1.0 or ending.seconds_for_script(self._reserve()) > 0:
            is_late = clock.of_cloud(time.monotonic() - begun) > ending.seconds_for_script(self._reserve())
            if not script.go_on_ending(self._signal, late=is_late):
                return
            time.sleep(clock.SHORTEST_WAIT)
            self._look(script)
        self._attempt.event("killed", reason="it did not end by itself in time")

    @property
    def _signal(self) -> int:
        return int(getattr(signal, str(self._spec.get("signal") or "SIGTERM")))

    def _reserve(self) -> float:
        """Seconds before the machine is taken that belong to the upload; nobody takes a machine otherwise."""
        if self._ending.machine_goes_at is None:
            return 0.0
        return max(LEAST_RESERVE, 1.5 * self._snapshots.upload_seconds())

    def _look(self, script: Script, end: bool = False) -> None:
        """Read some of what is new in the log; now and then tidy up behind the script."""
        self._watch.turned()
        state = self._attempt.state
        try:
            self._output.look(end)
            state["log_bytes"] = self._output.size() - state["log_left_out"]
        except OSError as error:
            self._attempt.note("the log cannot be read: %s" % error)
        state["step"] = self._output.steps.step
        state["began_at_step"] = self._output.steps.first
        self._steps.name(time.time(), self._output.steps.step)
        self._silence.stepped(self._output.steps.step)
        if end or time.monotonic() >= self._next_measure:
            self._next_measure = time.monotonic() + clock.real(HEARTBEAT_SECONDS)
            self._measure_speed(clock.now())
            self._tell_silence(clock.now())
            script.reap()
            self._keep_log_within_bounds()

    def _tell_silence(self, now: float) -> None:
        since = self._silence.since(now)
        told = None if since is None else {"since": since, "seen": self._looking.what_waits()}
        if told is not None and self._attempt.state["silence"] is None:
            self._attempt.event("silence", **told)
        self._attempt.state["silence"] = told

    def _keep_log_within_bounds(self) -> None:
        try:
            if self._output.keep_within_bounds():
                self._attempt.update(log_hole=self._output.zeros)
                self._attempt.note("the log is very long: its middle was given back to the disk")
        except OSError as error:
            self._attempt.note("the log cannot be shortened: %s" % error)

    def _measure_speed(self, now: float) -> None:
        step = self._output.steps.step
        if step is None:
            return
        then, before = self._speed_from
        if then and now - then >= HEARTBEAT_SECONDS / 2 and step >= before:
            self._attempt.state["steps_per_second"] = (step - before) / (now - then)
        self._speed_from = (now, step)

    def _held(self) -> FrozenSet[Tuple[int, int]]:
        """What is being written by processes that are about to be killed."""
        if self._script is None:
            return frozenset()
        held = held_for_writing(self._script.processes(), [tree.root for tree in self._trees])
        return frozenset(held or ())

    def _committed(self, commit: Commit) -> None:
        notice = self._attempt.state["notice_at"]
        checkpoint = "/".join(commit.checkpoint) if commit.checkpoint else None
        if checkpoint and self._last_checkpoint != (checkpoint, commit.step):
            self._last_checkpoint = (checkpoint, commit.step)
            self._silence.kept(clock.now())
            self._attempt.state["silence"] = None
        self._attempt.update(
            kept={"files": commit.files, "bytes": commit.size},
            committed={
                "name": commit.name,
                "checkpoint": checkpoint and os.fsencode(checkpoint).decode("utf-8", "backslashreplace"),
                "step": commit.step,
                "at": commit.at,
                "seconds_after_notice": None if notice is None else max(0.0, commit.at - notice),
            },
        )
        self._attempt.event("committed", name=commit.name, step=commit.step, files=commit.files)
        self._mirror.hurry()

    def _keep_what_was_left(self) -> None:
        """A local job's folder may hold a checkpoint that an agent before us could not commit any more."""
        if self._attempt.number == 1 and not self._attempt.ran_before:
            return
        grace = clock.real(self._ending.grace)
        end_left_behind(
            self._spec["job"], self._attempt.in_job(self._spec["checkpoint_dir"]), self._signal, grace
        )
        if self._store.mirrors:
            return
        try:
            manifest = self._newest_manifest()
            lying = lying_of(manifest, self._trees) if manifest else ()
            self._snapshots.begin_with(manifest, lying, since=self._attempt.job_began)
            self._snapshots.take(final=True, whole=False)
        except (StoreAway, StoreRefused, OSError) as error:
            self._attempt.note("what was left could not be kept: %s" % error)

    def _newest_manifest(self) -> Optional[Manifest]:
        for name in snapshot_names(self._store)[-1:]:
            try:
                return read_manifest(self._store, name, self._attempt.seal)
            except CorruptSnapshot:
                break
        return None

    # The end

    def _finish(self, cause: str, message: str, code: Optional[int]) -> int:
        self._attempt.spend_reserve()
        self._mirror.end_log()
        until = time.monotonic() + self._seconds_for_log()
        self._patience.spend(lambda: self._mirror.send_rest(until), LAST_WORDS_SECONDS)
        return self._tell_the_end(cause, message, code, self._patience.spend)

    def _seconds_for_log(self) -> float:
        """In real time."""
        goes = self._ending.machine_goes_at
        if goes is None:
            return real_time(LOG_SECONDS)
        return clock.real(max(0.0, goes - clock.now() - LEAST_RESERVE))

    def _tell_the_end(
        self,
        cause: str,
        message: str,
        code: Optional[int],
        patiently: Callable[[Callable[[], Any], float], object],
    ) -> int:
        """The last words, in an order in which whoever sees one finds all that comes before it."""
        exit_code = 1 if code is None else code
        self._attempt.state["log_bytes"] = self._output.size() - self._attempt.state["log_left_out"]
        self._attempt.update(
            phase="ended",
            cause=cause,
            message=message,
            exit_code=code,
            ended=clock.now(),
            heartbeat=None,
        )
        self._attempt.event("ended", cause=cause, exit_code=code)
        patiently(self._mirror.send_state, LAST_WORDS_SECONDS)
        try:
            write_atomically(self._attempt.path("exit"), str(exit_code).encode())
        except OSError:
            pass  # the state says it too
        if cause == "notice":
            self._dead_man.end_soon()
        else:
            self._dead_man.end_now()
        return exit_code

    def _break_off(self, why: str) -> int:
        """The work does not come back: end the script and tell of it, each thing within its time."""
        say("agent: %s\n" % why)
        within(KILL_SECONDS, faulthandler.dump_traceback)
        cause, script = self._ending.cause or "failed", self._script
        within(KILL_SECONDS, lambda: self._attempt.event("broken-off", reason=why))
        if script is not None:
            begun, grace = time.monotonic(), clock.real(self._ending.grace)
            goes = self._ending.machine_goes_at
            if goes is not None:
                grace = min(grace, max(1.0, clock.real(max(0.0, goes - clock.now() - LEAST_RESERVE))))
            while time.monotonic() < begun + grace:
                if not script.go_on_ending(self._signal, late=time.monotonic() > begun + grace / 2):
                    break
                self._attempt.heartbeat()
                time.sleep(tick())
            within(KILL_SECONDS, script.kill)
            self._snapshots.stop()
            within(real_time(LOG_SECONDS), lambda: self._snapshots.take(final=True, whole=False))
            within(KILL_SECONDS, self._snapshots.tell_left)
        self._mirror.end_log()
        soon = time.monotonic() + LAST_WORDS_SECONDS
        within(2 * LAST_WORDS_SECONDS, lambda: self._mirror.send_rest(soon))
        code = None if script is None else script.exit_code()
        done = within(
            4 * LAST_WORDS_SECONDS,
            lambda: self._tell_the_end(
                cause, "the agent failed: %s" % why, code, lambda send, most: within(most, send)
            ),
        )
        if not done:
            within(KILL_SECONDS, self._dead_man.end_now)
        return 1 if code is None else code


def _end_preparation(worker: threading.Thread) -> None:
    """End what it started, and what it starts before it has seen that its last step failed."""
    until = time.monotonic() + PREPARATION_ENDS_WITHIN
    while worker.is_alive() and time.monotonic() < until:
        end_descendants()
        time.sleep(0.05)
    end_descendants()
