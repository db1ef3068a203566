"""This user's memory: resources, what they cost over time, jobs, prices, the journal. SQLite."""

from runctl.ledger.columns import decoded
from runctl.ledger.journal import DONE
from runctl.ledger.records import (
    AttemptRecord,
    InstanceFacts,
    Interval,
    JobEvent,
    JobRecord,
    Owner,
    ResourceRecord,
    SnapshotFacts,
    StepRecord,
    TransactionRecord,
    VerdictRecord,
    VolumeFacts,
)
from runctl.ledger.store import Ledger

__all__ = [
    "DONE",
    "AttemptRecord",
    "InstanceFacts",
    "Interval",
    "JobEvent",
    "JobRecord",
    "Ledger",
    "Owner",
    "ResourceRecord",
    "SnapshotFacts",
    "StepRecord",
    "TransactionRecord",
    "VerdictRecord",
    "VolumeFacts",
    "decoded",
]
