"""The script as processes: its own session, its output straight into the log, nothing left at the end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import Dict, List, Optional, Set

from .listeners import EndSignal
from .private import as_the_user

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_OUR_OOM_SCORE = -900
_OOM_DISTANCE = 200


class Script:
    """A running script; its descendants are found in the process table, even those that left its group."""

    def __init__(self, command: List[str], workdir: str, environment: Dict[str, str], log: str) -> None:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            with as_the_user():
                self._process = subprocess.Popen(
                    command,
                    cwd=workdir,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise _told(command[0], workdir, error) from error
        finally:
            os.close(output)
        self.pid = self._process.pid
        self._group = self._process.pid
        self._end_signal: Optional[EndSignal] = None

    def exit_code(self) -> Optional[int]:
        """None while it runs; 128 and the signal's number where one ended it, as shells say it."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def dies_before_us(self) -> None:
        """Where memory runs out, the kernel ends the script and not the agent, which then tells of it."""
        try:
            _write("/proc/self/oom_score_adj", str(_OUR_OOM_SCORE))
        except OSError:  # only root may spare itself, but anybody may offer what is his
            try:
                with open("/proc/self/oom_score_adj") as file:
                    ours = int(file.read())
                _write("/proc/%d/oom_score_adj" % self.pid, str(min(1000, ours + _OOM_DISTANCE)))
            except (OSError, ValueError):  # it has ended, or this is no Linux
                pass

    def go_on_ending(self, number: int, *, late: bool) -> bool:
        """Signal whoever listens, then the rest; returns False once nothing of the script lives.

        `late`: half of its time is over, so a listener behind one that keeps the signal to itself gets it.
        """
        if self._end_signal is None:
            self._end_signal = EndSignal(number, _kill_awake)
        ended = self.exit_code() is not None
        living = _descendants(self._group)
        if ended and not living:
            return False
        self._end_signal.go_on(living, late=late)
        return True

    def processes(self) -> Set[int]:
        """The living processes of the script."""
        return _descendants(self._group)

    @property
    def was_cut_off(self) -> bool:
        """Whether a signal ended it that it did not catch: what it was writing then may be torn."""
        heard = self._end_signal is not None and self._end_signal.was_heard
        return (self._process.returncode or 0) < 0 and not heard

    def reap(self) -> None:
        """Collect orphans that ended, so that none stays a zombie."""
        _reap(self.pid)

    def kill(self) -> int:
        """End every process of the script now and wait until none is left; answers how many were alive."""
        deadline = time.monotonic() + 10
        alive = len(_descendants(self._group))
        while time.monotonic() < deadline:
            left = _descendants(self._group)
            if self.pid in left or self._process.returncode is None:
                _kill_group(self._group)
            for pid in left:
                _kill(pid, signal.SIGKILL)
            self._process.poll()
            _reap(self.pid)
            if not left and self._process.returncode is not None:
                break
            time.sleep(0.02)
        return alive


def shield_nothing_yet() -> None:
    """Give back a score by which the kernel would spare us: what we start inherits it, and shall not."""
    try:
        with open("/proc/self/oom_score_adj") as file:
            ours = int(file.read())
        if ours < 0:
            _write("/proc/self/oom_score_adj", "0")
    except (OSError, ValueError):  # no Linux
        pass


def end_descendants() -> None:
    """End whatever was started by us."""
    for pid in _descendants(0):
        _kill(pid, signal.SIGKILL)


def end_left_behind(job: str, checkpoints: str, number: int, grace: float) -> None:
    """End the processes of a job whose agent died before them; `grace` in real seconds."""
    marks = {b"RUNCTL_JOB_ID=%s" % os.fsencode(job), b"RUNCTL_CHECKPOINT_DIR=%s" % os.fsencode(checkpoints)}
    left, end_signal = _processes_with(marks), EndSignal(number, _kill_awake)
    begun = time.monotonic()
    while left and time.monotonic() < begun + grace:
        end_signal.go_on(left, late=time.monotonic() > begun + grace / 2)
        time.sleep(0.1)
        left = _processes_with(marks)
    for pid in left:
        _kill(pid, signal.SIGKILL)


def become_subreaper() -> None:
    """Orphans of the script become ours and can be found. Linux only; elsewhere the group must do."""
    if sys.platform.startswith("linux"):
        import ctypes

        try:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        except (OSError, AttributeError):
            pass


def _processes_with(marks: Set[bytes]) -> Set[int]:
    """Living processes with these variables in their environment, but for us and those above us."""
    found: Set[int] = set()
    try:
        entries = [entry for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return set()
    for entry in entries:
        try:
            with open("/proc/%s/environ" % entry, "rb") as file:
                if marks <= set(file.read().split(b"\0")):
                    found.add(int(entry))
        except OSError:  # it has ended
            continue
    return found - _ourselves_and_above()


def _ourselves_and_above() -> Set[int]:
    above, pid = set(), os.getpid()
    while pid > 1 and pid not in above:
        above.add(pid)
        try:
            with open("/proc/%d/stat" % pid, "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            break
    return above


def _descendants(group: int) -> Set[int]:
    """Living processes below this one, and those of the script's group."""
    parents: Dict[int, int] = {}
    found: Set[int] = set()
    try:
        entries = os.listdir("/proc")
    except OSError:
        return _group_members(group)
    for entry in entries:
        if not entry.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % entry, "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:  # it has ended
            continue
        if fields[0] in (b"Z", b"X"):
            continue
        parents[int(entry)] = int(fields[1])
        if int(fields[2]) == group:
            found.add(int(entry))
    me = os.getpid()
    for pid in parents:
        above = pid
        while above in parents and above != me:
            above = parents[above]
        if above == me and pid != me:
            found.add(pid)
    return found


def _group_members(group: int) -> Set[int]:
    """Where there is no /proc: whether the group still lives, as its leader's number."""
    try:
        os.killpg(group, 0)
    except OSError:
        return set()
    return {group}


def _told(name: str, workdir: str, error: OSError) -> OSError:
    """The kernel says the same of a program that is missing and of one whose interpreter is."""
    path = os.path.join(workdir, name)
    if error.errno not in (errno.ENOENT, errno.ENOEXEC) or "/" not in name or not os.path.isfile(path):
        return error
    with open(path, "rb") as file:
        line = file.readline(256).rstrip(b"\n")
    if line.startswith(b"#!"):
        program = line[2:].decode("utf-8", "replace").strip(" ")
        return OSError("%s cannot start: its first line names %r, which is not here" % (name, program))
    return OSError("%s cannot start: it is no program of this machine, and has no first line with #!" % name)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:  # it has ended
        pass


def _kill_awake(pid: int, number: int) -> None:
    """A process that somebody has stopped hears nothing until it goes on."""
    _kill(pid, number)
    if number != signal.SIGSTOP:
        _kill(pid, signal.SIGCONT)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:  # it has ended
        pass


def _reap(script: int) -> None:
    """Collect orphans that ended; the script's own end is for its Popen."""
    for pid in _children_of_us():
        if pid != script:
            try:
                os.waitpid(pid, os.WNOHANG)
            except OSError:  # no child, or collected already
                pass


def _children_of_us() -> List[int]:
    try:
        with open("/proc/self/task/%d/children" % os.getpid()) as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel that does not tell
        return []
