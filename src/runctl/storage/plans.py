"""What every transfer is: a plan that can be shown, then carried out by a crew, and a report of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from runctl.errors import ValidationError
from runctl.events import Emit, Notice, ignore
from runctl.storage.compare import Comparison
from runctl.storage.crew import Crew
from runctl.storage.entries import Entry
from runctl.storage.filters import Filters
from runctl.storage.listing import LeftOut
from runctl.storage.memory import Memory
from runctl.storage.objects import is_of_a_job

KEPT = "runctl s3 cleanup deletes old checkpoints, by the rules that protect them"


class TransferOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to transfer. Patterns are gitignore's; `bandwidth` in bytes per second.

    `secrets` names files that look like credentials and are to travel; `state` is the folder that remembers
    what was equal and which uploads in parts were begun.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    parallel: int = 16
    verify: bool = True
    checksum: bool = False
    delete: bool = False
    bandwidth: int | None = None
    secrets: tuple[str, ...] = ()
    state: Path


class Words(NamedTuple):
    """What is said of a transfer: what it does, and what it has done."""

    verb: str
    done: str


UP, DOWN, ACROSS = Words("send", "sent"), Words("fetch", "fetched"), Words("copy", "copied")


class Plan(msgspec.Struct, kw_only=True):
    """What a transfer will do, and what it leaves out."""

    comparison: Comparison
    left_out: list[LeftOut]
    options: TransferOptions
    memory: Memory | None = None
    keeps_memory: bool = False
    """Whether the memory outlives this plan."""
    kept: int = 0
    """How many objects of jobs are not deleted, though the source does not have them."""

    @property
    def words(self) -> Words:
        return ACROSS

    @property
    def task(self) -> str:
        """How its progress is named."""
        return "copy"

    @property
    def size(self) -> int:
        """Bytes that go over at most: what is doubtful may turn out equal."""
        both = (self.comparison.missing, self.comparison.doubtful)
        return sum(entry.size for entries in both for entry in entries)

    @property
    def deletions(self) -> list[str]:
        return [entry.key for entry in self.comparison.extra] if self.options.delete else []

    def move(self, crew: Crew, emit: Emit) -> None:
        """Bring over what is missing, and what is doubtful where it differs."""
        raise NotImplementedError

    def remove(self, names: list[str]) -> None:
        """Delete at the destination."""
        raise NotImplementedError


class TransferReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a transfer."""

    moved_files: int
    moved_bytes: int
    equal_files: int
    deleted_files: int
    left_out: tuple[LeftOut, ...]
    failed: tuple[LeftOut, ...]
    seconds: float


def carry_out(plan: Plan, *, emit: Emit = ignore) -> TransferReport:
    """Move what the plan says. Files that fail are in the report, and the rest goes over.

    Raises Interrupted after a Ctrl-C, ConfigError or NotFound (bucket) where nothing can go over.
    """
    began = time.monotonic()
    todo = plan.comparison
    workers = max(
        1, min(plan.options.parallel, len(todo.missing) + len(todo.doubtful) + plan.size // (8 << 20))
    )
    crew = Crew(workers, emit=emit, task=plan.task, total=plan.size, bandwidth=plan.options.bandwidth)
    complete = False
    try:
        plan.move(crew, emit)
        complete = not crew.failed
    finally:
        if plan.memory is not None and not plan.keeps_memory:
            plan.memory.close(complete=complete)
    deleted = _delete(plan, crew, emit)
    return TransferReport(
        moved_files=crew.moved_files,
        moved_bytes=crew.moved_bytes,
        equal_files=todo.equal_files + crew.equal_files,
        deleted_files=deleted,
        left_out=tuple(plan.left_out),
        failed=tuple(crew.failed),
        seconds=time.monotonic() - began,
    )


def _delete(plan: Plan, crew: Crew, emit: Emit) -> int:
    names = plan.deletions
    if plan.kept:
        emit(Notice(text=f"{plan.kept} objects of jobs stay: {KEPT}", warning=True))
    if not names:
        return 0
    if crew.failed or plan.left_out:
        emit(Notice(text=f"{len(names)} files stay: nothing is deleted where something failed", warning=True))
        return 0
    plan.remove(names)
    return len(names)


def refuse_for_one(options: TransferOptions) -> None:
    given = {"--include": options.include, "--exclude": options.exclude, "--delete": options.delete}
    if named := next((name for name, value in given.items() if value), None):
        raise ValidationError(
            f"{named} is for folders", why="this is a single file", next=f"leave {named} out"
        )


def spare_jobs(comparison: Comparison, prefix: str) -> int:
    """Take the objects of jobs below `prefix` out of what would be deleted; answers how many they are."""
    extra = [entry for entry in comparison.extra if not is_of_a_job(f"{prefix}/{entry.key}")]
    spared, comparison.extra = len(comparison.extra) - len(extra), extra
    return spared


def wanted(entries: Iterable[Entry], filters: Filters) -> Iterator[Entry]:
    return (entry for entry in entries if filters.wants(entry.key))


def same_time(source: Entry, destination: Entry) -> bool:
    """A file that we fetched has its object's time; file systems keep microseconds at least."""
    return source.modified // 1000 == destination.modified // 1000


def never(source: Entry, destination: Entry) -> bool:  # noqa: ARG001 (of the kind `Equal`)
    return False


def remove_files(root: Path, paths: Iterable[Path]) -> None:
    """Delete files below `root`, and the folders that are empty then."""
    for path in paths:
        path.unlink(missing_ok=True)
        for folder in path.relative_to(root).parents[:-1]:
            with contextlib.suppress(OSError):  # it holds something else
                (root / folder).rmdir()
