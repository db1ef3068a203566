from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from damages import fill
from hypothesis import given
from hypothesis import strategies as st

from runctl.errors import LedgerDamaged
from runctl.ledger import JobRecord, Ledger, health, inspection, merging, sums
from runctl.ledger.store import FILE_NAME

NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False)
VALUES = st.none() | NUMBERS | st.text(max_size=9) | st.binary(max_size=9)
ROWS = st.lists(VALUES, min_size=1, max_size=8)


def named(row: list[object]) -> list[str]:
    return [f"c{number}" for number in range(len(row))]


@given(ROWS, st.data())
def test_a_value_that_changed_changes_the_sum(row: list[object], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(row) - 1))
    value = data.draw(
        VALUES.filter(lambda value: (type(value), repr(value)) != (type(row[place]), repr(row[place])))
    )
    changed = [*row[:place], value, *row[place + 1 :]]
    assert sums.of(named(row), row) != sums.of(named(row), changed)


@given(ROWS)
def test_a_column_that_is_added_empty_changes_no_sum(row: list[object]) -> None:
    assert sums.of(named(row), row) == sums.of([*named(row), "later"], [*row, None])


@pytest.fixture
def filled(tmp_path: Path, job: JobRecord) -> Path:
    fill(tmp_path, times=3)
    with Ledger.open(tmp_path) as ledger:
        ledger.jobs.add(job(), "asked for")  # type: ignore[operator]
    return tmp_path / FILE_NAME


def tables(connection: sqlite3.Connection) -> dict[str, list[str]]:
    names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    return {
        name: [column[1] for column in connection.execute(f"PRAGMA table_info({name})")] for (name,) in names
    }


def test_every_row_has_its_sum_whatever_statement_wrote_it(filled: Path) -> None:
    assert inspection.state(filled).damage == ()
    with closing(sqlite3.connect(filled)) as connection:
        for table, columns in tables(connection).items():
            if sums.COLUMN in columns:
                without = connection.execute(f"SELECT COUNT(*) FROM {table} WHERE sum IS NULL").fetchone()[0]
                assert without == 0, table


def test_every_table_has_sums_and_can_be_restored(filled: Path) -> None:
    """Supervisors hold leases of a minute: nothing is lost with them."""
    with closing(sqlite3.connect(filled)) as connection:
        found = tables(connection)
    assert set(found) - {"supervisors"} == set(merging.KEYS)
    for table, key in merging.KEYS.items():
        assert sums.COLUMN in found[table]
        assert set(key) <= set(found[table])


def test_a_changed_value_is_noticed_in_every_column_of_every_table(filled: Path) -> None:
    """But in `seen`, which each look at the cloud renews."""
    looked_at = 0
    with closing(sqlite3.connect(filled)) as connection:
        for table, columns in tables(connection).items():
            for row in connection.execute(f"SELECT * FROM {table}") if sums.COLUMN in columns else ():
                assert not sums.is_wrong(columns, row)
                for place, name in enumerate(columns):
                    for value in (other(row[place]), None):
                        changed = (*row[:place], value, *row[place + 1 :])
                        noticed = row[place] != value and name not in {"sum", "seen"}
                        assert sums.is_wrong(columns, changed) == noticed or name == "sum", (table, name)
                        looked_at += noticed
    assert looked_at > 500


def other(value: object) -> object:
    """With its last bit flipped, as far as there is one."""
    match value:
        case None:
            return 1
        case str():
            return value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
        case bytes():
            return bytes([*value[:-1], value[-1] ^ 1]) if value else b"x"
        case int():
            return value ^ 1
        case _:
            return float(str(value)) + 1


def test_a_row_that_is_not_what_was_written_is_never_shown(filled: Path) -> None:
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("UPDATE jobs SET name = 'another'")
        connection.commit()
    with Ledger.open(filled.parent) as ledger:
        for reading in (ledger.jobs.list, lambda: ledger.jobs.get("last")):
            with pytest.raises(LedgerDamaged, match="damaged") as caught:
                reading()
            assert "is not what runctl wrote" in caught.value.why
            assert "runctl ledger restore" in caught.value.next


def test_rows_keep_their_sums_where_a_newer_runctl_adds_a_column_meanwhile(
    filled: Path, job: JobRecord
) -> None:
    with Ledger.open(filled.parent) as old:
        old.jobs.add(job("first-1"), "asked for")  # type: ignore[operator]
        with closing(sqlite3.connect(filled, isolation_level=None)) as newer:
            newer.row_factory = sqlite3.Row
            sums.register(newer)
            newer.execute("BEGIN IMMEDIATE")
            newer.execute("ALTER TABLE jobs ADD COLUMN later INTEGER NOT NULL DEFAULT 7")
            sums.renew(newer)
            newer.execute("COMMIT")
        old.jobs.add(job("second-2"), "asked for")  # type: ignore[operator]
        assert {found.id for found in old.jobs.list()} >= {"first-1", "second-2"}
    with closing(health.looking_at(filled)) as connection:
        assert list(health.rows(connection, ())) == []
