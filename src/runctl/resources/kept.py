"""What jobs keep in S3, and what that costs a month."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from decimal import Decimal

import msgspec

from runctl.errors import CloudError, NotFound
from runctl.ledger import JobRecord, Ledger
from runctl.pricing import catalog
from runctl.storage.access import S3Access
from runctl.storage.s3 import S3Store

JOBS = "runctl/jobs"
MOST_OBJECTS = 200_000
"""Of one bucket that are listed: 200 requests, $0.001."""
_MOST_JOBS = 1_000_000
_S3 = "s3://"


class KeptByJob(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of all that a job has in its bucket, or of its newest snapshot alone."""

    job: str
    project: str
    bytes: int


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the jobs of a cloud keep, the largest first. `usd_per_month` is None if the price is not known.

    `at_least`: it is more, for not everything was looked at.
    """

    bytes: int
    usd_per_month: Decimal | None
    at_least: bool
    jobs: tuple[KeptByJob, ...]


def by_ledger(ledger: Ledger, cloud: str, region: str) -> Kept:
    """As far as the ledger knows: of each job its newest snapshot."""
    found = []
    for job in _jobs(ledger, cloud):
        sizes = [one.kept_bytes for one in ledger.jobs.attempts(job.id) if one.kept_bytes]
        if sizes:
            found.append(KeptByJob(job=job.id, project=job.project, bytes=sizes[-1]))
    return _kept(found, region, at_least=True)


def by_buckets(ledger: Ledger, cloud: str, region: str, access: S3Access) -> Kept:
    """By a listing of the jobs' buckets, each once. One that cannot be listed counts by the ledger."""
    jobs = {job.id: job for job in _jobs(ledger, cloud)}
    sizes: dict[str, int] = {}
    at_least = False
    for bucket in sorted({job.store.removeprefix(_S3).partition("/")[0] for job in jobs.values()}):
        try:
            listed = _sizes(S3Store(bucket, JOBS, access))
            entries = list(itertools.islice(listed, MOST_OBJECTS + 1))
        except NotFound:
            continue  # the bucket is gone with all that it had
        except CloudError:
            at_least = True
            continue
        at_least = at_least or len(entries) > MOST_OBJECTS
        for job, size in entries:
            sizes[job] = sizes.get(job, 0) + size
    found = [
        KeptByJob(job=one, project=job.project, bytes=sizes[one]) for one, job in jobs.items() if one in sizes
    ]
    return _kept(found, region, at_least=at_least)


def a_month(size: int, region: str) -> Decimal | None:
    """USD of so many bytes a month in S3's standard class, by the catalog."""
    price = catalog.standard_storage(region)
    return None if price is None else price * size / 10**9


def _sizes(store: S3Store) -> Iterator[tuple[str, int]]:
    return ((entry.key.partition("/")[0], entry.size) for entry in store.entries())


def _jobs(ledger: Ledger, cloud: str) -> list[JobRecord]:
    return [
        job for job in ledger.jobs.list(limit=_MOST_JOBS) if job.cloud == cloud and job.store.startswith(_S3)
    ]


def _kept(found: Iterable[KeptByJob], region: str, *, at_least: bool) -> Kept:
    jobs = sorted((one for one in found if one.bytes), key=lambda one: (-one.bytes, one.job))
    size = sum(one.bytes for one in jobs)
    return Kept(bytes=size, usd_per_month=a_month(size, region), at_least=at_least, jobs=tuple(jobs))
