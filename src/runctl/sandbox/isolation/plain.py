"""Separation by folder, environment and process groups alone: it confines nothing, and works everywhere.

A machine's processes are found by the marker in their environment; a watchdog finds those that a crashed
sandbox leaves.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from runctl.sandbox.isolation import UMASK, Confines, Stream, spawning, watchdog

_guarded: dict[str, subprocess.Popen[bytes]] = {}
_guarding = threading.Lock()


def guard(marker: str) -> None:
    """Start the watchdog that ends whatever carries `marker` once this process is gone; once per marker."""
    with _guarding:
        known = _guarded.get(marker)
        if known is not None and known.poll() is None:
            return
        # The pipe stays open until this process ends, however it ends.
        _guarded[marker] = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__, marker],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
        )


@atexit.register
def _dismiss() -> None:
    """Let the watchdogs end what is left, and go."""
    for dog in _guarded.values():
        if dog.stdin is not None:
            dog.stdin.close()
    for dog in _guarded.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
            dog.wait(watchdog.PATIENCE)


class PlainIsolation:
    """Processes that know their machine only by folder and environment."""

    separate = False

    def __init__(self, confines: Confines) -> None:
        self._dev = confines.folder / "dev"
        self._mounts = confines.folder / "mounts"
        self._marker = os.fsencode(confines.marker)
        self._sandbox_marker = confines.sandbox_marker
        self._running = False

    @property
    def running(self) -> bool:
        return self._running

    def start(self) -> None:
        guard(self._sandbox_marker)
        self._forget_mounts()
        self._running = True

    def _forget_mounts(self) -> None:
        """A machine that boots has mounted nothing yet."""
        for link in self._mounts.iterdir() if self._mounts.is_dir() else ():
            if link.is_symlink():
                place = link.readlink()
                if place.is_symlink():
                    place.unlink()
                link.unlink()

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
        # A bare name is looked up in the machine's PATH: the shims come first there, not in ours.
        program = shutil.which(argv[0], path=environment.get("PATH")) or argv[0]
        with spawning:
            if not self._running:
                raise ProcessLookupError("the machine is off")
            return subprocess.Popen(
                list(argv),
                executable=program,
                cwd=cwd,
                env=dict(environment),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                umask=UMASK,
            )

    def signal_group(self, process: subprocess.Popen[bytes], signum: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signum)

    def stop(self, grace: float) -> None:
        with spawning:
            self._running = False
        end = time.monotonic() + grace
        if grace > 0:
            watchdog.send(watchdog.family(self._marker), signal.SIGTERM)
        while time.monotonic() < end and watchdog.family(self._marker):
            time.sleep(0.01)
        if not watchdog.kill_family(self._marker):
            raise TimeoutError("processes of the machine could not be ended")

    def plug(self, name: str, disk: Path) -> None:
        self.unplug(name)
        (self._dev / name).symlink_to(disk)

    def unplug(self, name: str) -> None:
        (self._dev / name).unlink(missing_ok=True)

    def mounted(self, name: str) -> bool:
        """A mounted folder disk is a link in mounts/ that leads below the disk."""
        disk = (self._dev / name).resolve()
        return any(disk in entry.resolve().parents for entry in self._mounts.iterdir() if entry.is_symlink())
