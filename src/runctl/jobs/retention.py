"""What a job's `--keep-last` lets go of its snapshots, while it runs and when it has ended.

The rules are those of every cleanup (`safety/protection.py`): the newest complete checkpoint, what a live job
began from, and files that a snapshot which stays needs are never deleted. While the job may begin another
attempt, the newest two checkpoints stay: a resume that fails at once is tried again from the one before.
"""

from __future__ import annotations

from datetime import timedelta

from runctl import config
from runctl.errors import NotFound, TrainctlError
from runctl.events import Emit, Notice
from runctl.jobs import logged
from runctl.jobs.place import Place
from runctl.jobs.plan import Before
from runctl.jobs.spec import JobSpec, decode
from runctl.jobs.watch import Watch
from runctl.ledger import JobRecord, Ledger
from runctl.resources import kept
from runctl.resources.old_checkpoints import CheckpointReport, Cleaner
from runctl.resources.reaching import job_access
from runctl.safety.checkpoints import Keep
from runctl.safety.vocabulary import Request
from runctl.storage.bulk import BulkStore

EVERY = timedelta(minutes=10)
"""How often snapshots are looked through while the job runs: each look lists them all."""
_LEAST_WHILE_LIVE = 2
_LOOKED_THROUGH = 200
"""Jobs of the ledger among which one of the same name is looked for."""


def before(ledger: Ledger, place: Place, spec: JobSpec) -> Before | None:
    """What the last job of this name and project kept in the bucket; None if none is known."""
    if place.session is None:
        return None
    region = place.session.region
    for job in ledger.jobs.list(limit=_LOOKED_THROUGH):
        if (job.name, job.project, job.cloud) != (spec.name, spec.project, place.cloud_key):
            continue
        sizes = [one.kept_bytes for one in ledger.jobs.attempts(job.id) if one.kept_bytes]
        if sizes:
            bound = (
                None
                if spec.keep_last is None or spec.keep_every
                else sizes[-1] * (spec.keep_last + bool(spec.keep_best))
            )
            return Before(
                job=job.id,
                bytes=sizes[-1],
                usd_per_month=kept.a_month(sizes[-1], region),
                bound=bound,
                bound_usd=None if bound is None else kept.a_month(bound, region),
            )
    return None


def keep_of(spec: JobSpec, *, is_live: bool = False) -> Keep | None:
    """What stays, None for all."""
    if spec.keep_last is None:
        return None
    last = max(spec.keep_last, _LEAST_WHILE_LIVE) if is_live else spec.keep_last
    return Keep(last, spec.keep_every, spec.keep_best)


class Retention:
    """Looks now and then at the snapshots of a job that is followed, and once more when it has ended."""

    def __init__(self, ledger: Ledger, place: Place, emit: Emit) -> None:
        self._ledger = ledger
        self._place = place
        self._emit = emit
        self._looked = place.clock.now()

    def look(self, job: JobRecord, watch: Watch) -> None:
        """Nothing of the job depends on it: what fails is told, and tried again at the next look."""
        now = self._place.clock.now()
        if now - self._looked < EVERY and not job.state.final:
            return
        self._looked = now
        try:
            done = apply(self._ledger, self._place, job, decode(job.spec))
        except TrainctlError as error:
            watch.doubt("retention", f"older checkpoints stay for now: {error}", error)
            return
        watch.settle("retention")
        if done and done.deleted:
            freed = f"{len(done.deleted)} older snapshots were deleted, as --keep-last asks"
            self._emit(Notice(text=freed))


def apply(ledger: Ledger, place: Place, job: JobRecord, spec: JobSpec) -> CheckpointReport | None:
    """Delete what may go; None if nothing may. Idempotent. Raises CloudError."""
    keep = keep_of(spec, is_live=not job.state.final)
    if keep is None or place.session is None or place.bucket is None or job.adopted_at is not None:
        return None
    store = BulkStore(place.bucket, place.prefix, job_access(place.session))
    try:
        cleaner = Cleaner(
            store=store,
            ledger=ledger,
            keep=keep,
            # The user asked for it when the job was made: an age of less than an hour protects no one.
            request=Request(force=True, user=spec.user),
            policy=config.Protection(),
            now=place.clock.now,
            seal=job.seal,
            measured=lambda metric: logged.measured(
                place, job.seal, len(ledger.jobs.attempts(job.id)), metric
            ),
        )
        planned = cleaner.plan(metric_is_needed=False)
        return cleaner.apply(planned) if planned.allowed else None
    except NotFound:  # there is no checkpoint yet
        return None
    finally:
        store.close()
