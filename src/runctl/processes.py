"""Processes as identities: a pid alone may be somebody else's by now."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_STATE, _START_TICKS = 0, 19  # of the fields of /proc/PID/stat behind the name: proc(5)
SAME_WITHIN = 1.0
"""Seconds by which two readings of one process's birth may differ: the clock may have been set."""


def born(pid: int) -> float | None:
    """When a living process was started, in seconds since the epoch; None for one that has ended."""
    try:
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except FileNotFoundError:
        return None if _has_proc() else _born_elsewhere(pid)
    except ProcessLookupError:
        return None
    if fields[_STATE] in {b"Z", b"X"}:
        return None
    return _booted() + int(fields[_START_TICKS]) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to notice does not."""
    return born(pid) is not None


def is_same(pid: int, started: float) -> bool:
    """Whether the process that was born at `started` still runs."""
    now = born(pid)
    return now is not None and abs(now - started) < SAME_WITHIN


def identity(pid: int) -> str | None:
    """A name that no other process ever has, whatever becomes of the clock; None for one that has ended."""
    since = born(pid)
    if since is None:
        return None
    if not _has_proc():
        return f"{pid}@{since:.0f}"
    try:
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return f"{pid}@{_boot_id()}+{int(fields[_START_TICKS])}"


@cache
def _boot_id() -> str:
    """Of the running kernel: ticks are counted from its start."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def with_file_open(path: Path) -> list[int]:
    """Other processes that have a file open, as far as this user may see; none where there is no /proc."""
    try:
        file = path.stat()
    except OSError:
        return []
    pids = [int(folder.name) for folder in _PROC.glob("[0-9]*")]
    return sorted(pid for pid in pids if pid != os.getpid() and _has_open(pid, (file.st_dev, file.st_ino)))


def _has_open(pid: int, file: tuple[int, int]) -> bool:
    try:
        descriptors = list((_PROC / str(pid) / "fd").iterdir())
    except OSError:  # it has ended, or is somebody else's
        return False
    for descriptor in descriptors:
        try:
            there = descriptor.stat()
        except OSError:
            continue
        if (there.st_dev, there.st_ino) == file:
            return True
    return False


@cache
def _has_proc() -> bool:
    return (_PROC / "self" / "stat").exists()


@cache
def _booted() -> float:
    for line in (_PROC / "stat").read_bytes().splitlines():
        if line.startswith(b"btime "):
            return float(line.split()[1])
    raise OSError("/proc/stat names no boot time")


def _born_elsewhere(pid: int) -> float | None:
    """Where there is no /proc; psutil takes longer to import than a local job may take to start."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None
