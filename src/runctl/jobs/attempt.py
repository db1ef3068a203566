"""The agent's own files, read from afar: what an attempt was told, where it stands, what it wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from runctl.agent import seal as seals
from runctl.errors import NotFound
from runctl.ledger import AttemptRecord, JobRecord
from runctl.storage import claims
from runctl.storage.claims import MiB, claim
from runctl.storage.objects import Store

LARGEST_STATE = 8 * MiB

STATE_FORMAT = 1
LOG_PIECE = 4 * 1024 * 1024
"""Bytes of a log that are in memory at a time, however long it is."""

_PIECE = re.compile(r"/([0-9]{1,18})\Z")


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A commit that an agent did not resume from, and why."""

    name: claims.CommitName
    reason: claims.Text


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that is safe in the store; `seconds_after_notice` is None without a notice."""

    name: claims.CommitName
    step: claims.Count | None = None
    at: claims.Moment = 0.0
    seconds_after_notice: claims.Seconds | None = None


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the script that could not be kept; `path` is relative to the job's folder."""

    path: claims.Text
    reason: claims.Text


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The files of an attempt's newest snapshot, and their bytes."""

    files: claims.Count
    bytes: claims.Count


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """No checkpoint was kept since then although the steps go on; `seen` is what of checkpoints was seen."""

    since: claims.Moment
    seen: claims.Text


@claim("state of an attempt", largest=LARGEST_STATE)
class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """`state.json` of an attempt; times are seconds since the epoch on the cloud's clock."""

    job: claims.JobName
    attempt: claims.Number
    phase: claims.Word
    step_name: claims.Word | None = None
    cause: claims.Word | None = None
    message: claims.Text | None = None
    exit_code: claims.ExitStatus | None = None
    booted: claims.Moment | None = None
    started: claims.Moment = 0.0
    script_started: claims.Moment | None = None
    notice_at: claims.Moment | None = None
    ended: claims.Moment | None = None
    heartbeat: claims.Moment | None = None
    agent_pid: claims.Count = 0
    step: claims.Count | None = None
    steps_per_second: claims.Rate | None = None
    silence: Silence | None = None
    log_bytes: claims.Bytes = 0
    log_mirrored: claims.Bytes = 0
    resumed_from: claims.CommitName | None = None
    resumed_step: claims.Count | None = None
    committed: Committed | None = None
    checkpoints_skipped: tuple[Skipped, ...] = ()
    log_hole: tuple[claims.Bytes, claims.Bytes] | None = None
    began_at_step: claims.Count | None = None
    """The first step that the script's own output named."""
    kept: Kept | None = None
    left_out: tuple[LeftOut, ...] = ()
    left_out_count: claims.Count = 0

    @property
    def booted_at(self) -> datetime | None:
        """When its machine began to run, by the machine itself."""
        return datetime.fromtimestamp(self.booted, UTC) if self.booted else None

    @property
    def losses(self) -> list[str]:
        """A sentence for each file that could not be kept, and one for those that are only counted."""
        told = [f"{each.path} was left out: {each.reason}" for each in self.left_out]
        more = self.left_out_count - len(self.left_out)
        return [*told, f"{more} more files were left out"] if more > 0 else told

    @property
    def silence_told(self) -> str:
        """A sentence if the steps go on and no checkpoint is kept; else empty."""
        if self.silence is None:
            return ""
        minutes = max(1, round((self.last_sign - self.silence.since) / 60))
        return (
            f"no checkpoint has been kept for {minutes} min while steps go on: {self.silence.seen};"
            " --checkpoint-pattern GLOB says what counts as one"
        )

    @property
    def last_sign(self) -> float:
        """When it last said anything: an agent that has ended has no heartbeat any more."""
        return self.heartbeat or self.ended or self.started

    @property
    def is_over(self) -> bool:
        return self.phase == "ended"


class LogPiece(msgspec.Struct, frozen=True):
    """Bytes of a log, and the place of the first one in it."""

    at: int
    data: bytes

    @property
    def end(self) -> int:
        return self.at + len(self.data)


class AttemptView(Protocol):
    """One attempt as its store shows it."""

    def state(self) -> AgentState | None:
        """None before the agent wrote anything. Raises Unbelievable for what no agent writes."""
        ...

    def log(self, offset: int) -> Iterator[LogPiece]:
        """What the script wrote from byte `offset` on, as far as it has arrived, in pieces of `LOG_PIECE`.

        A piece that was lost is passed over. Raises as `Store.read_from` at any of them.
        """
        ...


class StoredAttempt:
    """An attempt mirrored in a job's store: the log comes in pieces named by their first byte.

    With a `seal`, the job's key, only what a machine of the job wrote is a state.
    """

    def __init__(self, store: Store, number: int, seal: str = "") -> None:
        self._store = store
        self._number = number
        self._seal = seal
        self._prefix = f"attempt-{number}/"
        self._read_before: tuple[str, int] | None = None  # a key, and how much of the log was read with it

    def state(self) -> AgentState | None:
        key = self._prefix + "state.json"
        data = self._store.read_if_exists(key, largest=LARGEST_STATE)
        if data is None:
            return None
        if not self._seal:
            return claims.decode(data, AgentState, key)
        lacks = "no machine of this attempt wrote it: its seal is missing or wrong"
        return claims.decode_proven(data, AgentState, key, self._is_sealed, lacks)

    def _is_sealed(self, told: dict[str, Any]) -> bool:
        return told.get("attempt") == self._number and seals.holds(self._seal, told, seals.STATE)

    def log(self, offset: int) -> Iterator[LogPiece]:
        # What was read before is not listed again, but for its last piece: that one may have grown.
        after = self._read_before if self._read_before and self._read_before[1] <= offset else None
        listed = self._store.list(self._prefix + "log/", after=after[0] if after else None)
        numbered = sorted((int(found[1]), one) for one in listed if (found := _PIECE.search(one.key)))
        for start, piece in numbered:
            while offset < start + piece.size:
                offset = max(offset, start)
                data = self._store.read_from(piece.key, offset - start, LOG_PIECE)
                if not data:
                    break
                yield LogPiece(offset, data)
                offset += len(data)
        if len(numbered) > 1:
            start, piece = numbered[-2]
            self._read_before = (piece.key, start + piece.size)


def seal_of(job: JobRecord, attempt: AttemptRecord) -> str:
    """The key by which the attempt's machine proves what it says; empty if another ledger launched it."""
    is_anothers = job.adopted_at is not None and attempt.created <= job.adopted_at
    return "" if is_anothers else job.seal


class LocalAttempt:
    """An attempt on this machine: the agent's own files.

    `died_at_start` says what an agent said that ended before it wrote any; None if it lives or said nothing.
    """

    def __init__(self, store: Store, number: int, died_at_start: Callable[[], str | None]) -> None:
        self._store = store
        self._number = number
        self._prefix = f"attempt-{number}/"
        self._died_at_start = died_at_start

    def state(self) -> AgentState | None:
        state = self._read_state()
        if state is not None:
            return state
        why = self._died_at_start()
        # It may have written its state and ended between the two looks.
        return self._read_state() or (None if why is None else _never_began(self._number, why))

    def _read_state(self) -> AgentState | None:
        return claims.read_if_exists(self._store, self._prefix + "state.json", AgentState)

    def log(self, offset: int) -> Iterator[LogPiece]:
        key = self._prefix + "output.log"
        try:
            end = self._store.info(key).size  # a script that writes faster than it is read has an end, too
            state = self._read_state()
            first, last = (state.log_hole if state else None) or (end, end)
            while offset < end:
                if first <= offset < last:
                    offset = last
                limit = min(LOG_PIECE, first - offset) if offset < first else LOG_PIECE
                data = self._store.read_from(key, offset, limit)
                if not data:
                    return
                yield LogPiece(offset, data)
                offset += len(data)
        except NotFound:
            return


def _never_began(number: int, why: str) -> AgentState:
    return AgentState(
        job="",
        attempt=number,
        phase="ended",
        cause="prepare-failed",
        step_name="agent",
        message=f"the agent ended at its start: {why}",
    )
