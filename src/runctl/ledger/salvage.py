"""Read what a damaged ledger still holds: row by row, past what cannot be read, each judged by its sum."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from runctl.errors import Conflict
from runctl.ledger import failures, sums, swap

Row = dict[str, object]
_FIRST, _LAST = -(1 << 63), (1 << 63) - 1
_PROBES = 2000  # tries to get past a damaged stretch of one table, before it is given up
_WORK = ".ledger-restore-"
_HEADER_BYTES = ((0, 24), (44, 60))  # of a database: what cannot differ between a ledger and its copy


class Table(msgspec.Struct):
    """The rows of a table that can be read. `proven` ones have the sum that belongs to their content.

    `unreadable` counts rows that are not what was written; `is_whole` is False where stretches of unknown
    length are missing.
    """

    proven: list[Row] = msgspec.field(default_factory=list[Row])
    unproven: list[Row] = msgspec.field(default_factory=list[Row])
    unreadable: int = 0
    is_whole: bool = True

    @property
    def is_complete(self) -> bool:
        return self.is_whole and not self.unreadable


def tables(ledger: Path, work: Path, *, like: Path | None, names: tuple[str, ...]) -> dict[str, Table]:
    """The tables of a damaged ledger, which is copied to `work` first and stays as it is.

    `like` is a sound copy of it, whose header serves where the ledger's own is damaged. A log that belongs to
    another database hides all that there is, and is left out then.
    """
    file, log = work / ledger.name, ledger.with_name(ledger.name + swap.BESIDE[0])
    shutil.copyfile(ledger, file)
    ways = [_read(file, names)]
    if log.exists():
        shutil.copyfile(ledger, file)  # SQLite makes the index of the log anew
        shutil.copyfile(log, work / log.name)
        ways.insert(0, _read(file, names))
    if not any(map(_rows, ways)) and like is not None:
        shutil.copyfile(ledger, file)
        _mend_header(file, like)
        ways.append(_read(file, names))
    return max(ways, key=_rows)


def _rows(found: dict[str, Table]) -> int:
    return sum(len(table.proven) + len(table.unproven) for table in found.values())


def _read(file: Path, names: tuple[str, ...]) -> dict[str, Table]:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        # Text that is no UTF-8 is a row that is not what was written, not the end of the table.
        connection.text_factory = _text
        return {name: _table(connection, name) for name in names}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _table(connection: sqlite3.Connection, name: str) -> Table:
    table = Table()
    try:
        cursor = connection.execute(f"SELECT * FROM {name} LIMIT 0")  # noqa: S608 (our own names)
        columns = [column[0] for column in cursor.description]
    except failures.UNREADABLE:
        table.is_whole = False
        return table
    try:
        connection.execute(f"SELECT rowid FROM {name} LIMIT 0")  # noqa: S608
    except failures.UNREADABLE:
        rows = _both_ends(connection, name, table)
    else:
        found: dict[int, list[object]] = {}
        _stretch(connection, name, (_FIRST, _LAST), table, found, [_PROBES])
        rows = [found[rowid] for rowid in sorted(found)]
    for values in rows:
        _judge(columns, values, table)
    return table


def _stretch(
    connection: sqlite3.Connection,
    name: str,
    rowids: tuple[int, int],
    table: Table,
    found: dict[int, list[object]],
    probes: list[int],
) -> None:
    """From both ends to the first page that cannot be read, then each half of what lies between."""
    first, last = rowids
    if first > last or probes[0] <= 0:
        return
    reached = [first, last]
    for end, (order, step) in enumerate((("ASC", 1), ("DESC", -1))):
        probes[0] -= 1
        query = f"SELECT rowid, * FROM {name} NOT INDEXED WHERE rowid BETWEEN ? AND ? ORDER BY rowid {order}"  # noqa: S608
        try:
            for rowid, *values in connection.execute(query, (reached[0], reached[1])):
                found[rowid] = values
                reached[end] = rowid + step
        except (*failures.UNREADABLE, OverflowError):
            table.is_whole = False
        else:
            return  # all of it could be read
    first, last = reached
    if first < last:
        middle = (first + last) // 2
        _stretch(connection, name, (first, middle), table, found, probes)
        _stretch(connection, name, (middle + 1, last), table, found, probes)


def _both_ends(connection: sqlite3.Connection, name: str, table: Table) -> list[list[object]]:
    """A table without row numbers: up to the first page that cannot be read, and from the last one on."""
    keys = [row[1] for row in connection.execute(f"PRAGMA table_info({name})") if row[5]]
    found: dict[tuple[object, ...], None] = {}
    for order in ("ASC", "DESC"):
        ordered = ", ".join(f"{key} {order}" for key in keys)
        try:
            for values in connection.execute(f"SELECT * FROM {name} ORDER BY {ordered}"):  # noqa: S608
                found[values] = None
        except failures.UNREADABLE:
            table.is_whole = False
        else:
            break
    return [list(values) for values in found]


def _judge(columns: list[str], values: list[object], table: Table) -> None:
    row = dict(zip(columns, values, strict=True))
    with suppress(ValueError):  # raised for text that was no UTF-8
        expected = sums.of(columns, values)
        if row.get(sums.COLUMN) is None:
            table.unproven.append(row)
            return
        if row[sums.COLUMN] == expected:
            table.proven.append(row)
            return
    table.unreadable += 1


def _mend_header(file: Path, like: Path) -> None:
    with like.open("rb") as stream:
        good = stream.read(100)
    with file.open("r+b") as stream:
        for start, end in _HEADER_BYTES:
            stream.seek(start)
            stream.write(good[start:end])


@contextmanager
def folder(beside: Path) -> Generator[Path]:
    """A private folder for the work, on the same disk, removed in the end; what a killed one left goes, too.

    Raises Conflict where another process works in one.
    """
    import tempfile

    lock = os.open(beside, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no folders
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict("Another process restores the ledger", next="runctl ledger check") from error
        for left in beside.glob(f"{_WORK}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_WORK, dir=beside) as name:
            yield Path(name)
    finally:
        os.close(lock)
