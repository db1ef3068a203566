"""Deleting all but the newest checkpoints under a prefix: what was planned and a fresh look still allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import msgspec

from runctl import config
from runctl.errors import NotFound, TrainctlError
from runctl.events import Emit, Notice, Progress, ignore
from runctl.ledger import Ledger
from runctl.safety import checkpoints, destroy
from runctl.safety.checkpoints import CheckpointCleanup, CleanupItem, Jobs, StoredCheckpoint
from runctl.safety.vocabulary import Request
from runctl.storage import claims
from runctl.storage.bulk import BulkStore
from runctl.storage.claims import MiB, claim
from runctl.storage.entries import Entry
from runctl.storage.objects import TooLarge

Now = Callable[[], datetime]


class CheckpointReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleanup deleted, sizes in bytes, and what it left with the reason."""

    deleted: tuple[str, ...]
    freed: int
    kept: tuple[str, ...]
    left: dict[str, str]
    failed: dict[str, str]


class Cleaner(msgspec.Struct, frozen=True, kw_only=True):
    """Where checkpoints lie, how many of each series stay, who asks. Every call may raise CloudError."""

    store: BulkStore
    ledger: Ledger
    keep: int
    request: Request
    policy: config.Protection
    now: Now

    def plan(self, entries: Iterable[Entry] | None = None) -> CheckpointCleanup:
        """Look at every checkpoint under the store's prefix. Raises NotFound where there is none.

        `entries` is what is there, where it was listed just now.
        """
        store = self.store
        found = checkpoints.found_in(
            store.entries() if entries is None else entries,
            store.prefix,
            self.now(),
            lambda key: _manifest(store, key),
        )
        if not found:
            raise NotFound(
                f"There is no checkpoint under s3://{store.bucket}/{store.prefix}",
                next="runctl s3 review shows what is there",
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
        may_go = {item.checkpoint: item for item in self.plan().allowed}
        left = reasons(planned)
        deleted: list[StoredCheckpoint] = []
        failed: dict[str, str] = {}
        for number, item in enumerate(planned.allowed, 1):
            one = item.checkpoint
            if one not in may_go:
                left[one.name] = "it has changed since the plan was made"
                continue
            try:
                self._delete(may_go[one])
            except TrainctlError as error:
                failed[one.name] = error.why or error.what
                emit(Notice(text=f"{one.name} was not deleted: {failed[one.name]}", warning=True))
            else:
                deleted.append(one)
            emit(Progress(task="cleanup", done=number, total=len(planned.allowed), unit="checkpoints"))
        return CheckpointReport(
            deleted=tuple(one.name for one in deleted),
            freed=sum(one.size for one in deleted),
            kept=tuple(one.name for one in planned.kept),
            left=left,
            failed=failed,
        )

    def _delete(self, item: CleanupItem) -> None:
        destroy.delete_checkpoint(
            self.store,
            item.checkpoint.keys,
            item.verdict,
            ledger=self.ledger,
            user=self.request.user,
            at=self.now(),
        )


def reasons(planned: CheckpointCleanup) -> dict[str, str]:
    """What is older than those to keep and stays all the same, by name."""
    return {item.checkpoint.name: _why(item) for item in planned.items if not item.verdict.allowed}


def _why(item: CleanupItem) -> str:
    return "; ".join(finding.reason for finding in item.verdict.blocking)


def _manifest(store: BulkStore, key: str) -> Mapping[str, int] | None:
    try:
        found = claims.read(store, key, _Manifest)
    except (claims.Unbelievable, TooLarge, NotFound):
        return None
    return {file.path: file.size for file in found.files}


class _File(msgspec.Struct, frozen=True):
    path: claims.RelativePath
    size: claims.Bytes


@claim("manifest of a checkpoint", largest=64 * MiB)
class _Manifest(msgspec.Struct, frozen=True):
    files: tuple[_File, ...]


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
