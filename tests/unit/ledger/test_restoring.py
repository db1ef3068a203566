from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from damages import contents, fill, settled

from runctl.errors import ConfigError, Conflict, LedgerDamaged, NotFound
from runctl.ledger import JobRecord, Ledger, Owner, copies, failures, inspection, migrations, restoring, swap
from runctl.ledger.store import FILE_NAME
from runctl.model import JobId, JobState

NOW = datetime.now(UTC)
OWNER = Owner(pid=1, started=1.0, host="laptop")


@pytest.fixture
def home(tmp_path: Path, job: Callable[..., JobRecord]) -> Path:
    """A ledger with its copy; both hold the same."""
    fill(tmp_path, times=4)
    with Ledger.open(tmp_path) as ledger:
        ledger.jobs.add(job(), "asked for")
    shutil.rmtree(tmp_path / "ledger-copies")
    Ledger.open(tmp_path).__exit__(None, None, None)
    settled(tmp_path / FILE_NAME)
    return tmp_path


def spoil(home: Path, table: str = "verdicts") -> None:
    """Its structure is sound, and one table is not what was written."""
    with closing(sqlite3.connect(home / FILE_NAME, isolation_level=None)) as connection:
        connection.execute(f"DROP TABLE {table}")
    settled(home / FILE_NAME)


def restore(home: Path) -> restoring.Restored:
    return restoring.restore(home / FILE_NAME, now=NOW)


def test_what_is_later_in_the_damaged_file_wins_and_what_is_older_never_does(
    home: Path, job: Callable[..., JobRecord]
) -> None:
    before = (home / FILE_NAME).read_bytes()
    moved = NOW + timedelta(seconds=1)
    with Ledger.open(home) as ledger:
        digits = JobId("digits-7f3a2c")
        ledger.jobs.transition(
            digits,
            JobState.PROVISIONING,
            allowed_from={JobState.PLANNED},
            at=moved,
            attempt=1,
            cause="attempt 1",
        )
        ledger.journal.end(ledger.journal.unfinished()[0].id, "done")
        ledger.resources.observe("i-00000000000000000", "stopped", at=moved, billable=False, price=None)
        ledger.jobs.add(job("later-1", created=moved), "asked for")
    rows = contents(home / FILE_NAME)
    spoil(home)
    done = restore(home)
    assert done.unreadable == ("verdicts",)
    assert contents(home / FILE_NAME) == rows
    # The file of yesterday is found again, damaged: it takes nothing back.
    copies.path_of(home / FILE_NAME, NOW.date()).unlink()
    Ledger.open(home).__exit__(None, None, None)
    (home / FILE_NAME).write_bytes(before)
    spoil(home)
    restore(home)
    assert contents(home / FILE_NAME) == rows


def test_an_open_state_that_the_copy_holds_ends_where_the_next_one_begins(home: Path) -> None:
    """The row that ended it cannot be read; the row after it can."""
    instance, later = "i-00000000000000000", NOW + timedelta(hours=1)
    with Ledger.open(home) as ledger:
        ledger.resources.observe(instance, "stopped", at=later, billable=False, price=None)
    with closing(sqlite3.connect(home / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER closed_intervals_stay")
        connection.execute(
            "UPDATE intervals SET state = 'flipped' WHERE resource = ? AND state = 'stopping'", (instance,)
        )
    restore(home)
    with Ledger.open(home) as ledger:
        states = ledger.resources.intervals(instance)
    assert [(one.state, one.end) for one in states[-2:]] == [("stopping", later), ("stopped", None)]


def test_an_operation_of_which_steps_are_missing_is_neither_redone_nor_undone(home: Path) -> None:
    with Ledger.open(home) as ledger:
        known = {record.id for record in ledger.journal.unfinished()}
        tx = ledger.journal.begin("launch", subject="digits/9", payload=b"{}", owner=OWNER, at=NOW)
        ledger.journal.done(tx, ledger.journal.intend(tx, "run", token=f"{tx}-1", request=b"{}"), b"i-9")
        lost = ledger.journal.intend(tx, "attach", token=f"{tx}-2", request=b"{}")
    with closing(sqlite3.connect(home / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("UPDATE steps SET request = x'00' WHERE tx = ? AND number = ?", (tx, lost))
    done = restore(home)
    with Ledger.open(home) as ledger:
        assert ledger.journal.get(tx).outcome == "damaged"
        assert {record.id for record in ledger.journal.unfinished()} == known
    assert set(done.unfinished) == known


def test_an_unfinished_operation_that_can_be_read_in_full_stays_one(home: Path) -> None:
    with Ledger.open(home) as ledger:
        tx = ledger.journal.begin("launch", subject="digits/9", payload=b"{}", owner=OWNER, at=NOW)
        ledger.journal.intend(tx, "run", token=f"{tx}-1", request=b"{}")
    spoil(home)
    assert tx in restore(home).unfinished
    with Ledger.open(home) as ledger:
        assert ledger.journal.get(tx).outcome is None


def test_without_any_copy_what_can_be_read_is_kept(home: Path) -> None:
    shutil.rmtree(home / "ledger-copies")
    rows = contents(home / FILE_NAME)
    spoil(home)
    done = restore(home)
    assert done.copy is None
    del rows["verdicts"]
    assert {name: found for name, found in contents(home / FILE_NAME).items() if name != "verdicts"} == rows


def test_a_damaged_copy_is_passed_over_for_an_older_sound_one(home: Path) -> None:
    folder = home / "ledger-copies"
    [newest] = folder.iterdir()
    shutil.copy(newest, folder / "ledger-2026-01-02.sqlite3")
    newest.write_bytes(newest.read_bytes()[:5000])
    (home / FILE_NAME).write_bytes(b"nothing of it is left")
    done = restore(home)
    assert done.copy == folder / "ledger-2026-01-02.sqlite3"
    assert done.rows["jobs"] == 1
    with pytest.raises(LedgerDamaged):
        restoring.restore(home / FILE_NAME, now=NOW, copy=newest)
    with pytest.raises(NotFound):
        restoring.restore(home / FILE_NAME, now=NOW, copy=folder / "ledger-2026-01-03.sqlite3")


def test_a_sound_ledger_gets_what_only_the_copy_holds_and_loses_nothing(
    home: Path, job: Callable[..., JobRecord]
) -> None:
    copied = contents(home / FILE_NAME)
    (home / FILE_NAME).unlink()
    with Ledger.open(home) as ledger:
        ledger.jobs.add(job("new-1"), "asked for")
    done = restore(home)
    assert (done.damage, done.rows["jobs"]) == ("", 2)
    with Ledger.open(home) as ledger:
        assert {found.id for found in ledger.jobs.list()} == {"new-1", "digits-7f3a2c"}
        assert ledger.jobs.get("last").id == "digits-7f3a2c"
    now = contents(home / FILE_NAME)
    assert all(not (copied[name] - now[name]) for name in copied if name != "jobs")  # it has another number
    assert restore(home).aside is None


def test_an_older_version_is_restored_and_brought_up_to_date(
    home: Path, job: Callable[..., JobRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = contents(home / FILE_NAME)
    later = (*migrations.MIGRATIONS, "ALTER TABLE jobs ADD COLUMN later INTEGER")
    for module in ("inspection", "opening", "restoring", "store"):
        monkeypatch.setattr(f"runctl.ledger.{module}.MIGRATIONS", later)
    spoil(home)
    restore(home)
    with Ledger.open(home) as ledger:
        assert ledger.jobs.get("last") == job()
    assert contents(home / FILE_NAME)["steps"] == rows["steps"]


def test_rows_from_before_there_were_sums_are_kept_if_they_can_be_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restored ones can be read, and there is a way out that ends."""
    file = tmp_path / FILE_NAME
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for migration in migrations.MIGRATIONS[:4]:
            connection.executescript(migration)
        connection.execute("PRAGMA user_version = 4")
        for job, state in (("good-1", "succeeded"), ("bad-2", "flipped"), ("good-3", "failed")):
            connection.execute(
                "INSERT INTO jobs VALUES (?, 'd', x'7b7d', ?, 'local', 'local', NULL, 's', 'p', 'u', 1, 1)",
                (job, state),
            )
        connection.execute("DROP TABLE verdicts")
    with pytest.raises(LedgerDamaged):
        Ledger.open(tmp_path)
    done = restore(tmp_path)
    assert (done.copy, done.rows["jobs"]) == (None, 2)
    with Ledger.open(tmp_path) as ledger:
        assert {found.id for found in ledger.jobs.list()} == {"good-1", "good-3"}
    assert inspection.state(file).damage == ()


def test_a_row_that_cannot_be_understood_is_damage_whatever_its_sum_says(home: Path) -> None:
    with closing(sqlite3.connect(home / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("UPDATE jobs SET state = 'dancing', sum = NULL")
    assert "cannot be understood" in inspection.state(home / FILE_NAME).damage[0]
    restore(home)
    with Ledger.open(home) as ledger:
        assert ledger.jobs.get("last").state == JobState.PLANNED


def test_one_process_restores_and_cleans_up_after_one_that_was_killed(home: Path) -> None:
    (home / ".ledger-restore-left").mkdir()
    (home / ".ledger-restore-left" / "new.sqlite3").write_bytes(b"half")
    spoil(home)
    descriptor = os.open(home, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(Conflict, match="Another process"):
        restore(home)
    os.close(descriptor)
    restore(home)
    assert not list(home.glob(".ledger-restore-*"))


def test_a_newer_version_is_touched_only_where_the_user_names_a_copy(home: Path) -> None:
    [copy] = (home / "ledger-copies").iterdir()
    with closing(sqlite3.connect(home / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 77")
    settled(home / FILE_NAME)
    before = (home / FILE_NAME).read_bytes()
    for opening in (
        lambda: Ledger.open(home),
        lambda: restore(home),
        lambda: inspection.state(home / FILE_NAME),
    ):
        with pytest.raises(ConfigError, match="newer runctl") as caught:
            opening()
        assert "upgrade runctl" in caught.value.next
        assert "header may be damaged" in caught.value.why  # its tables are ours
    assert (home / FILE_NAME).read_bytes() == before
    assert [path.name for path in (home / "ledger-copies").iterdir()] == [copy.name]
    restoring.restore(home / FILE_NAME, now=NOW, copy=copy)
    with Ledger.open(home) as ledger:
        assert ledger.jobs.get("last").id == "digits-7f3a2c"


HOLDER = """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(home: Path) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(home / FILE_NAME)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.communicate("done\n", timeout=60)


def test_a_locked_ledger_names_who_holds_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "BUSY_SECONDS", 0.05)
    with holder(home) as pid:
        with pytest.raises(Conflict, match="busy") as caught:
            Ledger.open(home)
        assert f"process {pid} has" in caught.value.why
        assert str(pid) in caught.value.next
        with pytest.raises(Conflict, match="in use") as caught:
            restore(home)
        assert f"process {pid} has" in caught.value.why
    with Ledger.open(home) as ledger:
        assert ledger.jobs.get("last").id == "digits-7f3a2c"


class Killed(BaseException):
    pass


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[list[str]]:
    """The process ends before its call of this number that changes what is on the disk."""
    done: list[str] = []

    def counted(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            if len(done) == number:
                raise Killed
            done.append(name)
            return original(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "mkdir", "write_text"):
            patch.setattr(Path, name, counted(name, getattr(Path, name)))
        patch.setattr(swap, "sync", counted("sync", swap.sync))
        yield done


def test_a_kill_at_any_moment_leaves_the_old_ledger_or_the_new_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = contents(home / FILE_NAME)
    spoil(home)
    # The log of the damaged one must never be played into the new one.
    with closing(sqlite3.connect(home / FILE_NAME, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE stray (x)")
        log = (home / f"{FILE_NAME}-wal").read_bytes()
        file = (home / FILE_NAME).read_bytes()
    sound = home.parent / "sound"
    shutil.copytree(home, sound)
    finished = 0
    for number in range(100):
        shutil.rmtree(home)
        shutil.copytree(sound, home)
        (home / FILE_NAME).write_bytes(file)
        (home / f"{FILE_NAME}-wal").write_bytes(log)
        (home / f"{FILE_NAME}-shm").unlink(missing_ok=True)
        with killed_at(monkeypatch, number) as done:
            try:
                restore(home)
            except Killed:
                pass
            else:
                assert len(done) == number
                break
        try:
            Ledger.open(home).close()
        except LedgerDamaged:
            assert (home / FILE_NAME).read_bytes() == file, number
            restore(home)
        else:
            finished += 1
        assert contents(home / FILE_NAME) == rows, number
        kept = [
            path for path in (home / "ledger-damaged").rglob("ledger.sqlite3") if path.read_bytes() == file
        ]
        assert kept, number
    assert finished >= 5
    assert number > finished + 3


@pytest.mark.slow
def test_a_restore_that_is_killed_for_real_leaves_the_old_ledger_or_the_new_one(home: Path) -> None:
    rows = contents(home / FILE_NAME)
    spoil(home)
    sound = home.parent / "sound"
    shutil.copytree(home, sound)
    for number in range(40):
        shutil.rmtree(home)
        shutil.copytree(sound, home)
        process = subprocess.Popen(
            [sys.executable, "-m", "runctl", "ledger", "restore"],
            env={**os.environ, "RUNCTL_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(0.15 + 0.02 * number)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            Ledger.open(home).close()
        except LedgerDamaged:
            restore(home)
        assert contents(home / FILE_NAME) == rows, number


def test_two_processes_that_find_an_unfinished_exchange_finish_it_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(home)
    with killed_at(monkeypatch, 9), pytest.raises(Killed):
        restore(home)
    assert (home / f"{FILE_NAME}-restoring").exists()
    script = "import sys, pathlib, runctl.ledger as l; l.Ledger.open(pathlib.Path(sys.argv[1])).close()"
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(home)], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [process.communicate(timeout=60)[1] for process in running] == [""] * 4
    assert inspection.state(home / FILE_NAME).damage == ()
    assert not (home / f"{FILE_NAME}-restoring").exists()
