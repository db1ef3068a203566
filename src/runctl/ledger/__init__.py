"""This user's memory: resources, what they cost over time, jobs, prices, the journal. SQLite."""

from runctl.ledger.records import (
    AttemptRecord,
    Interval,
    JobEvent,
    JobRecord,
    Owner,
    ResourceRecord,
    StepRecord,
    TransactionRecord,
    VerdictRecord,
)
from runctl.ledger.store import Ledger

__all__ = [
    "AttemptRecord",
    "Interval",
    "JobEvent",
    "JobRecord",
    "Ledger",
    "Owner",
    "ResourceRecord",
    "StepRecord",
    "TransactionRecord",
    "VerdictRecord",
]
