"""What the ledger's file and its copies are like, read in full and left as they are."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path

import msgspec

from runctl.errors import ConfigError, LedgerDamaged, NotFound
from runctl.ledger import copies, failures, health, merging
from runctl.ledger.copies import Copy
from runctl.ledger.migrations import MIGRATIONS
from runctl.quoting import quoted


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger's file, or a copy of it: what is wrong with it, or how many rows its tables have."""

    path: Path
    bytes: int
    damage: tuple[str, ...]
    rows: dict[str, int]


class CopyState(msgspec.Struct, frozen=True, kw_only=True):
    """A copy, by the day on which it was made."""

    day: date
    state: State


def state(ledger: Path) -> State:
    """Raises NotFound if there is no file, ConfigError if a newer runctl wrote it, Conflict if it is busy."""
    if ledger.is_dir():
        raise folder(ledger)
    try:
        ledger.stat()
    except OSError as error:
        if ledger.is_symlink():
            raise leads_nowhere(ledger, error) from error
        raise NotFound(
            f"There is no ledger {ledger}", next="runctl ledger restore, where there are copies"
        ) from error
    size = ledger.stat().st_size
    if size == 0:
        return State(path=ledger, bytes=0, damage=("it is empty",), rows={})
    try:
        with (
            failures.named(ledger, lambda: "its tables are not those of a ledger"),
            closing(health.looking_at(ledger)) as connection,
            health.at_one_moment(connection),
        ):
            return _state(connection, ledger, size)
    except LedgerDamaged as error:
        return State(path=ledger, bytes=size, damage=(error.why,), rows={})


def states(ledger: Path, today: date) -> list[CopyState]:
    """Of the copies, the newest first."""
    return [CopyState(day=copy.day, state=_copy_state(copy)) for copy in copies.of(ledger, today)]


def damage(ledger: Path) -> str:
    """The first thing that is wrong with a ledger; nothing for a sound one. Raises as `state`."""
    return next(iter(state(ledger).damage), "") if ledger.exists() else "it is missing"


def newer(ledger: Path, version: int, *, seems_ours: bool) -> ConfigError:
    """Another, later runctl wrote it: whatever is done to it here could harm it."""
    doubt = "; its tables are those of this runctl, so that its header may be damaged"
    return ConfigError(
        f"The ledger {ledger} was written by a newer runctl",
        why=f"it has version {version}, this runctl knows {len(MIGRATIONS)}{doubt if seems_ours else ''}",
        next="upgrade runctl; where no newer one ever ran, runctl ledger restore --copy DAY",
    )


def folder(ledger: Path) -> ConfigError:
    """Something else lies where the ledger should."""
    return ConfigError(
        f"The ledger {ledger} is a folder",
        next=f"mv {quoted(ledger)} {quoted(ledger)}-folder, then runctl ledger restore, if there are copies, "
        "or runctl resources adopt",
    )


def leads_nowhere(ledger: Path, error: OSError) -> ConfigError:
    """It was put elsewhere, and that place is gone: perhaps for a while, so nothing new is begun there."""
    return ConfigError(
        f"The ledger {ledger} is a link to a file that is not there",
        why=error.strerror or str(error),
        next=f"bring back what it leads to: ls -l {quoted(ledger)}; or rm {quoted(ledger)}, then "
        "runctl ledger restore, if there are copies, or runctl resources adopt",
    )


def _copy_state(copy: Copy) -> State:
    try:
        with closing(copies.read_only(copy.path)) as connection:
            return _state(connection, copy.path, copy.bytes)
    except (*failures.UNREADABLE, ConfigError) as error:
        return State(path=copy.path, bytes=copy.bytes, damage=(str(error),), rows={})


def _state(connection: sqlite3.Connection, path: Path, size: int) -> State:
    version = health.version_of(connection)
    if version > len(MIGRATIONS):
        raise newer(path, version, seems_ours=not any(health.structure(connection, MIGRATIONS)))
    if version == 0:
        return State(path=path, bytes=size, damage=("its version is missing",), rows={})
    found = (*health.structure(connection, MIGRATIONS), *health.rows(connection, MIGRATIONS))
    return State(path=path, bytes=size, damage=found, rows={} if found else _counts(connection))


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    there = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    return {
        name: int(connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0])  # noqa: S608 (our own names)
        for name in merging.KEYS
        if name in there
    }
