"""What keeps a machine's processes together and, where the host allows, away from everything else."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

NAMESPACES, PLAIN = "namespaces", "plain"
FORCE_VARIABLE = "RUNCTL_SANDBOX_ISOLATION"

UMASK = 0o022
"""Of the processes of machines, as on EC2."""

Stream = int | IO[bytes]

spawning = threading.RLock()
"""Held while a process is spawned and while a script file is written: a fork that inherits a file open for
writing makes its execution elsewhere fail with "Text file busy"."""


HOME = Path("/home/machine")
"""The home folder in machines that have a root of their own: the same in each, since scripts note paths in
their checkpoints and look for them in the next attempt."""


@dataclass(frozen=True, slots=True)
class Confines:
    """What one machine may see: folders are host paths, and have the same name inside. The machine's own home
    folder is to be seen as `HOME`, too, as on machines that were made from one image.

    `folder` is the machine's own; `readable` and `writable` are further paths. `marker` is the entry of the
    environment (NAME=VALUE) that every process of the machine carries, `sandbox_marker` that of every machine
    of the sandbox.
    """

    folder: Path
    hostname: str
    marker: str
    sandbox_marker: str
    readable: Sequence[Path] = field(default_factory=tuple)
    writable: Sequence[Path] = field(default_factory=tuple)


class Isolation(Protocol):
    """The processes of one machine; `start` and `stop` may alternate, called by one thread at a time."""

    separate: bool
    """Whether a machine has a root of its own; else its folder stands for it."""

    @property
    def running(self) -> bool:
        """True between `start` and `stop` while the machine has not died by itself."""
        ...

    def start(self) -> None:
        """Be ready to spawn. OSError when the host refuses."""
        ...

    def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        environment: Mapping[str, str],
        stdin: Stream,
        stdout: Stream,
        stderr: Stream,
    ) -> subprocess.Popen[bytes]:
        """Start `argv` inside, as leader of a session.

        FileNotFoundError where `cwd` does not exist, ProcessLookupError while the machine is off.
        """
        ...

    def signal_group(self, process: subprocess.Popen[bytes], signum: int) -> None:
        """Signal the process group of what `spawn` returned; one that is gone is no error."""
        ...

    def stop(self, grace: float) -> None:
        """SIGTERM to all, SIGKILL to what lives after `grace` real seconds; returns when none is left."""
        ...

    def plug(self, name: str, disk: Path) -> None:
        """Show the folder `disk` as dev/`name` of the machine's folder."""
        ...

    def unplug(self, name: str) -> None:
        """Take dev/`name` away."""
        ...

    def mounted(self, name: str) -> bool:
        """True while the file system on dev/`name` is mounted somewhere in the machine."""
        ...


def choose() -> str:
    """`namespaces` when they work here for this user, else `plain`; the variable above forces either."""
    forced = os.environ.get(FORCE_VARIABLE, "")
    if forced in (NAMESPACES, PLAIN):
        return forced
    from runctl.sandbox.isolation.namespaces import refusal

    return PLAIN if refusal() else NAMESPACES


def isolate(mode: str, confines: Confines) -> Isolation:
    """The isolation of one machine in `mode`."""
    if mode == NAMESPACES:
        from runctl.sandbox.isolation.namespaces import NamespaceIsolation

        return NamespaceIsolation(confines)
    if mode == PLAIN:
        from runctl.sandbox.isolation.plain import PlainIsolation

        return PlainIsolation(confines)
    raise ValueError(f"no isolation is called {mode!r}")
