"""The rows of the ledger as values. Times are UTC, money is USD."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import msgspec

from runctl.model import JobId, JobState, Market, Price


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job; `spec` is its JSON, `store` where its attempts are mirrored, `cloud` the cloud's key.

    `adopted_at` is when it was taken from a bucket, None for a job that this ledger's user asked for. `seal`
    is the key by which its machines prove what they commit: it is never written to the bucket.
    """

    id: JobId
    name: str
    spec: bytes
    state: JobState
    target: str
    cloud: str
    folder: str | None
    store: str
    project: str
    user: str
    created: datetime
    updated: datetime
    adopted_at: datetime | None = None
    seal: str = ""


class JobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a job's state: when on the cloud's clock, why, and what had been spent."""

    at: datetime
    attempt: int
    state: JobState
    cause: str
    cost: Decimal | None


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a job on one machine; `committed_seconds` count from the notice.

    `began_step` is the first step that its own output named; what was kept is its newest snapshot.
    """

    job: JobId
    number: int
    state: str
    created: datetime
    instance_id: str | None = None
    offer: bytes | None = None
    started: datetime | None = None
    ended: datetime | None = None
    cause: str | None = None
    message: str | None = None
    resumed_from: str | None = None
    resumed_step: int | None = None
    last_step: int | None = None
    committed_name: str | None = None
    committed_step: int | None = None
    committed_seconds: float | None = None
    exit_code: int | None = None
    cost: Decimal | None = None
    began_step: int | None = None
    kept_files: int | None = None
    kept_bytes: int | None = None
    silence: str | None = None
    """What was told of checkpoints that are not kept though the steps go on."""


class ResourceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Something that costs money; `facts` is JSON (type, size, market).

    `ended_by` is cloud, self, user, or launch for a machine that never ran; `seen` when the cloud last
    showed it.
    """

    id: str
    kind: str
    cloud: str
    region: str
    zone: str
    name: str
    project: str
    user: str
    job: str | None
    attempt: int | None
    facts: bytes
    created: datetime
    ended: datetime | None = None
    ended_by: str | None = None
    seen: datetime | None = None


class InstanceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the meter needs to know of an instance."""

    instance_type: str
    market: Market
    region: str


class VolumeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the meter needs to know of a disk; the size in GiB. `instance` is the one that it dies with."""

    volume_type: str
    size_gib: int
    instance: str = ""


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the meter needs to know of a snapshot: the bytes that it stores, None where EBS does not tell."""

    volume: str
    stored_bytes: int | None


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A resource was in `state` from `start` to `end` (None: still is). A price of None is unknown.

    `pool` names the price points that override `price` from their time on.
    """

    resource: str
    state: str
    start: datetime
    end: datetime | None
    billable: bool
    price: Price | None
    pool: str | None


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The process that runs a transaction; `started` tells it from a later one with the same id."""

    pid: int
    started: float
    host: str


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a transaction. `outcome` is None between the intent and the answer; then it is `done` or
    `failed`, and after that `undoing` until it is `undone`."""

    number: int
    name: str
    token: str
    request: bytes
    outcome: str | None
    result: bytes | None
    error: str | None


class TransactionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A journalled operation; `outcome` is None while it is unfinished."""

    id: str
    operation: str
    subject: str
    payload: bytes
    owner: Owner
    begun: datetime
    outcome: str | None
    steps: tuple[StepRecord, ...]


class VerdictRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What protection said of an action on a resource; `findings` is the JSON of what each rule said."""

    at: datetime
    action: str
    resource: str
    allowed: bool
    forced: bool
    findings: bytes
    user: str
