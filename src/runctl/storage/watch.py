"""A folder whose files go to S3 as they come to rest, round after round."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from runctl.events import Emit, ignore
from runctl.storage import transfer
from runctl.storage.bulk import BulkStore
from runctl.storage.filters import Filters
from runctl.storage.listing import Walk, printable
from runctl.storage.transfer import TransferOptions, TransferReport

State = dict[str, tuple[int, int]]
"""Sizes and times of files by key."""


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """What one round did. `moving` counts files that were written to a moment ago and wait."""

    report: TransferReport
    moving: int


class Watch:
    """One folder and one prefix. A file is at rest when `rest` seconds have passed since its last write."""

    def __init__(self, folder: Path, store: BulkStore, options: TransferOptions, *, rest: float) -> None:
        self._folder = folder
        self._store = store
        self._options = options
        self._rest = rest
        self._sent: State = {}

    def round(self, *, at_rest: bool = False, emit: Emit = ignore) -> Watched | None:
        """Send what is new; None where nothing is, and then S3 was not asked. Raises as transfers do.

        With `at_rest` nobody writes any more, and all of it goes.
        """
        newest = time.time_ns() if at_rest else time.time_ns() - int(self._rest * 1e9)
        filters = Filters(self._options.include, self._options.exclude)
        there: State = {
            entry.key: (entry.size, entry.modified)
            for entry in Walk(self._folder, filters, secrets=self._options.secrets)
        }
        ready = {key: state for key, state in there.items() if at_rest or state[1] <= newest}
        if all(self._sent.get(key) == state for key, state in ready.items()):
            return None
        plan = transfer.plan_upload(self._folder, self._store, self._options)
        todo = plan.comparison
        todo.missing[:] = [entry for entry in todo.missing if entry.key in ready]
        todo.doubtful[:] = [entry for entry in todo.doubtful if entry.key in ready]
        report = transfer.carry_out(plan, emit=emit)
        failed = {item.name for item in report.failed}
        self._sent = {key: state for key, state in ready.items() if printable(key) not in failed}
        return Watched(report=report, moving=len(there) - len(ready))
