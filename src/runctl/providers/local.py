"""This machine as a provider: the agent as a detached process, a first-class peer of the cloud."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from runctl import private_files, processes
from runctl.errors import NotFound
from runctl.model import Market
from runctl.providers.base import LaunchRequest, Machine, MachineState

INSTANCE_TYPE = "this machine"
_LAST_WORDS = 4096
"""Bytes at the end of an agent's stderr that are looked at."""


class LocalLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of a launch: where the attempt's spec lies."""

    spec: str


class _Process(msgspec.Struct, frozen=True, kw_only=True):
    """`agent.json` beside the spec: which process is the agent. `born` guards against reused ids."""

    pid: int
    born: float
    launched: float


class LocalProvider:
    """Runs agents on this machine. A machine's id is the attempt's folder."""

    name = "local"

    def launch(self, request: LaunchRequest) -> Machine:
        spec = Path(msgspec.json.decode(request.parameters, type=LocalLaunch).spec)
        folder = spec.parent
        if found := self.describe(str(folder)):
            return found
        with open(folder / "agent.log", "ab", opener=private_files.opener) as log:
            # -P: the working directory may be a cloned repository with a json.py in it.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "runctl.agent", "run", str(spec)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        record = _Process(
            pid=process.pid, born=processes.born(process.pid) or 0.0, launched=datetime.now(UTC).timestamp()
        )
        temporary = folder / "agent.json.tmp"
        with open(temporary, "wb", opener=private_files.opener) as file:
            file.write(msgspec.json.encode(record))
        temporary.replace(folder / "agent.json")
        # The agent outlives this command by design: nobody waits for it.
        process.returncode = 0
        return self._machine(folder, record)

    def find(self, token: str) -> Machine | None:  # noqa: ARG002 (an attempt's folder is its token)
        return None

    def describe(self, machine_id: str) -> Machine | None:
        folder = Path(machine_id)
        try:
            record = msgspec.json.decode((folder / "agent.json").read_bytes(), type=_Process)
        except FileNotFoundError:
            return None
        return self._machine(folder, record)

    def ask_to_stop(self, machine_id: str, job: str, attempt: int) -> None:  # noqa: ARG002 (one folder, one attempt)
        folder = Path(machine_id)
        if not folder.is_dir():
            raise NotFound(f"There is no attempt at {folder}")
        (folder / "stop").touch()

    def kill(self, machine_id: str) -> None:
        """End the agent's process at once; what it had not committed is lost."""
        machine = self.describe(machine_id)
        if machine is not None and machine.state is MachineState.RUNNING:
            record = msgspec.json.decode((Path(machine_id) / "agent.json").read_bytes(), type=_Process)
            os.kill(record.pid, signal.SIGKILL)

    def _machine(self, folder: Path, record: _Process) -> Machine:
        alive = processes.is_same(record.pid, record.born)
        return Machine(
            id=str(folder),
            state=MachineState.RUNNING if alive else MachineState.GONE,
            instance_type=INSTANCE_TYPE,
            zone=platform.node(),
            region="local",
            market=Market.ON_DEMAND,
            launched=datetime.fromtimestamp(record.launched, UTC),
            reason="" if alive else "the agent's process is gone",
        )


def died_at_start(folder: Path) -> str | None:
    """The last line that the agent of an attempt wrote to stderr; None if it lives or said nothing.

    For an attempt that has no state: one that was killed said nothing, and is a lost machine.
    """
    try:
        record = msgspec.json.decode((folder / "agent.json").read_bytes(), type=_Process)
        if processes.is_same(record.pid, record.born):
            return None
        with (folder / "agent.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_WORDS))
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
    except (OSError, msgspec.MsgspecError):
        return None
    return lines[-1].strip() if lines else None
