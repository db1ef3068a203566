"""Deleting all but the newest checkpoints under a prefix: what was planned and a fresh look still allows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import msgspec

from runctl import config
from runctl.agent import packs
from runctl.agent import seal as seals
from runctl.errors import NotFound, TrainctlError, ValidationError
from runctl.events import Emit, Notice, Progress, ignore
from runctl.ledger import Ledger
from runctl.quoting import quoted
from runctl.resources.folder_objects import FolderObjects
from runctl.safety import checkpoints, destroy, metrics
from runctl.safety.checkpoints import CheckpointCleanup, CleanupItem, Jobs, Keep, StoredCheckpoint, Told
from runctl.safety.vocabulary import Request
from runctl.storage import claims, manifests
from runctl.storage.bulk import BulkStore
from runctl.storage.entries import Entry
from runctl.storage.objects import TooLarge

_IN_A_JOB = re.compile(r"((?:.*/)?runctl/jobs/[^/]+)/checkpoints/")
_LARGEST_STATE = 16 * 1024 * 1024
Now = Callable[[], datetime]
Objects = BulkStore | FolderObjects


class CheckpointReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleanup deleted, sizes in bytes, and what it left with the reason."""

    deleted: tuple[str, ...]
    freed: int
    kept: tuple[str, ...]
    left: dict[str, str]
    failed: dict[str, str]


class Cleaner(msgspec.Struct, frozen=True, kw_only=True):
    """Where checkpoints lie, what of each series stays, who asks. Every call may raise CloudError."""

    store: Objects
    ledger: Ledger
    keep: Keep
    request: Request
    policy: config.Protection
    now: Now
    seal: str = ""
    """The job's key, if it is one job's prefix: then a snapshot without it counts for nothing."""
    measured: Callable[[str], Mapping[int, float]] = lambda _metric: {}
    """What the log of the scripts said of a metric, by step."""

    def plan(
        self, entries: Iterable[Entry] | None = None, *, metric_is_needed: bool = True
    ) -> CheckpointCleanup:
        """Look at every checkpoint under the store's prefix. Raises NotFound where there is none.

        `entries` is what is there, where it was listed just now. Raises ValidationError for a part of a job:
        snapshots need each other's files.
        """
        store = self.store
        _require_whole_jobs(store)
        found = found_at(store, self.now(), self.keep, entries, self.seal)
        if self.keep.best:
            found = self._measured(found, self.keep.best)
        if not found:
            raise NotFound(f"There is no checkpoint under {where_of(store)}")
        if metric_is_needed and self.keep.best and all(one.value is None for one in found):
            raise ValidationError(
                f"Nothing under {where_of(store)} tells {self.keep.best} of a checkpoint",
                why="the best one is known by a name such as epoch=3-val_loss=0.25.ckpt, by a"
                " trainer_state.json, or by what the script logged beside a step",
                next="leave --keep-best out, or name the metric as they do",
            )
        return checkpoints.plan(
            found,
            self.keep,
            jobs=_jobs(self.ledger, found),
            request=self.request,
            now=self.now(),
            policy=self.policy,
        )

    def apply(self, planned: CheckpointCleanup, *, emit: Emit = ignore) -> CheckpointReport:
        """Delete what was planned and may still go; one failure does not stop the rest."""
        fresh = self.plan(metric_is_needed=False)
        allowed = {item.checkpoint.name: item for item in fresh.allowed}
        as_planned = {item.checkpoint.name: item.checkpoint for item in planned.allowed}
        to_go = [item for name, item in allowed.items() if as_planned.get(name) == item.checkpoint]
        going = {item.checkpoint.name for item in to_go}
        left = reasons(planned)
        left |= {name: "it has changed since the plan was made" for name in as_planned if name not in going}
        staying = [
            *fresh.kept,
            *(item.checkpoint for item in fresh.items if item.checkpoint.name not in going),
        ]
        freed, deleted, failed = 0, list[str](), dict[str, str]()
        # The newest first: what one needs of older ones is there as long as it is.
        for number, item in enumerate(sorted(to_go, key=_newest_first), 1):
            one = item.checkpoint
            keys = checkpoints.swept(one, checkpoints.needed(staying))
            if not keys:
                left[one.name] = "what stays needs all of it"
                continue
            try:
                self._delete(item, keys)
            except TrainctlError as error:
                staying.append(one)
                failed[one.name] = error.why or error.what
                emit(Notice(text=f"{one.name} was not deleted: {failed[one.name]}", warning=True))
            else:
                deleted.append(one.name)
                freed += sum(one.objects[key] for key in keys)
            emit(Progress(task="cleanup", done=number, total=len(to_go), unit="checkpoints"))
        return CheckpointReport(
            deleted=tuple(sorted(deleted)),
            freed=freed,
            kept=tuple(one.name for one in planned.kept),
            left=left,
            failed=failed,
        )

    def _measured(self, found: list[StoredCheckpoint], metric: str) -> list[StoredCheckpoint]:
        logged = self.measured(metric)

        def values(one: StoredCheckpoint) -> Mapping[int, float]:
            if one.value is not None:
                return {}
            own = [key for key, size in one.objects.items() if _tells(key) and size <= _LARGEST_STATE]
            try:
                texts = [
                    self.store.read(key, largest=_LARGEST_STATE).decode("utf-8", "replace") for key in own
                ]
            except (NotFound, TooLarge):  # it went meanwhile
                texts = []
            return {**logged, **metrics.values(texts, metric)}

        return checkpoints.measured(found, values)

    def _delete(self, item: CleanupItem, keys: tuple[str, ...]) -> None:
        destroy.delete_checkpoint(
            self.store,
            keys,
            item.verdict,
            ledger=self.ledger,
            user=self.request.user,
            at=self.now(),
        )


def _require_whole_jobs(store: Objects) -> None:
    inner = _IN_A_JOB.match(f"{store.prefix}/")
    if inner is None:
        return
    raise ValidationError(
        f"{where_of(store)} is a part of a job",
        why="its snapshots need each other's files, and only the whole job shows which",
        next=f"runctl s3 cleanup {quoted(f's3://{store.bucket}/{inner[1]}')} --keep-last N",
    )


def _newest_first(item: CleanupItem) -> tuple[str, tuple[int, ...]]:
    return item.checkpoint.series, tuple(-number for number in item.checkpoint.order)


def _tells(key: str) -> bool:
    return key.rpartition("/")[2] == "trainer_state.json"


def found_at(
    store: Objects,
    now: datetime,
    keep: Keep,
    entries: Iterable[Entry] | None = None,
    seal: str = "",
) -> list[StoredCheckpoint]:
    """The checkpoints that are there; `entries` is what is there, where it was listed just now.

    With a job's `seal`, a manifest without it tells nothing.
    """
    look = checkpoints.Look(now, lambda key: _manifest(store, key, seal), keep)
    if isinstance(store, FolderObjects):
        look = msgspec.structs.replace(look, verdict=store.verdict)
    return checkpoints.found_in(store.entries() if entries is None else entries, store.prefix, look)


def where_of(store: Objects) -> str:
    """What a user calls it."""
    return str(store.root) if isinstance(store, FolderObjects) else f"s3://{store.bucket}/{store.prefix}"


def reasons(planned: CheckpointCleanup) -> dict[str, str]:
    """What is older than those to keep and stays all the same, by name."""
    return {item.checkpoint.name: _why(item) for item in planned.items if not item.verdict.allowed}


def _why(item: CleanupItem) -> str:
    return "; ".join(finding.reason for finding in item.verdict.blocking)


def _manifest(store: Objects, key: str, seal: str) -> Told | None:
    try:
        found, told = manifests.read(store.read(key, largest=manifests.LARGEST), key, key.split("/")[-2])
    except (claims.Unbelievable, TooLarge, NotFound):
        return None
    if seal and not seals.holds(seal, told):
        return None
    files = [entry for entry in found.entries if entry.kind == "file"]
    path = found.checkpoint[1] if found.checkpoint else ""
    objects = dict(packs.object_of(entry.at, entry.size) for entry in files)
    return Told(objects, manifests.point(found), found.step, path)


def _jobs(ledger: Ledger, found: Iterable[StoredCheckpoint]) -> Jobs:
    """The jobs that wrote these, as far as the ledger knows them."""
    states, resumed = {}, {}
    for job in {one.job for one in found if one.job}:
        try:
            record = ledger.jobs.get(job)
        except TrainctlError:  # unknown jobs count as live
            continue
        if record.id != job:
            continue  # it was found by the beginning of another's name
        states[job] = record.state
        resumed[job] = frozenset(
            attempt.resumed_from for attempt in ledger.jobs.attempts(record.id) if attempt.resumed_from
        )
    return Jobs(states=states, resumed=resumed)
