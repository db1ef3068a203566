"""The runs that `runctl prove` compares: straight ones, and ones cut as an interruption cuts them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from runctl.agent.kinds import is_torn, is_weights
from runctl.agent.sets import CheckpointSet, checkpoint_sets
from runctl.agent.vouching import state_of
from runctl.agent.walk import walk
from runctl.events import Emit, Event, Transition
from runctl.jobs.drill import Interrupter
from runctl.jobs.drill import Run as Prepared
from runctl.jobs.supervise import Supervisor
from runctl.ledger import Ledger
from runctl.model import JobState
from runctl.proving.compared import Left, left_in
from runctl.proving.judgement import Baseline, Cut, Finding, Run, Saved, Source, baseline, judged
from runctl.proving.readings import Key, Reading, readings

NOTICE, LOST, SAVE = "notice", "lost", "save"
_LOOK_SECONDS = 0.003
_SLOW_LOOKS = 2
"""A file that is seen open for writing in two looks one after the other can be torn by a kill."""
_NOT_COMPARED = frozenset({".runctl", "__pycache__", ".git", ".venv", "venv", "node_modules"})


class Proof(msgspec.Struct, frozen=True):
    """What was found over all runs. `cuts` are those that came about; `seconds` one straight run took."""

    findings: tuple[Finding, ...]
    cuts: tuple[Cut, ...]
    seconds: float
    steps: int
    compared: tuple[str, ...]
    is_repeatable: bool
    straight_succeeded: bool
    last_words: str = ""

    @property
    def survives(self) -> bool:
        """It was cut at least once, and nothing of its work was lost or changed."""
        return self.straight_succeeded and bool(self.cuts) and not self.findings


class Wanted(msgspec.Struct, frozen=True):
    """A cut to be made: how, and when, as a part of the straight run or at a step."""

    kind: str
    part: float
    step: float | None = None


def prove(
    ledger: Ledger,
    prepare: Callable[[str], Prepared],
    interrupter: Interrupter,
    wanted: Sequence[Wanted],
    source: Source,
    *,
    emit: Emit,
    told: Callable[[str], object],
) -> Proof:
    """Run straight twice, then once for each cut. `prepare` makes a job on a copy of the project by a name.

    A cut in the middle of a save is added if saves were seen that take long enough to be hit.
    """
    told("a straight run")
    first = _Trial(ledger, prepare("straight"), interrupter, emit)
    begun = time.monotonic()
    straight = first.run()
    seconds = time.monotonic() - begun
    if not straight.succeeded or not straight.attempts:
        return Proof((), (), seconds, 0, (), False, False, straight.last_words)
    told("another one, for what differs without any interruption")
    again = _Trial(ledger, prepare("again"), interrupter, emit).run()
    calm = baseline(straight, again if again.succeeded and again.attempts else None)
    plans = list(wanted)
    if first.slow_saves:
        plans.append(Wanted(SAVE, 0.4))
    findings: list[Finding] = []
    cuts: list[Cut] = []
    for number, plan in enumerate(plans, 1):
        told(f"cut {number} of {len(plans)}: {_said(plan)}")
        trial = _Trial(
            ledger, prepare(f"cut-{number}"), interrupter, emit, plan=plan, calm=calm, seconds=seconds
        )
        run = trial.run()
        if run.cut is None:
            continue
        cuts.append(run.cut)
        findings += [
            one for one in judged(calm, run, source) if one.culprit not in {it.culprit for it in findings}
        ]
    return Proof(
        findings=tuple(findings),
        cuts=tuple(cuts),
        seconds=seconds,
        steps=len(calm.order),
        compared=tuple(sorted(calm.noise)) + (("samples",) if calm.same_ids else ()),
        is_repeatable=calm.comparable or not calm.order,
        straight_succeeded=True,
    )


def _said(plan: Wanted) -> str:
    when = f"at step {plan.step:g}" if plan.step is not None else f"after {plan.part:.0%} of the steps"
    how = {NOTICE: "a notice and SIGTERM", LOST: "killed", SAVE: "killed in the middle of a save"}[plan.kind]
    return f"{how} {when}"


class _Trial:
    """One run from its start to its end, with at most one cut."""

    def __init__(
        self,
        ledger: Ledger,
        prepared: Prepared,
        interrupter: Interrupter,
        emit: Emit,
        *,
        plan: Wanted | None = None,
        calm: Baseline | None = None,
        seconds: float = 0.0,
    ) -> None:
        assert prepared.job.folder is not None  # noqa: S101 (proved on this machine)
        self._ledger, self._prepared, self._interrupter, self._emit = ledger, prepared, interrupter, emit
        self._folder = Path(prepared.job.folder)
        self._project = self._folder.parents[2]
        self._plan, self._calm, self._seconds = plan, calm, seconds
        self._over = threading.Event()
        self._cut: Cut | None = None
        self._struck_at: float | None = None
        self._held: list[str] = []
        self._saves = _Saves(self._folder, (self._folder / "checkpoints", self._project))

    @property
    def slow_saves(self) -> frozenset[str]:
        """Checkpoints that were seen being written under their own names."""
        return self._saves.slow

    def run(self) -> Run:
        """To its end. Raises as a supervisor does."""
        watcher = threading.Thread(target=self._watch, name="prove", daemon=True)
        watcher.start()
        try:
            supervisor = Supervisor(self._ledger, self._prepared.place, self._prepared.job.id, self._heard)
            final = supervisor.run()
        finally:
            self._over.set()
            watcher.join()
            self._interrupter.lift()
        attempts = self._ledger.jobs.attempts(self._prepared.job.id)
        failed = [one for one in attempts[1:] if one.exit_code not in (0, None) and one.cause == "failed"]
        logs = [self._log(one.number) for one in attempts]
        return Run(
            attempts=tuple(tuple(readings(log)) for log in logs),
            files=self._files(),
            succeeded=final.state is JobState.SUCCEEDED and not failed,
            last_words=_last_words(logs[failed[0].number - 1] if failed else logs[-1] if logs else ""),
            cut=self._cut,
        )

    def _heard(self, event: Event) -> None:
        self._emit(event)
        if (
            isinstance(event, Transition)
            and event.state in {JobState.RECOVERING, JobState.PROVISIONING}
            and event.attempt >= 1
            and self._plan is not None
            and self._cut is None
            and self._struck_at is not None
        ):
            self._interrupter.lift()
            whole, torn = self._checkpoints()
            self._cut = Cut(self._plan.kind, self._struck_at, whole, torn)

    def _watch(self) -> None:
        """Wait for the moment of the cut, or only look at how saves are made."""
        log = self._folder / "attempt-1" / "output.log"
        begun: float | None = None
        offset, seen = 0, 0
        place = {key: number for number, key in enumerate(self._calm.order)} if self._calm else {}
        while not self._over.wait(_LOOK_SECONDS):
            if self._struck_at is not None:
                return
            if begun is None and log.exists():
                begun = time.monotonic()
            held = self._saves.look() if self._plan is None or self._plan.kind == SAVE else []
            if self._plan is None or self._calm is None:
                continue
            text, offset = _grown(log, offset)
            last: Reading | None = None
            for one in readings(text):
                if one.key in place:
                    seen, last = max(seen, place[one.key] + 1), one
            if self._is_time(seen, last, begun, held):
                self._strike(held, self._calm.order[seen - 1] if seen else None)
                return

    def _is_time(self, seen: int, last: Reading | None, begun: float | None, held: Sequence[str]) -> bool:
        plan, calm = self._plan, self._calm
        assert plan is not None  # noqa: S101 (asked with a plan only)
        assert calm is not None  # noqa: S101 (made with it)
        if plan.step is not None:
            due = last is not None and last.number >= plan.step
        elif len(calm.order) >= 3:  # a first, a last, and one to be cut at
            due = seen >= max(1, round(plan.part * len(calm.order)))
        else:
            due = begun is not None and time.monotonic() - begun >= plan.part * self._seconds
        return due and (plan.kind != SAVE or bool(held))

    def _strike(self, held: Sequence[str], key: Key | None) -> None:
        assert self._plan is not None  # noqa: S101 (asked with a plan only)
        if self._plan.kind == NOTICE:
            self._interrupter.notice("this machine")
        else:
            _kill(self._saves.agent())
            self._held = list(held)
        step = None if key is None or self._calm is None else self._calm.readings[key].number
        self._struck_at = -1.0 if step is None else step

    def _checkpoints(self) -> tuple[tuple[Saved, ...], tuple[str, ...]]:
        """What lies there now: whole ones and torn ones."""
        whole: list[Saved] = []
        torn = list(self._held)
        for root, own in ((self._folder / "checkpoints", True), (self._project, False)):
            for one, is_whole in _sets(root, own=own):
                if is_whole and not set(self._held) & {str(root / path) for path in one.paths}:
                    whole.append(Saved(one.folder or one.name, one.step))
                elif not is_whole:
                    torn.append(one.folder or one.name)
        names = [name.removeprefix(f"{self._project}/") for name in torn]
        return tuple(whole), tuple(dict.fromkeys(names))

    def _files(self) -> Mapping[str, Left]:
        found = dict(left_in(self._project, leave_out=_NOT_COMPARED))
        for tree in ("checkpoints", "outputs"):
            folder = self._folder / tree
            found |= (
                {f"{tree}: {path}": left for path, left in left_in(folder).items()} if folder.is_dir() else {}
            )
        return found

    def _log(self, attempt: int) -> str:
        with contextlib.suppress(OSError):
            return (self._folder / f"attempt-{attempt}" / "output.log").read_text("utf-8", "replace")
        return ""


def _sets(root: Path, *, own: bool) -> Iterator[tuple[CheckpointSet, bool]]:
    if not root.is_dir():
        return
    found = [one for one in walk(str(root)) if not _NOT_COMPARED.intersection(one.path.split("/"))]
    by_path = {one.path: one for one in found}
    # A script's own folder may have its state in texts, which count only if nothing else does.
    for one in checkpoint_sets(found, None, own) or checkpoint_sets(found, None, own=True):
        yield one, state_of(str(root), one, by_path) is not False


def _grown(log: Path, offset: int) -> tuple[str, int]:
    """The whole lines that came since."""
    try:
        with log.open("rb") as file:
            file.seek(offset)
            data = file.read(1 << 20)
    except OSError:
        return "", offset
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    return data[:end].decode("utf-8", "replace"), offset + end


def _last_words(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def _kill(agent: int | None) -> None:
    """As a machine is lost: nobody hears of it."""
    import psutil

    if agent is None:
        return
    with contextlib.suppress(psutil.Error):
        others = psutil.Process(agent).children(recursive=True)
        for pid in (agent, *(one.pid for one in others)):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


class _Saves:
    """Looks at which files a script's processes hold open for writing."""

    def __init__(self, folder: Path, roots: Sequence[Path]) -> None:
        self._state = folder / "attempt-1" / "state.json"
        self._roots = tuple(os.path.realpath(root) + "/" for root in roots)
        self._own = os.path.realpath(folder) + "/attempt-"
        self._agent: int | None = None
        self._looks: dict[str, int] = {}
        self.slow: frozenset[str] = frozenset()

    def agent(self) -> int | None:
        """The process of the first attempt's agent, once it is known."""
        if self._agent is None:
            with contextlib.suppress(OSError, ValueError):
                self._agent = msgspec.json.decode(self._state.read_bytes()).get("agent_pid")
        return self._agent

    def look(self) -> list[str]:
        """The checkpoints that are open for writing now, under their own names."""
        agent = self.agent()
        held = [] if agent is None else [path for path in set(self._open(agent)) if self._is_checkpoint(path)]
        self._looks = {path: self._looks.get(path, 0) + 1 for path in held}
        slow = {path for path, looks in self._looks.items() if looks >= _SLOW_LOOKS}
        self.slow |= slow
        return sorted(slow)

    def _is_checkpoint(self, path: str) -> bool:
        return is_weights(path) and not is_torn(path)

    def _open(self, agent: int) -> Iterator[str]:
        for pid in _descendants(agent):
            with contextlib.suppress(OSError):
                for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 (this is looked at all the time)
                    with contextlib.suppress(OSError):
                        path = os.readlink(f"/proc/{pid}/fd/{number}")  # noqa: PTH115
                        is_own = path.startswith(self._roots) and not path.startswith(self._own)
                        if is_own and _is_for_writing(pid, number):
                            yield path


def _descendants(pid: int) -> Iterator[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:  # noqa: PTH123
            children = file.read().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from _descendants(child)


def _is_for_writing(pid: int, number: str) -> bool:
    with open(f"/proc/{pid}/fdinfo/{number}", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(b"flags:"):
                return bool(int(line.split()[1], 8) & (os.O_WRONLY | os.O_RDWR))
    return False
