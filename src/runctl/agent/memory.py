"""Whether the kernel killed a process of the script because memory ran out, by its control group's own count.

Both versions of control groups count the kills of their own processes since Linux 4.13, whether the group's
bound was reached or the machine's memory: `oom_kill` in `memory.events`, and in `memory.oom_control`.
"""

from __future__ import annotations

import os
from typing import Optional, Tuple

_KILLED = 128 + 9


class Memory:
    """The kills since this was made. `root` is where /proc and /sys lie.

    A group that has processes of others, such as a terminal's, proves nothing about ours.
    """

    def __init__(self, root: str = "/") -> None:
        self._group, self._events = _own_group(root)
        self._before = self._count()
        self._is_ours = self._has_nobody_else()

    def killed(self) -> int:
        """How many processes of our group were killed; 0 where nobody can know."""
        return max(0, self._count() - self._before)

    def why(self, code: Optional[int]) -> Optional[str]:
        """What a kill has to do with a script that ended with this code; None for nothing that is known."""
        if not self.killed():
            return None
        if code == _KILLED:
            return "out of memory: the script was killed"
        if not self._is_ours:
            return None
        end = "" if not code else "; the script ended with exit code %d" % code
        return "out of memory: a worker was killed" + end

    def _count(self) -> int:
        try:
            with open(self._events) as file:
                for line in file:
                    name, _, number = line.partition(" ")
                    if name == "oom_kill":
                        return int(number)
        except (OSError, ValueError):  # no Linux, or a kernel that does not count
            pass
        return 0

    def _has_nobody_else(self) -> bool:
        try:
            with open(os.path.join(self._group, "cgroup.procs")) as file:
                return {int(line) for line in file} == {os.getpid()}
        except (OSError, ValueError):
            return False


def _own_group(root: str) -> Tuple[str, str]:
    """The folder of our control group, and its file that counts; both empty where there is none."""
    unified = ""
    try:
        with open(os.path.join(root, "proc/self/cgroup")) as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                if "memory" in controllers.split(","):
                    group = os.path.join(root, "sys/fs/cgroup/memory", path.lstrip("/"))
                    return group, os.path.join(group, "memory.oom_control")
                if not controllers:
                    unified = os.path.join(root, "sys/fs/cgroup", path.lstrip("/"))
    except (OSError, ValueError):
        pass
    return unified, os.path.join(unified, "memory.events") if unified else ""
