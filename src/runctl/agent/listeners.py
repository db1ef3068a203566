"""Whom the ending signals: the processes that listen for the signal, whatever their place in the tree.

A signal to a shell, to `tee` or to a data loader's worker ends what the script needs in order to save. A
signal to the process that catches it lets it save, and the processes around it then end by themselves.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set

SHELLS = frozenset(["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "busybox"])

LAUNCHERS = frozenset(
    [
        "torchrun",
        "torch.distributed.run",
        "torch.distributed.launch",
        "accelerate",
        "accelerate.commands.launch",
        "deepspeed",
        "deepspeed.launcher.runner",
        "deepspeed.launcher.launch",
    ]
)
"""Python programs and modules that start a script's ranks. Told to end, they signal each rank's whole group,
data loaders included; if one rank ends with an error, they end those that still save. Seen in torch 2.13."""

WRAPPERS = SHELLS | LAUNCHERS | {"make", "gmake", "just", "script", "xargs", "expect", "tee", "timeout"}
"""Programs that only run others. If they catch a signal they keep it to themselves (a shell's trap waits for
the child, `script` ends without a word to it) or send it to the whole group, workers too (`timeout`)."""

FORWARDERS = frozenset(["uv", "mpirun", "mpiexec", "horovodrun", "srun", "tini", "dumb-init"])
"""Programs that pass the signal on to the script alone: a second one would interrupt its save."""

REST_WAIT = 0.5
"""Seconds that the rest has in order to end by itself once the listeners are gone, before it is signalled."""


class Process(NamedTuple):
    """What decides about a process; `program` is the name of its executable, or of the launcher it runs."""

    pid: int
    parent: int
    program: str
    command: bytes
    catches: bool
    ignores: bool

    @property
    def listens(self) -> bool:
        return self.catches and self.program not in WRAPPERS


def whom_to_signal(
    living: Dict[int, Process], told: Dict[int, float], now: float, *, late: bool = False
) -> Set[int]:
    """The processes that the signal is for now; `told` says when each was signalled, in seconds.

    While a listener lives, only the topmost listeners: what they started hears of it through them. When they
    take long (`late`), those below one that seems to keep the signal to itself. When no listener lives, the
    topmost of the rest; what is below such a one only when it is gone or does not react.
    """
    listeners = {pid for pid, process in living.items() if process.listens}
    if listeners:
        top = {pid for pid in listeners if listeners.isdisjoint(_above(pid, living))}
        chosen = top - set(told)
        if late and not chosen:
            chosen = {pid for pid in listeners - set(told) if _was_kept_from(living[pid], living, told)}
        return chosen

    def blocks(pid: int) -> bool:
        """Whether a process may still end and take what is below it along."""
        return not living[pid].ignores and now < told.get(pid, now) + REST_WAIT

    return {pid for pid in set(living) - set(told) if not any(blocks(above) for above in _above(pid, living))}


def _was_kept_from(process: Process, living: Dict[int, Process], told: Dict[int, float]) -> bool:
    """Whether another program was signalled in this one's place. A copy of its parent is a worker of it."""
    nearest = next((living[pid] for pid in _above(process.pid, living) if living[pid].listens), None)
    return (
        nearest is not None
        and nearest.pid in told
        and process.command != nearest.command
        and b"multiprocessing" not in process.command
        and nearest.program not in FORWARDERS
    )


def _above(pid: int, living: Dict[int, Process]) -> List[int]:
    """The ancestors of a process that are of the script, the nearest first."""
    found: List[int] = []
    parent = living[pid].parent
    while parent in living and parent not in found:
        found.append(parent)
        parent = living[parent].parent
    return found


def to_be_stopped(living: Dict[int, Process]) -> Set[int]:
    """The shells and launchers that would act when a listener ends: run the next command, end other ranks.

    Without those below `script`, which stops with its child and then no longer reads what the script prints.
    """
    listeners = [pid for pid, process in living.items() if process.listens]
    acting = {
        above
        for pid in listeners
        for above in _above(pid, living)
        if living[above].program in SHELLS | LAUNCHERS
    }
    return {pid for pid in acting if "script" not in [living[above].program for above in _above(pid, living)]}


class EndSignal:
    """One signal for a whole script: `go_on` sends it to whoever it is for by now.

    A shell or launcher above a listener is stopped (SIGSTOP) until its turn: it must neither die before the
    script has saved, for it may read its output, nor act once a process of the script has ended. When half of
    the time is over it runs again: the script may wait for it (`torchrun` serves the ranks' store).
    """

    def __init__(self, number: int, send: Callable[[int, int], None]) -> None:
        self._number = number
        self._send = send
        self._told: Dict[int, float] = {}
        self._heard: Set[int] = set()
        self._cut: Set[int] = set()
        self._stopped: Set[int] = set()
        self._quiet_since: Optional[float] = None

    def go_on(self, pids: Iterable[int], *, late: bool = False) -> None:
        """Look at these processes and signal those whose turn it is."""
        living = {pid: found for pid in pids for found in [look(pid, self._number)] if found is not None}
        now = time.monotonic()
        if any(process.listens for process in living.values()):
            self._quiet_since = None
            self._hold(living, late)
        elif self._heard:
            self._release(living, now)
            if self._quiet_since is None:
                self._quiet_since = now
            if now < self._quiet_since + REST_WAIT:
                return
        for pid in sorted(whom_to_signal(living, self._told, now, late=late)):
            self._signal(living[pid], now)

    def _hold(self, living: Dict[int, Process], late: bool) -> None:
        if late:
            for pid in self._stopped & set(living):
                self._send(pid, signal.SIGCONT)
            return
        for pid in to_be_stopped(living) - self._stopped - set(self._told):
            self._stopped.add(pid)
            self._send(pid, signal.SIGSTOP)

    def _release(self, living: Dict[int, Process], now: float) -> None:
        """What was stopped gets the signal before it runs again."""
        for pid in self._stopped & set(living):
            self._signal(living[pid], now)
            self._send(pid, signal.SIGCONT)
        self._stopped.clear()

    def _signal(self, process: Process, now: float) -> None:
        self._told[process.pid] = now
        if process.listens:
            self._heard.add(process.pid)
        elif process.program not in WRAPPERS:
            self._cut.add(process.pid)
        self._send(process.pid, self._number)

    @property
    def was_heard(self) -> bool:
        """Whether all that were signalled caught it, wrappers aside: then no write was cut off."""
        return bool(self._heard) and not self._cut


def look(pid: int, number: int) -> Optional[Process]:
    """What /proc says of a process and a signal; None if it has ended. Without /proc nothing catches it."""
    if not os.path.isdir("/proc/self"):
        return Process(pid, 0, "", b"", False, False)
    try:
        with open("/proc/%d/status" % pid, "rb") as file:
            status = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            command = file.read(4096)
    except OSError:  # it has ended
        return None
    if status[b"State"].split()[0] in (b"Z", b"X"):
        return None
    bit = 1 << (number - 1)
    return Process(
        pid,
        int(status[b"PPid"]),
        _program(pid, command),
        command,
        bool(int(status[b"SigCgt"], 16) & bit),
        bool(int(status[b"SigIgn"], 16) & bit),
    )


def _program(pid: int, command: bytes) -> str:
    """The executable's name (of a script, its interpreter's), or that of a launcher written in Python."""
    words = [os.fsdecode(word) for word in command.split(b"\0")[1:]]
    named = next(
        (words[at + 1 :] if word == "-m" else [word] for at, word in enumerate(words) if _names(word)), []
    )
    launcher = os.path.basename(named[0]) if named else ""
    if launcher in LAUNCHERS:
        return launcher
    try:
        path = os.readlink("/proc/%d/exe" % pid)
    except OSError:  # another user's, or ended
        path = os.fsdecode(command.split(b"\0", 1)[0])
    return os.path.basename(path.replace(" (deleted)", ""))


def _names(word: str) -> bool:
    """Whether a word of Python's command line says what runs, or that the next one does."""
    return word == "-m" or not word.startswith("-")
