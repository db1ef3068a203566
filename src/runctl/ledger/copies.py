"""Copies of the ledger, one for each day on which it was used: sound, private, bounded in space."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import date, timedelta
from pathlib import Path

import msgspec

from runctl.errors import LedgerDamaged
from runctl.ledger import failures, health, swap
from runctl.processes import is_alive

KEPT_DAYS = 7
KEPT_WEEKS = 4
KEPT_BYTES = 1 << 30
"""Above this the oldest go first; the newest two stay whatever their size."""
_ROOM_BYTES = 64 << 20  # what a copy leaves free on the disk, for those who need it more
_NAME = re.compile(r"ledger-(\d{4}-\d{2}-\d{2})\.sqlite3")
_UNFINISHED = re.compile(r"\.ledger-.*\.(\d+)\.part(-journal)?")


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger held on a day."""

    path: Path
    day: date
    bytes: int


def folder_of(ledger: Path) -> Path:
    return ledger.parent / "ledger-copies"


def path_of(ledger: Path, day: date) -> Path:
    return folder_of(ledger) / f"ledger-{day.isoformat()}.sqlite3"


def of(ledger: Path, today: date) -> list[Copy]:
    """The newest first. Those from days to come are last: a clock was wrong when they were made."""
    found: list[Copy] = []
    with suppress(OSError):
        for path in folder_of(ledger).iterdir():
            if name := _NAME.fullmatch(path.name):
                with suppress(ValueError, OSError):
                    found.append(Copy(path=path, day=date.fromisoformat(name[1]), bytes=path.lstat().st_size))
    return sorted(found, key=lambda copy: (copy.day <= today + timedelta(days=1), copy.day), reverse=True)


def kept(copies: Sequence[Copy]) -> list[Copy]:
    """Which of the copies stay, the newest first: one for each of the last days and weeks."""
    weeks: dict[tuple[int, int], Copy] = {}
    for copy in copies:
        weeks.setdefault(copy.day.isocalendar()[:2], copy)
    wanted = {copy.path for copy in (*copies[:KEPT_DAYS], *list(weeks.values())[:KEPT_WEEKS])}
    found: list[Copy] = []
    size = 0
    for copy in copies:
        if copy.path in wanted and (size + copy.bytes <= KEPT_BYTES or len(found) < 2):
            found.append(copy)
            size += copy.bytes
    return found


def is_due(ledger: Path, today: date) -> bool:
    return not path_of(ledger, today).exists()


def make(connection: sqlite3.Connection, ledger: Path, today: date, migrations: Sequence[str]) -> Copy | None:
    """Copy a ledger that was looked at; None where the disk or its permissions do not let us.

    The copy is read in full before it gets its name. Raises LedgerDamaged where it is not sound, and keeps
    those that are there.
    """
    folder = folder_of(ledger)
    part = folder / f".ledger-{today.isoformat()}.{os.getpid()}.part"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _remove_unfinished(folder)
        if not _has_room(ledger, folder):
            return None
        try:
            # SQLite would make it readable for others.
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
            connection.execute("VACUUM INTO ?", (str(part),))
            if found := next(iter(findings(part, migrations)), None):
                raise LedgerDamaged(found, path=ledger)
            swap.sync(part)
            part.replace(path_of(ledger, today))
            swap.sync(folder)
        finally:
            part.unlink(missing_ok=True)
        copies = of(ledger, today)
        for copy in copies:
            if copy not in kept(copies):
                copy.path.unlink(missing_ok=True)
    except (OSError, sqlite3.OperationalError):
        return None
    return copies[0]


def findings(copy: Path, migrations: Sequence[str]) -> list[str]:
    """What is wrong with a ledger's file that nobody writes to; it is read in full and not changed."""
    try:
        with closing(read_only(copy)) as connection:
            return [*health.structure(connection, migrations), *health.rows(connection, migrations)]
    except failures.UNREADABLE as error:
        return [str(error)]


def read_only(path: Path) -> sqlite3.Connection:
    """A file that nobody writes to: without locks, and without files beside it."""
    return health.looking_at(path, "immutable=1")


def _has_room(ledger: Path, folder: Path) -> bool:
    disk = os.statvfs(folder)
    size = sum(
        path.stat().st_size for path in (ledger, ledger.with_name(f"{ledger.name}-wal")) if path.exists()
    )
    return disk.f_bavail * disk.f_frsize > size + _ROOM_BYTES


def _remove_unfinished(folder: Path) -> None:
    """What killed processes left."""
    for path in folder.iterdir():
        name = _UNFINISHED.fullmatch(path.name)
        if name and not is_alive(int(name[1])):
            path.unlink(missing_ok=True)
