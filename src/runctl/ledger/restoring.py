"""Bring a damaged ledger back: its newest sound copy, and what can still be read of the damaged file."""

from __future__ import annotations

import shutil
from contextlib import closing
from datetime import datetime
from pathlib import Path

import msgspec

from runctl import processes
from runctl.errors import ConfigError, Conflict, LedgerDamaged, NotFound
from runctl.ledger import health, inspection, merging, opening, salvage, sums, swap
from runctl.ledger.migrations import MIGRATIONS
from runctl.ledger.salvage import Table


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, or would be. `damage` is what was wrong, empty for a ledger that was sound.

    `rows` are those of the ledger as it is now, `added` those among them that the copy did not hold so, both
    by table; `unreadable` tables are those of which something could not be read. `unfinished` operations
    stand as they were on the day of the copy. `aside` is where the former file is kept.
    """

    damage: str
    copy: Path | None
    rows: dict[str, int]
    added: dict[str, int]
    unreadable: tuple[str, ...]
    unfinished: tuple[str, ...]
    aside: Path | None


def restore(ledger: Path, *, now: datetime, copy: Path | None = None, dry_run: bool = False) -> Restored:
    """Put a sound ledger in the place of a damaged, empty or missing one; the old file is kept.

    A ledger that is sound keeps all that it has, and gets what the copy holds and it does not. Raises
    NotFound for a copy that is not there, LedgerDamaged for one that is not sound, Conflict where another
    process has the ledger open, ConfigError for a ledger of a newer version unless `copy` is named.
    """
    ledger.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    swap.finish(ledger)
    if holders := processes.with_file_open(ledger):
        raise Conflict(
            "The ledger is in use",
            why=f"process {', '.join(map(str, holders))} has {ledger} open",
            next="end it, or wait for its end: jobs on machines go on by themselves; then the same command",
        )
    damage = _damage(ledger, copy)
    chosen = _chosen(ledger, now, copy)
    before = _state(ledger)
    with salvage.folder(ledger.parent) as work:
        new = work / "new.sqlite3"
        base, other = (chosen, ledger) if damage else (ledger, chosen)
        found = _read(other, work, like=chosen) if other is not None and other.exists() else {}
        rows, added, unfinished = _build(new, base, found, newer=bool(damage))
        unreadable = tuple(name for name, table in found.items() if not table.is_complete) if damage else ()
        aside = _aside(ledger, now) if damage or any(added.values()) else None
        if aside is not None and not dry_run:
            if _state(ledger) != before or processes.with_file_open(ledger):
                raise Conflict("The ledger was used meanwhile", next="runctl ledger restore")
            new.replace(swap.new_file(ledger))
            swap.begin(ledger, aside)
    return Restored(
        damage=damage,
        copy=chosen,
        rows=rows,
        added=added,
        unreadable=unreadable,
        unfinished=unfinished,
        aside=aside,
    )


def _damage(ledger: Path, named: Path | None) -> str:
    """Where a copy is named, a version of days to come is damage, too: the user knows who wrote it."""
    try:
        return inspection.damage(ledger)
    except ConfigError as error:
        if named is None:
            raise
        return error.why


def _chosen(ledger: Path, now: datetime, named: Path | None) -> Path | None:
    """The newest copy that is sound, or the one that was named."""
    if named is None:
        known = inspection.states(ledger, now.date())
        return next((one.state.path for one in known if not one.state.damage), None)
    if not named.is_file():
        raise NotFound(f"There is no copy {named}", next="runctl ledger copies")
    if found := inspection.damage(named):
        raise LedgerDamaged(found, path=named)
    return named


def _read(source: Path, work: Path, *, like: Path | None) -> dict[str, Table]:
    return salvage.tables(source, work, like=like, names=tuple(merging.KEYS))


def _build(
    new: Path, base: Path | None, found: dict[str, Table], *, newer: bool
) -> tuple[dict[str, int], dict[str, int], tuple[str, ...]]:
    """The new ledger; its rows and what was added by table, and its unfinished operations."""
    new.touch(mode=0o600)  # what is copied into it, and SQLite's files beside it, stay so
    if base is not None:
        _copy_whole(base, new)
    with closing(opening.connected(new)) as connection:
        opening.migrate(connection)
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("BEGIN IMMEDIATE")
        sums.keep(connection)
        added = merging.add(connection, found, newer=newer)
        connection.execute("COMMIT")
        rows = {
            name: int(connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0])  # noqa: S608
            for name in merging.KEYS
        }
        unfinished = connection.execute("SELECT id FROM transactions WHERE outcome IS NULL").fetchall()
        if wrong := [*health.structure(connection, MIGRATIONS), *health.rows(connection, MIGRATIONS)]:
            raise LedgerDamaged(wrong[0], path=new)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return rows, added, tuple(row["id"] for row in unfinished)


def _copy_whole(base: Path, new: Path) -> None:
    """With what its log holds."""
    for suffix in ("", swap.BESIDE[0]):
        source = base.with_name(base.name + suffix)
        if source.exists():
            shutil.copyfile(source, new.with_name(new.name + suffix))


def _state(ledger: Path) -> list[tuple[int, int]]:
    """Changes whenever somebody writes."""
    files = [ledger.with_name(ledger.name + suffix) for suffix in ("", swap.BESIDE[0])]
    return [(file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]


def _aside(ledger: Path, now: datetime) -> Path:
    folder = swap.asides(ledger) / f"{now:%Y-%m-%dT%H-%M-%SZ}"
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{now:%Y-%m-%dT%H-%M-%SZ}-{number}")
    return folder
