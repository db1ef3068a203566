"""The nouns that every layer shares: identifiers, prices, offers, states."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NewType

import msgspec

JobId = NewType("JobId", str)
InstanceId = NewType("InstanceId", str)
VolumeId = NewType("VolumeId", str)
ResourceId = NewType("ResourceId", str)

HOURS_PER_MONTH = Decimal(730)
"""AWS prices disks per month; 730 hours is the usual length of one."""

TAG_MANAGED = "runctl:managed"
TAG_USER = "runctl:user"
TAG_PROJECT = "runctl:project"
TAG_JOB = "runctl:job"
TAG_ATTEMPT = "runctl:attempt"
TAG_TRANSACTION = "runctl:tx"
TAG_CREATED = "runctl:created"
TAG_LEASE_UNTIL = "runctl:lease-until"
TAG_PERSISTENT = "runctl:persistent"
TAG_PROTECTED = "runctl:protected"
TAG_IMPORTANT = "runctl:important"
TAG_STEP = "runctl:step"
TAG_PURPOSE = "runctl:purpose"
TAG_DATASET = "runctl:dataset"
TAG_DATASET_VERSION = "runctl:dataset-version"
TAG_DATASET_FILES = "runctl:dataset-files"
TAG_DATASET_BYTES = "runctl:dataset-bytes"
TAG_DATASET_TIME = "runctl:dataset-time"
TAG_DATASET_LEFT_OUT = "runctl:dataset-left-out"
TAG_DATASET_EXTRA = "runctl:dataset-extra"


class Market(StrEnum):
    """How a machine is bought."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"


class Price(msgspec.Struct, frozen=True):
    """USD per hour, with where it came from and the moment that it was true."""

    usd_per_hour: Decimal
    source: str
    as_of: datetime


class PricePoint(msgspec.Struct, frozen=True):
    """From `at` on, the price of a pool is `usd_per_hour`, until a later point."""

    at: datetime
    usd_per_hour: Decimal
    source: str


class InstanceType(msgspec.Struct, frozen=True):
    """What a machine of this type has; memory in GiB, GPU memory per GPU in GiB."""

    name: str
    vcpus: int
    memory_gib: float
    gpus: int
    gpu_model: str
    gpu_memory_gib: float
    architecture: str


class Offer(msgspec.Struct, frozen=True):
    """One way to get a machine. A price that is unknown is None, never 0."""

    provider: str
    instance_type: str
    zone: str
    market: Market
    price: Price | None
    subnet: str | None = None
    """Where the user chose some; else the zone's own."""


class JobState(StrEnum):
    """Where a job stands; which state may follow which is the table in `jobs/state.py`."""

    PLANNED = "planned"
    PROVISIONING = "provisioning"
    STAGING = "staging"
    RUNNING = "running"
    ENDING = "ending"
    RECOVERING = "recovering"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    OVER_BUDGET = "over-budget"

    @property
    def final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED, JobState.OVER_BUDGET})
