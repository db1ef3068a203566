"""How a row of each table is understood: a row that its reader refuses is damage, whatever its sum says."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

from runctl.ledger.jobs import read_attempt, read_event, read_job
from runctl.ledger.journal import read_step, read_transaction
from runctl.ledger.prices import read_point
from runctl.ledger.resources import read_interval, read_resource
from runctl.ledger.staged import read_staged
from runctl.ledger.verdicts import read_verdict

READERS: Mapping[str, Callable[[sqlite3.Row], object]] = {
    "jobs": read_job,
    "resources": read_resource,
    "transactions": read_transaction,
    "attempts": read_attempt,
    "steps": read_step,
    "price_points": read_point,
    "intervals": read_interval,
    "job_events": read_event,
    "verdicts": read_verdict,
    "staged": read_staged,
}
