"""The rules of checkpoints against a model of what really happened, over random histories of a job's commits.

The bucket is in memory. Everything else is the real thing: listing, facts, rules, plan, door, ledger.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from runctl.agent import packs
from runctl.agent.snapshot import Entry as Snapped
from runctl.agent.snapshot import Manifest, to_dict
from runctl.config import Protection
from runctl.errors import NotFound
from runctl.ledger import AttemptRecord, JobRecord, Ledger
from runctl.model import JobId, JobState
from runctl.resources.old_checkpoints import Cleaner
from runctl.safety.checkpoints import Keep
from runctl.safety.vocabulary import Request
from runctl.storage.entries import Entry

START = datetime(2026, 11, 23, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Bucket:
    """Objects by key with their time, and a log of what was removed, in order."""

    bucket, prefix = "bucket", ""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.removed: list[str] = []

    def entries(self) -> list[Entry]:
        return [
            Entry(key, len(data), int(at.timestamp()) * 10**9, "etag")
            for key, (data, at) in sorted(self.objects.items())
        ]

    def read(self, key: str, *, largest: int = 0) -> bytes:
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key][0]

    def remove(self, keys: list[str]) -> None:
        for key in keys:
            del self.objects[key]
            self.removed.append(key)


@dataclass
class Commit:
    """What really became of one commit: when it was written last, and when it was complete."""

    number: int
    written: datetime
    complete: datetime | None = None


class History:
    """A job that commits, is interrupted, goes on from an earlier commit, ends; and who cleans up."""

    def __init__(self, seed: int, ledger: Ledger, seen: Counter[str]) -> None:
        self.dice = random.Random(seed)
        self.ledger, self.seen = ledger, seen
        self.now = START
        self.bucket = Bucket()
        self.job = f"walk-{seed:06}"
        self.state: JobState | None = None
        self.commits: dict[str, Commit] = {}
        self.writing: str | None = None
        self.resumed: set[str] = set()
        self.count = self.attempts = 0
        self.before: str | None = None
        self.needs: dict[str, dict[str, int]] = {}
        if self.dice.random() < 0.8:  # else another ledger has it
            self.state = JobState.RUNNING
            self.ledger.jobs.add(self.record(), "asked for")

    def record(self) -> JobRecord:
        return JobRecord(
            id=JobId(self.job),
            name="walk",
            spec=b"{}",
            state=JobState.RUNNING,
            target="memory",
            cloud="memory",
            folder=None,
            store=f"s3://bucket/{self.base}",
            project="",
            user="ada",
            created=self.now,
            updated=self.now,
        )

    @property
    def base(self) -> str:
        return f"runctl/jobs/{self.job}"

    def key(self, name: str, file: str) -> str:
        return f"{self.base}/checkpoints/{name}/{file}"

    def tell(self, length: int) -> None:
        events = (self.write, self.write, self.write, self.finish, self.finish, self.finish, self.wait)
        events += (self.wait, self.interrupt, self.put_back, self.resume, self.end, self.clean)
        for _ in range(length):
            self.dice.choice(events)()
        self.clean()

    # What the job does

    def write(self) -> None:
        if self.writing is None and not self.is_over:
            self.count += 1
            self.writing = name = f"{self.count:06}-step-{self.count:05}"
            self.commits[name] = Commit(self.count, self.now)
            self.bucket.objects[self.key(name, model_of(name))] = (b"weights", self.now)

    def finish(self) -> None:
        """The manifest is written last; what has not changed lies where the snapshot before has it."""
        if self.writing is not None:
            name, size = self.writing, len(b"weights")
            at = f"{name}/{model_of(name)}"
            files = {packs.place_in(at, 3) if ".packs" in at else at: 4 if ".packs" in at else size}
            if self.before is not None:
                known = self.needs[self.before]
                files |= {at: known[at] for at in known if self.dice.random() < 0.7}
            entries = [
                Snapped("checkpoints", f"{number}.pt", size=size, sha256="0" * 64, at=at)
                for number, (at, size) in enumerate(files.items())
            ]
            told = to_dict(Manifest(name, None, None, 1, "2026-11-23T00:00:00Z", False, entries))
            self.bucket.objects[self.key(name, "manifest.json")] = (json.dumps(told).encode(), self.now)
            commit = self.commits[name]
            commit.written = commit.complete = self.now
            self.needs[name] = files
            self.before, self.writing = name, None

    def interrupt(self) -> None:
        """What was being written stays torn for ever."""
        self.writing = None

    def put_back(self) -> None:
        """Somebody copies a commit to its place again, as from a backup: it is the newest one then."""
        whole = [name for name, commit in self.commits.items() if commit.complete]
        if whole:
            name = self.dice.choice(whole)
            for file in (model_of(name), "manifest.json"):
                data, _ = self.bucket.objects[self.key(name, file)]
                self.bucket.objects[self.key(name, file)] = (data, self.now)
            self.commits[name].written = self.commits[name].complete = self.now

    def resume(self) -> None:
        """An attempt goes on from a commit that is there, not always the newest."""
        whole = [name for name, commit in self.commits.items() if commit.complete]
        if whole and self.state is not None and not self.is_over:
            self.writing = None
            self.before = name = self.dice.choice(whole)
            self.attempts += 1
            self.resumed.add(name)
            self.ledger.jobs.save_attempt(
                AttemptRecord(
                    job=JobId(self.job),
                    number=self.attempts,
                    state="launched",
                    created=self.now,
                    resumed_from=name,
                )
            )

    def end(self) -> None:
        if self.state is JobState.RUNNING and self.dice.random() < 0.3:
            self.state, self.writing = JobState.FAILED, None
            live = {JobState.RUNNING}
            self.ledger.jobs.transition(
                JobId(self.job), JobState.FAILED, allowed_from=live, at=self.now, attempt=1, cause="it failed"
            )

    def wait(self) -> None:
        self.now += timedelta(seconds=self.dice.choice((1, 600, 3599, 3600, 7200)))

    @property
    def is_over(self) -> bool:
        return self.state is JobState.FAILED

    # What the table says

    def fate(self, keep: int, *, force: bool) -> dict[str, str]:
        """`kept`, `may go`, or the rule that holds it, for each commit."""
        whole = [name for name, commit in self.commits.items() if commit.complete]
        first = self.commits[whole[-keep:][0]].number if whole else 0
        newest = max(whole, key=lambda name: (self.commits[name].complete, name), default=None)
        fates: dict[str, str] = {}
        for name, commit in self.commits.items():
            if commit.number >= first:
                fates[name] = "kept"
            elif name == newest:
                fates[name] = "newest"
            elif self.state is None or (not self.is_over and name in self.resumed):
                fates[name] = "resumed from"
            elif self.now - commit.written < HOUR and not force:
                fates[name] = "young"
            else:
                fates[name] = "may go"
        return fates

    # Somebody cleans up

    def clean(self) -> None:
        if not self.commits:
            return
        keep, force = self.dice.choice((1, 1, 2, 3)), self.dice.random() < 0.4
        store: Any = self.bucket
        cleaner = Cleaner(
            store=store,
            ledger=self.ledger,
            keep=Keep(keep),
            request=Request(user="ada", force=force),
            policy=Protection(),
            now=lambda: self.now,
        )
        untouched = dict(self.bucket.objects)
        planned = cleaner.plan()
        assert self.bucket.objects == untouched, "to plan changed something"
        fates = self.fate(keep, force=force)
        assert {short(item.checkpoint.name) for item in planned.allowed} == self.going(fates)
        assert {short(one.name) for one in planned.kept} == {name for name in fates if fates[name] == "kept"}
        assert planned.size == self.bytes_of(self.swept(self.going(fates)))
        written = {name: commit.written for name, commit in self.commits.items()}
        meanwhile = (self.write, self.finish, self.put_back, self.resume, self.resume, self.wait, self.end)
        for _ in range(self.dice.randrange(5)):
            self.dice.choice(meanwhile)()
        again = self.fate(keep, force=force)
        as_planned = {name for name, at in written.items() if self.commits[name].written == at}
        wanted = self.going(fates) & self.going(again) & as_planned
        gone = self.swept(wanted)
        freed = self.bytes_of(gone)
        kept = set(self.bucket.objects) - gone
        before = len(self.bucket.removed)
        report = cleaner.apply(planned)
        touched = {short(folder_of(key)) for key in gone}
        assert set(map(short, report.deleted)) == touched
        assert set(self.bucket.objects) == kept
        assert report.freed == freed
        self.in_order(self.bucket.removed[before:])
        self.seen.update(again.values())
        self.seen["changed meanwhile"] += self.going(fates) != wanted
        for name in touched:
            self.needs.pop(name, None)
            left = [key for key in kept if short(folder_of(key)) == name]
            self.commits[name].complete = None
            self.seen["a part stayed"] += bool(left)
            if not left:
                del self.commits[name]
        self.all_that_stays_is_whole()

    def all_that_stays_is_whole(self) -> None:
        """Whatever went, each snapshot that has a manifest has all that it names."""
        for name, files in self.needs.items():
            for at in files:
                key = f"{self.base}/checkpoints/{packs.object_of(at, 0)[0]}"
                assert key in self.bucket.objects, f"{name} lacks {at}"

    def swept(self, going: set[str]) -> set[str]:
        """The objects that go with these snapshots, if all others stay."""
        marked = {
            f"{self.base}/checkpoints/{packs.object_of(at, 0)[0]}"
            for name, files in self.needs.items()
            if name not in going
            for at in files
        }
        return {key for key in self.bucket.objects if short(folder_of(key)) in going and key not in marked}

    def bytes_of(self, keys: set[str]) -> int:
        return sum(len(self.bucket.objects[key][0]) for key in keys)

    def going(self, fates: dict[str, str]) -> set[str]:
        """What may go and is not wholly needed by what stays."""
        may_go = {name for name, fate in fates.items() if fate == "may go"}
        return {short(folder_of(key)) for key in self.swept(may_go)}

    def in_order(self, removed: list[str]) -> None:
        """Without its manifest a commit is none: it goes before the files that it names."""
        gone: set[str] = set()
        for key in removed:
            folder = folder_of(key)
            file = key.removeprefix(folder + "/")
            whole = self.commits[short(folder)].complete
            assert file == "manifest.json" or folder in gone or not whole
            gone.add(folder)


def model_of(name: str) -> str:
    """The object of a snapshot's own file, which every second one shares with others."""
    number = int(name.split("-", maxsplit=1)[0])
    return f".packs/{number:016x}-7" if number % 2 else "checkpoints/model.pt"


def folder_of(key: str) -> str:
    """That of the snapshot which an object lies in."""
    base, found, inner = key.partition("/checkpoints/")
    return base + found + inner.split("/")[0]


def short(name: str) -> str:
    return name.rpartition("/")[2]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path) as opened:
        yield opened


def tell(ledger: Ledger, seeds: range) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in seeds:
        try:
            History(seed, ledger, seen).tell(length=30)
        except AssertionError as error:
            error.add_note(f"history {seed}")
            raise
    every = {"kept", "may go", "newest", "resumed from", "young", "changed meanwhile", "a part stayed"}
    assert every - {what for what, times in seen.items() if times} == set()
    return seen


def test_no_checkpoint_goes_that_a_rule_holds_and_none_is_held_for_nothing(ledger: Ledger) -> None:
    tell(ledger, range(200))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_thousand_histories_of_checkpoints(ledger: Ledger) -> None:
    print(tell(ledger, range(200, 5_200)))
