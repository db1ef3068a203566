"""What SQLite reports, as errors that say what helps: a busy ledger, a full disk, a damaged file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from runctl import processes
from runctl.errors import ConfigError, Conflict, LedgerDamaged, TrainctlError
from runctl.quoting import quoted

UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What Python raises for a damaged database: SQLite's own messages may hold text that is no UTF-8."""
BUSY_SECONDS = 30.0
_LITTLE_BYTES = 64 << 10
_PRIMARY_CODE = 0xFF  # the rest of an extended error code says where it happened
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_REFUSED = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_PERHAPS_OURS = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}
)


@contextmanager
def named(path: Path, look: Callable[[], str]) -> Generator[None]:
    """Raises Conflict, ConfigError or LedgerDamaged for what SQLite reports of the ledger at `path`.

    A missing table or a broken constraint is either damage or a fault of ours: `look` searches the file for
    damage and returns what it found, nothing for a sound file. A fault of ours stays what it is.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise LedgerDamaged(f"text in it is no UTF-8: {error}", path=path) from error
    except sqlite3.Error as error:
        translated = _translated(error, path, look)
        if translated is None:
            raise
        raise translated from error


def is_busy(error: sqlite3.Error) -> bool:
    return _code(error) in _BUSY


def _translated(error: sqlite3.Error, path: Path, look: Callable[[], str]) -> TrainctlError | None:
    code = _code(error)
    if code in _BUSY:
        return _busy(path)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path.parent)):
        return ConfigError(
            "The ledger's disk is full",
            why=f"{path} cannot grow; what it held before is unharmed",
            next=f"free some space (df -h {quoted(path.parent)}), then the same command again",
        )
    if code in _DAMAGED:
        return LedgerDamaged(str(error), path=path)
    if code in _PERHAPS_OURS or (isinstance(error, sqlite3.OperationalError) and code is None):
        # Python itself raises the ones without a code, for text that is no UTF-8.
        found = str(error) if code is None else look()
        return LedgerDamaged(found, path=path) if found else None
    if isinstance(error, sqlite3.OperationalError):
        next_step = "look at its permissions: ls -la" if code in _REFUSED else "look at the disk: df -h"
        return ConfigError(
            "The ledger cannot be read or written",
            why=f"{path}: {error}",
            next=f"{next_step} {quoted(path.parent)}; or set RUNCTL_HOME to a folder that can be written",
        )
    return None


def _is_full(folder: Path) -> bool:
    """Where even the few pages are missing that reading needs, SQLite speaks of an I/O error."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _LITTLE_BYTES


def _busy(path: Path) -> Conflict:
    holders = processes.with_file_open(path)
    named_ones = ", ".join(map(str, holders))
    return Conflict(
        "The ledger is busy",
        why=f"another process has been writing for {BUSY_SECONDS:.0f} s"
        + (f"; process {named_ones} has {path} open" if holders else ""),
        next=f"try again; ps -p {','.join(map(str, holders))} shows who it is"
        if holders
        else f"try again; fuser {quoted(path)} names who has it open",
    )


def _code(error: sqlite3.Error) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY_CODE
