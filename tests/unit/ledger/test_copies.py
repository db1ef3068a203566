from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from damages import contents, fill
from hypothesis import given
from hypothesis import strategies as st

from runctl.errors import LedgerDamaged
from runctl.ledger import JobRecord, Ledger, copies, inspection
from runctl.ledger.copies import Copy
from runctl.ledger.store import FILE_NAME

TODAY = date(2026, 11, 24)


class Day:
    """A clock of days."""

    speed = 1.0

    def __init__(self, day: date) -> None:
        self.day = day

    def now(self) -> datetime:
        return datetime(self.day.year, self.day.month, self.day.day, 12, tzinfo=UTC)

    def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def use(home: Path, day: date) -> None:
    with Ledger.open(home, clock=Day(day)) as ledger:
        ledger.jobs.list()


def names(home: Path) -> list[str]:
    folder = home / "ledger-copies"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def home(tmp_path: Path, job: Callable[..., JobRecord]) -> Path:
    with Ledger.open(tmp_path, clock=Day(TODAY)) as ledger:
        ledger.jobs.add(job(), "asked for")
    return tmp_path


def test_the_first_command_of_a_day_leaves_a_private_copy_of_all_that_there_is(home: Path) -> None:
    [name] = names(home)
    assert name == "ledger-2026-11-24.sqlite3"
    copy = home / "ledger-copies" / name
    assert contents(copy) == contents(home / FILE_NAME)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    before = copy.stat()
    use(home, TODAY)
    assert copy.stat() == before
    use(home, TODAY + timedelta(days=1))
    assert names(home) == [name, "ledger-2026-11-25.sqlite3"]


def test_nothing_is_copied_of_a_ledger_that_holds_nothing(tmp_path: Path) -> None:
    use(tmp_path, TODAY)
    assert names(tmp_path) == []


def test_a_command_that_failed_leaves_no_copy(home: Path) -> None:
    with pytest.raises(RuntimeError), Ledger.open(home, clock=Day(TODAY + timedelta(days=1))):
        raise RuntimeError
    assert names(home) == ["ledger-2026-11-24.sqlite3"]


def test_a_command_that_runs_for_days_has_its_copies(
    home: Path, job: Callable[..., JobRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.ledger.store._COPY_LOOK_SECONDS", 0.0)
    clock = Day(TODAY)
    with Ledger.open(home, clock=clock) as ledger:
        clock.day += timedelta(days=1)
        ledger.jobs.add(job("later-1"), "asked for")
        assert names(home)[-1] == "ledger-2026-11-25.sqlite3"


def test_a_damaged_ledger_is_never_copied_over_a_good_one(home: Path) -> None:
    """A value is wrong that no structure shows, and that today's command does not read."""
    good = (home / "ledger-copies" / "ledger-2026-11-24.sqlite3").read_bytes()
    with closing(sqlite3.connect(home / FILE_NAME)) as connection:
        connection.execute("UPDATE job_events SET cause = 'another'")
        connection.commit()
    use(home, TODAY)  # its copy is there: only what it reads is looked at
    with pytest.raises(LedgerDamaged):
        use(home, TODAY + timedelta(days=1))
    assert names(home) == ["ledger-2026-11-24.sqlite3"]
    assert (home / "ledger-copies" / "ledger-2026-11-24.sqlite3").read_bytes() == good


def test_a_ledger_that_is_damaged_while_it_is_open_is_not_copied(home: Path) -> None:
    with (
        Ledger.open(home, clock=Day(TODAY + timedelta(days=1))),
        closing(sqlite3.connect(home / FILE_NAME)) as connection,
    ):
        connection.execute("UPDATE job_events SET cause = 'another'")
        connection.commit()
    assert names(home) == ["ledger-2026-11-24.sqlite3"]


@pytest.mark.parametrize("trouble", ["full", "file", "link"])
def test_what_cannot_be_copied_harms_no_command(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    folder = home / "ledger-copies"
    for path in folder.iterdir():
        path.unlink()
    if trouble == "full":
        monkeypatch.setattr(copies, "_ROOM_BYTES", 1 << 60)
    else:
        folder.rmdir()
        folder.write_text("mine") if trouble == "file" else folder.symlink_to(tmp_path / "nowhere")
    use(home, TODAY)
    assert inspection.state(home / FILE_NAME).damage == ()


def test_what_a_killed_copy_left_is_removed_and_what_another_is_making_stays(home: Path) -> None:
    folder = home / "ledger-copies"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, under_way = (
        folder / f".ledger-2026-11-20.{ended.pid}.part",
        folder / f".ledger-2026-11-20.{os.getppid()}.part",
    )
    left.write_bytes(b"x")
    under_way.write_bytes(b"x")
    use(home, TODAY + timedelta(days=1))
    assert not left.exists()
    assert under_way.exists()


COPIER = """
    import sys
    from pathlib import Path
    from runctl.ledger import Ledger
    print("ready", flush=True)
    sys.stdin.readline()
    with Ledger.open(Path(sys.argv[1])) as ledger:
        ledger.jobs.list()
"""


def test_many_commands_at_once_leave_one_sound_copy(home: Path) -> None:
    for path in (home / "ledger-copies").iterdir():
        path.unlink()
    running = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(COPIER), str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert [process.communicate("go\n", timeout=60)[1] for process in running] == [""] * 4
    [name] = names(home)
    assert contents(home / "ledger-copies" / name) == contents(home / FILE_NAME)


def copy_of(day: date, size: int = 1) -> Copy:
    return Copy(path=Path(f"ledger-{day}.sqlite3"), day=day, bytes=size)


@given(st.sets(st.integers(0, 400), max_size=60), st.integers(1, 1 << 29))
def test_a_week_of_days_and_a_month_of_weeks_stay_within_their_space(ages: set[int], size: int) -> None:
    all_of = [copy_of(TODAY - timedelta(days=age), size) for age in sorted(ages)]
    kept = copies.kept(all_of)
    assert kept[:2] == all_of[:2]
    assert len(kept) <= copies.KEPT_DAYS + copies.KEPT_WEEKS
    assert len(kept) <= 2 or sum(copy.bytes for copy in kept) <= copies.KEPT_BYTES
    if size * len(all_of) <= copies.KEPT_BYTES:
        assert kept[: copies.KEPT_DAYS] == all_of[: copies.KEPT_DAYS]
    # One copy a day: what is kept today is what was kept yesterday, but for what is too old.
    assert copies.kept(kept) == kept


def test_old_copies_go_and_one_a_week_stays(home: Path) -> None:
    for day in range(1, 60):
        use(home, TODAY + timedelta(days=day))
    days = [copy.day for copy in copies.of(home / FILE_NAME, TODAY + timedelta(days=60))]
    assert days[:7] == [TODAY + timedelta(days=59 - number) for number in range(7)]
    assert 8 <= len(days) <= 11
    assert days[0] - days[-1] >= timedelta(days=14)


def test_copies_of_days_to_come_are_the_last_to_be_taken(home: Path) -> None:
    """A clock was wrong: what was copied then is older than what was copied since."""
    use(home, TODAY + timedelta(days=400))
    use(home, TODAY + timedelta(days=1))
    found = [copy.day for copy in copies.of(home / FILE_NAME, TODAY + timedelta(days=1))]
    assert found == [TODAY + timedelta(days=1), TODAY, TODAY + timedelta(days=400)]


def test_a_copy_is_sound_and_full_though_it_is_of_a_ledger_that_is_being_written(
    tmp_path: Path, job: Callable[..., JobRecord]
) -> None:
    fill(tmp_path, times=3)
    with Ledger.open(tmp_path, clock=Day(TODAY)) as writer:
        writer.jobs.add(job(), "asked for")
        use(tmp_path, TODAY)
        copy = copies.path_of(tmp_path / FILE_NAME, TODAY)
        assert inspection.state(copy).damage == ()
        assert contents(copy) == contents(tmp_path / FILE_NAME)
