from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from runctl.errors import ConfigError, Conflict, TrainctlError
from runctl.ledger import JobRecord, Ledger, failures, migrations, opening, store
from runctl.ledger.store import FILE_NAME


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def integrity(folder: Path) -> str:
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def test_what_was_written_is_there_after_opening_again(tmp_path: Path, job: Callable[..., JobRecord]) -> None:
    with Ledger.open(tmp_path / "deep" / "folder") as ledger:
        ledger.jobs.add(job(), "asked for")
    with Ledger.open(tmp_path / "deep" / "folder") as ledger:
        assert ledger.jobs.get("last") == job()


def test_the_ledger_is_a_strict_database_in_wal_mode_that_syncs_its_intents(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:

        def pragma(name: str) -> object:
            return ledger._connection.execute(f"PRAGMA {name}").fetchone()[0]

        assert pragma("journal_mode") == "wal"
        assert pragma("foreign_keys") == 1
        assert pragma("synchronous") == 2
        tables = ledger._connection.execute("PRAGMA table_list").fetchall()
    assert {row["name"] for row in tables if not row["strict"]} == {"sqlite_schema", "sqlite_temp_schema"}


def test_a_file_that_is_no_database_says_what_helps(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this is a diary, not a database\n" * 200)
    with pytest.raises(ConfigError) as caught:
        Ledger.open(tmp_path)
    assert FILE_NAME in caught.value.what
    assert "not a database" in caught.value.why
    assert caught.value.next
    assert (tmp_path / FILE_NAME).read_bytes().startswith(b"this is a diary")


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("CREATE TABLE jobs (id)")
        connection.commit()
    with pytest.raises(ConfigError):
        Ledger.open(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        assert [row[0] for row in connection.execute("SELECT name FROM sqlite_schema")] == ["jobs"]
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 0


def test_a_ledger_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    Ledger.open(tmp_path).close()
    newer = len(migrations.MIGRATIONS) + 1
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute(f"PRAGMA user_version = {newer}")
    with pytest.raises(ConfigError, match="newer runctl") as caught:
        Ledger.open(tmp_path)
    assert str(newer) in caught.value.why
    assert "upgrade" in caught.value.next


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError):
        Ledger.open(tmp_path / "below")


def test_a_file_where_the_folder_should_be_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(ConfigError):
        Ledger.open(tmp_path / "home" / "runctl")


def test_a_busy_ledger_is_not_called_broken(
    tmp_path: Path, job: Callable[..., JobRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "BUSY_SECONDS", 0.05)
    with Ledger.open(tmp_path) as ledger, closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Conflict, match="busy"):
            ledger.jobs.add(job(), "asked for")
        other.rollback()
        ledger.jobs.add(job(), "asked for")


def test_a_write_that_fails_at_its_commit_leaves_the_connection_usable(
    tmp_path: Path, job: Callable[..., JobRecord]
) -> None:
    with Ledger.open(tmp_path) as ledger:
        # A deferred constraint is checked by COMMIT itself.
        ledger._connection.execute("PRAGMA defer_foreign_keys = OFF")
        ledger._connection.execute(
            "CREATE TEMP TABLE deferred (job TEXT REFERENCES nowhere (id) DEFERRABLE INITIALLY DEFERRED)"
        )
        ledger._connection.execute("CREATE TEMP TABLE nowhere (id TEXT PRIMARY KEY)")
        with (
            pytest.raises(sqlite3.IntegrityError),
            store.Database(ledger._connection, tmp_path / FILE_NAME).write() as connection,
        ):
            connection.execute("INSERT INTO deferred VALUES ('ghost')")
        ledger.jobs.add(job(), "asked for")
        assert ledger.jobs.get("last") == job()


def test_every_earlier_version_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Callable[..., JobRecord]
) -> None:
    """Each version that was released, and one more to come, opens with its rows in place."""
    released = migrations.MIGRATIONS
    # The last statement's semicolon is easily forgotten.
    coming = (
        *released,
        "ALTER TABLE supervisors ADD COLUMN note TEXT;\nCREATE TABLE later (x INTEGER) STRICT",
    )
    for version in range(1, len(released) + 1):
        folder = tmp_path / str(version)
        monkeypatch.setattr(opening, "MIGRATIONS", released[:version])
        with Ledger.open(folder) as ledger:
            ledger._connection.execute(
                "INSERT INTO jobs"
                " (id, name, spec, state, target, cloud, folder, store, project, user, created, updated)"
                " VALUES ('digits', 'digits', x'7b7d', 'running', 'aws', 'aws', NULL, 's', 'p', 'u', 1, 1)"
            )
        monkeypatch.setattr(opening, "MIGRATIONS", coming)
        with Ledger.open(folder) as ledger:
            assert ledger.jobs.get("digits").created.year == 1970
            assert ledger._connection.execute("PRAGMA user_version").fetchone()[0] == len(coming)
            assert ledger._connection.execute("SELECT COUNT(*) FROM later").fetchone()[0] == 0
        assert integrity(folder) == "ok"


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger.open(tmp_path).close()
    broken = (*migrations.MIGRATIONS, "CREATE TABLE later (x INTEGER) STRICT;\nCREATE TABLE jobs (x);")
    monkeypatch.setattr(opening, "MIGRATIONS", broken)
    with pytest.raises(TrainctlError):
        Ledger.open(tmp_path)
    monkeypatch.undo()
    with Ledger.open(tmp_path) as ledger:
        names = {row[0] for row in ledger._connection.execute("SELECT name FROM sqlite_schema")}
    assert "later" not in names


WRITER = """
    import sys
    from datetime import UTC, datetime
    from pathlib import Path
    from runctl.ledger import JobRecord, Ledger, Owner
    from runctl.model import JobState, Price
    from decimal import Decimal
    folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    now = datetime(2026, 11, 23, tzinfo=UTC)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        with Ledger.open(folder) as ledger:
            ledger.jobs.add(JobRecord(id=f"{name}-{number}", name=name, spec=b"", state=JobState.PLANNED,
                target="aws", cloud="aws", folder=None, store="s", project="p", user="u", created=now,
                updated=now), "asked for")
            ledger.jobs.transition(f"{name}-{number}", JobState.PROVISIONING, allowed_from={JobState.PLANNED},
                at=now, attempt=1, cause="attempt 1")
            owner = Owner(pid=1, started=1.0, host="host")
            tx = ledger.journal.begin("launch", subject=name, payload=b"", owner=owner, at=now)
            step = ledger.journal.intend(tx, "run", token=tx, request=b"r")
            ledger.journal.done(tx, step, b"i-1")
            print(number, flush=True)
"""


def test_eight_processes_create_and_write_one_ledger(tmp_path: Path) -> None:
    """They open a ledger that does not exist yet at the same moment, then write all they have."""
    count = 12
    writers = [start(WRITER, tmp_path, f"w{number}", count) for number in range(8)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    failures = [error for writer in writers if (error := writer.communicate(timeout=120)[1])]
    assert failures == []
    with Ledger.open(tmp_path) as ledger:
        jobs = ledger.jobs.list(limit=1000)
        assert {job.id for job in jobs} == {f"w{w}-{n}" for w in range(8) for n in range(count)}
        assert {job.state for job in jobs} == {"provisioning"}
        assert all(len(record.steps) == 1 for record in ledger.journal.unfinished())
    assert integrity(tmp_path) == "ok"


def test_opening_waits_for_a_process_that_is_making_the_ledger(tmp_path: Path) -> None:
    """SQLite's own timeout does not count when a database is switched to WAL: it refuses at once."""
    with closing(
        sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ("ROLLBACK",))
        release.start()
        Ledger.open(tmp_path).close()
        release.join()


def test_a_killed_writer_leaves_a_sound_ledger_with_all_that_it_reported(tmp_path: Path) -> None:
    for round_number in range(5):
        writer = start(WRITER, tmp_path, f"r{round_number}", 10_000)
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.stdin.write("go\n")
        writer.stdin.flush()
        reported = [writer.stdout.readline().strip() for _ in range(4 + round_number)]
        time.sleep(0.003 * round_number)  # another place in the write each time
        writer.send_signal(signal.SIGKILL)
        writer.communicate(timeout=60)
        assert integrity(tmp_path) == "ok"
        with Ledger.open(tmp_path) as ledger:
            for number in reported:
                job = ledger.jobs.get(f"r{round_number}-{number}")
                assert job.state == "provisioning"
                assert len(ledger.jobs.events(job.id)) == 2
            # Nothing is half there: an event stands for each state that a job is in.
            for job in ledger.jobs.list(limit=10_000):
                assert ledger.jobs.events(job.id)[-1].state == job.state


def test_importing_and_opening_the_ledger_loads_nothing_heavy(tmp_path: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from runctl.ledger import Ledger
        Ledger.open(Path(sys.argv[1])).close()
        heavy = {"boto3", "botocore", "rich", "click", "obstore", "psutil", "stamina"}
        heavy |= {"asyncio", "difflib", "secrets"}
        print(sorted(heavy & set(sys.modules)))
    """
    out, error = start(script, tmp_path).communicate(timeout=60)
    assert error == ""
    assert out == "[]\n"
