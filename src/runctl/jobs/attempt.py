"""The agent's own files, read from afar: what an attempt was told, where it stands, what it wrote."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import msgspec

from runctl.errors import NotFound
from runctl.storage.objects import Store

STATE_FORMAT = 1


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that is safe in the store; `seconds_after_notice` is None without a notice."""

    name: str
    step: int | None = None
    at: float = 0.0
    seconds_after_notice: float | None = None


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """`state.json` of an attempt; times are seconds since the epoch on the cloud's clock."""

    job: str
    attempt: int
    phase: str
    step_name: str | None = None
    cause: str | None = None
    message: str | None = None
    exit_code: int | None = None
    booted: float | None = None
    started: float = 0.0
    script_started: float | None = None
    notice_at: float | None = None
    ended: float | None = None
    heartbeat: float = 0.0
    agent_pid: int = 0
    step: int | None = None
    steps_per_second: float | None = None
    log_bytes: int = 0
    log_mirrored: int = 0
    resumed_from: str | None = None
    resumed_step: int | None = None
    committed: Committed | None = None
    checkpoints_skipped: tuple[dict[str, str], ...] = ()

    @property
    def booted_at(self) -> datetime | None:
        """When its machine began to run, by the machine itself."""
        return datetime.fromtimestamp(self.booted, UTC) if self.booted else None

    @property
    def is_over(self) -> bool:
        return self.phase == "ended"


class AttemptView(Protocol):
    """One attempt as its store shows it."""

    def state(self) -> AgentState | None:
        """None before the agent wrote anything."""
        ...

    def log(self, offset: int) -> bytes:
        """What the script wrote from byte `offset` on, as far as it has arrived."""
        ...


class StoredAttempt:
    """An attempt mirrored in a job's store: the log comes in pieces named by their first byte."""

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._prefix = f"attempt-{number}/"

    def state(self) -> AgentState | None:
        data = self._store.read_if_exists(self._prefix + "state.json")
        return None if data is None else msgspec.json.decode(data, type=AgentState)

    def log(self, offset: int) -> bytes:
        pieces = self._store.list(self._prefix + "log/")
        output = b""
        for piece in pieces:
            start = int(piece.key.rsplit("/", 1)[1])
            if start + piece.size <= offset:
                continue
            output += self._store.read(piece.key)[max(0, offset - start) :]
        return output


class LocalAttempt:
    """An attempt on this machine: the agent's own files."""

    def __init__(self, store: Store, number: int) -> None:
        self._store = store
        self._prefix = f"attempt-{number}/"

    def state(self) -> AgentState | None:
        data = self._store.read_if_exists(self._prefix + "state.json")
        return None if data is None else msgspec.json.decode(data, type=AgentState)

    def log(self, offset: int) -> bytes:
        try:
            return self._store.read_from(self._prefix + "output.log", offset)
        except NotFound:
            return b""
