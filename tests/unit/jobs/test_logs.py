"""A log that is followed loses no byte where one attempt takes the place of another."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runctl.events import Event, LogOutput
from runctl.jobs import logs
from runctl.jobs import watch as watches
from runctl.jobs.attempt import LOG_PIECE, StoredAttempt
from runctl.jobs.place import Place, local_place
from runctl.jobs.watch import Watch
from runctl.ledger import AttemptRecord, JobRecord, Ledger
from runctl.model import JobId, JobState
from runctl.storage.folder import FolderStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = JobId("walk-1")


class Kept:
    """A job whose attempts and log are written by hand."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.ledger = ledger
        self.folder = folder
        self.place: Place = local_place(folder)
        ledger.jobs.add(
            JobRecord(
                id=JOB,
                name="w",
                spec=b"{}",
                state=JobState.RUNNING,
                target="local",
                cloud="local",
                folder=str(folder),
                store=str(folder),
                project="p",
                user="u",
                created=NOW,
                updated=NOW,
            ),
            "made",
        )

    def attempt(self, number: int) -> None:
        row = AttemptRecord(job=JOB, number=number, state="running", created=NOW)
        self.ledger.jobs.save_attempt(row)

    def write(self, number: int, data: bytes) -> None:
        path = self.folder / f"attempt-{number}" / "output.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    def end(self) -> None:
        self.ledger.jobs.transition(
            JOB, JobState.FAILED, allowed_from={JobState.RUNNING}, at=NOW, attempt=1, cause="so"
        )

    def follow(self, attempt: int | None = None) -> Iterator[tuple[int, bytes]]:
        found: Iterator[LogOutput] = logs.read(
            self.ledger, self.place, JOB, attempt=attempt, follow=True, poll=0.001
        )
        return ((piece.attempt, piece.data) for piece in found)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    with Ledger.open(tmp_path / "home") as ledger:
        yield Kept(ledger, tmp_path / "job")


def test_the_tail_of_an_attempt_comes_before_the_next_one(kept: Kept) -> None:
    kept.attempt(1)
    kept.write(1, b"one ")
    found = kept.follow()
    assert next(found) == (1, b"one ")
    kept.write(1, b"tail ")
    kept.attempt(2)
    kept.attempt(3)
    kept.write(2, b"two ")
    assert next(found) == (1, b"tail ")
    assert next(found) == (2, b"two ")
    kept.write(3, b"three")
    kept.end()
    assert list(found) == [(3, b"three")]


def test_one_attempt_is_followed_to_its_own_end(kept: Kept) -> None:
    kept.attempt(1)
    kept.write(1, b"one")
    found = kept.follow(attempt=1)
    assert next(found) == (1, b"one")
    kept.write(1, b" tail")
    kept.attempt(2)
    kept.write(2, b"two")
    assert list(found) == [(1, b" tail")]


def read_all(view: StoredAttempt, offset: int = 0) -> tuple[bytes, int]:
    data = b""
    for piece in view.log(offset):
        assert len(piece.data) <= LOG_PIECE
        data, offset = data + piece.data, piece.end
    return data, offset


def test_stored_pieces_are_read_once_from_any_byte_on(tmp_path: Path) -> None:
    store, whole = FolderStore(tmp_path), b"0123456789abcdef"
    for start, end in ((0, 4), (4, 10), (10, 16)):
        store.write(f"attempt-1/log/{start:012d}", whole[start:end])
    for offset in range(len(whole) + 2):
        assert read_all(StoredAttempt(store, 1), offset)[0] == whole[offset:]
    view = StoredAttempt(store, 1)
    assert read_all(view, 3) == (whole[3:], 16)
    assert read_all(view, 16) == (b"", 16)
    # A lost answer: the last piece is sent again, longer; then one more.
    store.write(f"attempt-1/log/{10:012d}", b"abcdefgh")
    store.write(f"attempt-1/log/{18:012d}", b"ij")
    assert read_all(view, 16) == (b"ghij", 20)
    assert read_all(view, 0) == (b"0123456789abcdefghij", 20)


def test_what_is_no_piece_is_passed_over_and_a_hole_shows_nothing_twice(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for name in ("x", "-5", "1e3", "0" * 12 + "9" * 20, "000000000000/deeper", "\u0663"):
        store.write(f"attempt-1/log/{name}", b"evil")
    store.write("attempt-1/log/000000000005", b"five ")
    store.write("attempt-1/log/000000000007", b"ve seven")
    store.write("attempt-1/log/000000000100", b"hundred")
    view = StoredAttempt(store, 1)
    assert read_all(view) == (b"five sevenhundred", 107)
    assert read_all(view, 107) == (b"", 107)


def test_a_long_log_is_in_memory_in_pieces(tmp_path: Path) -> None:
    store, size = FolderStore(tmp_path), 64 << 20
    for number in range(5):
        path = tmp_path / "attempt-1" / "log" / f"{number * size:012d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, size)
    tracemalloc.start()
    try:
        assert sum(len(piece.data) for piece in StoredAttempt(store, 1).log(0)) == 5 * size
        assert tracemalloc.get_traced_memory()[1] < 4 * LOG_PIECE
    finally:
        tracemalloc.stop()


def test_a_log_of_300_mb_takes_no_more_memory_than_a_short_one(kept: Kept, tmp_path: Path) -> None:
    kept.attempt(1)
    kept.write(1, b"epoch 1\n")
    kept.end()
    log = tmp_path / "job" / "attempt-1" / "output.log"

    def most_memory() -> int:
        command = [str(Path(sys.executable).parent / "runctl"), "jobs", "logs", JOB]
        environment = {**os.environ, "RUNCTL_HOME": str(tmp_path / "home"), "RUNCTL_CONFIG": "none.toml"}
        with (tmp_path / "shown").open("wb") as file:
            process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=file)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert (tmp_path / "shown").stat().st_size == log.stat().st_size
        (tmp_path / "shown").unlink()
        return usage.ru_maxrss * 1024

    short = most_memory()
    os.truncate(log, 300 << 20)
    assert most_memory() < short + 8 * LOG_PIECE


def test_a_look_shows_a_log_for_a_moment_and_the_attempt_before_first(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "LOG_SECONDS", -1.0)
    told: list[tuple[int, int]] = []

    def emit(event: Event) -> None:
        assert isinstance(event, LogOutput)
        told.append((event.attempt, len(event.data)))

    kept.write(1, b"1" * (2 * LOG_PIECE + 5))
    kept.write(2, b"2" * (LOG_PIECE + 7))
    first = Watch(kept.place, JOB, 1, emit)
    assert first.show_log() is False
    assert told == [(1, LOG_PIECE)]
    second = Watch(kept.place, JOB, 2, emit, before=first)
    assert second.show_log() is False
    assert told == [(1, LOG_PIECE)] * 2
    assert second.show_log(to_the_end=True) is True
    assert told == [(1, LOG_PIECE), (1, LOG_PIECE), (1, 5), (2, LOG_PIECE), (2, 7)]
    assert second.show_log() is True
