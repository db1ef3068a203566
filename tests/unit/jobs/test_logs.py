"""A log that is followed loses no byte where one attempt takes the place of another."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runctl.events import LogOutput
from runctl.jobs import logs
from runctl.jobs.place import Place, local_place
from runctl.ledger import AttemptRecord, JobRecord, Ledger
from runctl.model import JobId, JobState

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
