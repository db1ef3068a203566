# Without pathlib, which would double the time to start.
# ruff: noqa: PTH123, PTH208
"""Ends what a sandbox leaves behind: waits for its parent's death, then kills what carries the marker.

Run as a program (`python -I -S watchdog.py MARKER`), standard library only; standard input is a pipe that
only the parent holds open. The marker is an entry of the environment, NAME=VALUE.
"""

from __future__ import annotations

import os
import signal
import sys
import time

PATIENCE = 10.0
"""Seconds to go on killing what keeps multiplying."""


def family(marker: bytes) -> set[int]:
    """Process ids that carry `marker` in their environment, with their descendants and session fellows."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    marked: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        pid = int(name)
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state, parent, _, session = file.read().rpartition(b")")[2].split()[:4]
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
        except OSError:  # it has ended
            continue
        if state in b"ZX":
            continue
        parents[pid], sessions[pid] = int(parent), int(session)
        if marker in environment.split(b"\0"):
            marked.add(pid)
    # Fellows of a session that one of the marked leads: `env -i` takes the marker away, not the session.
    led = {session for session in map(sessions.get, marked) if session in marked}
    members = marked | {pid for pid, session in sessions.items() if session in led}
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in members} - members
        members |= children
        grown = bool(children)
    return members - {os.getpid()}


def send(pids: set[int], signum: int) -> None:
    """Signal each of `pids`; those already gone are no error."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except OSError:  # it has ended
            continue


def kill_family(marker: bytes, patience: float = PATIENCE) -> bool:
    """Kill until none is left; False when some still lived after `patience` seconds."""
    end = time.monotonic() + patience
    while members := family(marker):
        send(members, signal.SIGSTOP)  # what is stopped cannot fork away from the next look
        send(members | family(marker), signal.SIGKILL)
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    kill_family(os.fsencode(sys.argv[1]))


if __name__ == "__main__":
    main()
