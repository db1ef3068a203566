"""Both ways: what changed on one side since both were equal goes to the other; what changed on both stays."""

from __future__ import annotations

from pathlib import Path

import msgspec

from runctl.events import Emit, ignore
from runctl.links import refuse_brought
from runctl.storage import etags
from runctl.storage.bulk import BulkStore
from runctl.storage.compare import Comparison, Order, as_listed, side_by_side
from runctl.storage.crew import reason
from runctl.storage.entries import Entry
from runctl.storage.filters import Filters
from runctl.storage.listing import LeftOut, Walk, printable
from runctl.storage.memory import Memory, memory_file
from runctl.storage.transfer import (
    TransferOptions,
    TransferPlan,
    TransferReport,
    carry_out,
    fit_for_paths,
    held_back,
)

CONFLICT = "changed on both sides: nothing was touched; transfer it by name, the way that you want it"


class TwoWays(msgspec.Struct, kw_only=True):
    """What goes up and what goes down, and what stays because both sides changed or one lost it.

    `lost_here` and `lost_there` were equal once, and one side has them no more.
    """

    up: TransferPlan
    down: TransferPlan
    conflicts: list[LeftOut]
    lost_here: list[Entry]
    lost_there: list[Entry]
    memory: Memory

    @property
    def left_out(self) -> list[LeftOut]:
        return [*self.up.left_out, *self.conflicts, *(LeftOut(*pair) for pair in self._lost())]

    def _lost(self) -> list[tuple[str, str]]:
        here = [
            (printable(one.key), "deleted here since, kept in S3: delete it there, or transfer it")
            for one in self.lost_here
        ]
        there = [
            (printable(one.key), "deleted in S3 since, kept here: delete it here, or transfer it")
            for one in self.lost_there
        ]
        return here + there


def plan(folder: Path, store: BulkStore, options: TransferOptions) -> TwoWays:
    """Compare both sides with what they had in common. Raises NotFound for the folder or the bucket."""
    refuse_brought(folder)
    return as_listed(lambda order: _plan_both(folder, store, options, order))


def _plan_both(folder: Path, store: BulkStore, options: TransferOptions, order: Order) -> TwoWays:
    filters = Filters(options.include, options.exclude)
    walk = Walk(folder, filters, secrets=options.secrets)
    left_out: list[LeftOut] = []
    listed = (entry for entry in store.entries() if filters.wants(entry.key))
    memory = Memory(memory_file(options.state, folder, store.place))
    up = Comparison(missing=[], doubtful=[], extra=[])
    down = Comparison(missing=[], doubtful=[], extra=[])
    found = TwoWays(
        up=_plan(True, store, folder, up, left_out, options),
        down=_plan(False, store, folder, down, [], options),
        conflicts=[],
        lost_here=[],
        lost_there=[],
        memory=memory,
    )
    with memory.until_planned():
        for here, there in side_by_side(walk, order(fit_for_paths(listed, left_out))):
            if here is not None and there is not None:
                _both(found, here, there)
            elif here is not None:
                known = memory.knows_file(here.key, here.size, here.modified)
                _alone(here, found.lost_there, up, memory, known=known)
            elif there is not None:
                known = memory.knows_object(there.key, there.etag)
                _alone(there, found.lost_here, down, memory, known=known)
    down.missing = held_back(down.missing, walk, left_out)
    found.lost_here = held_back(found.lost_here, walk, left_out)
    left_out.extend(walk.left_out)
    return found


def carry_out_both(found: TwoWays, *, emit: Emit = ignore) -> tuple[TransferReport, TransferReport]:
    """Fetch, then send. Raises as `transfer.carry_out`."""
    complete = False
    try:
        for one in (found.down, found.up):
            one.memory, one.keeps_memory = found.memory, True
        down = carry_out(found.down, emit=emit)
        up = carry_out(found.up, emit=emit)
        complete = not up.failed and not down.failed
    finally:
        found.memory.close(complete=complete)
    return up, down


def _both(found: TwoWays, here: Entry, there: Entry) -> None:
    memory = found.memory
    file = memory.knows_file(here.key, here.size, here.modified)
    known = memory.knows_object(there.key, there.etag)
    same = file and known and here.size == there.size
    path = found.up.root / here.key
    try:
        same = same or (here.size == there.size and bool(etags.matches(path, here.size, there.etag)))
    except OSError as error:
        found.conflicts.append(LeftOut(printable(here.key), f"cannot be compared: {reason(error)}"))
        return
    if same:
        memory.note(here.key, here.size, here.modified, there.etag)
        found.up.comparison.equal_files += 1
    elif file and not known:
        found.down.comparison.missing.append(there)
        found.down.may_replace(here)
    elif known and not file:
        found.up.comparison.missing.append(here)
        found.up.may_replace(there)
    else:
        found.conflicts.append(LeftOut(printable(here.key), CONFLICT))


def _alone(entry: Entry, lost: list[Entry], onward: Comparison, memory: Memory, *, known: bool) -> None:
    if known:
        memory.keep(entry)
        lost.append(entry)
    else:
        onward.missing.append(entry)


def _plan(
    upload: bool,
    store: BulkStore,
    folder: Path,
    comparison: Comparison,
    left_out: list[LeftOut],
    options: TransferOptions,
) -> TransferPlan:
    return TransferPlan(
        upload=upload,
        store=store,
        root=folder,
        comparison=comparison,
        left_out=left_out,
        partials=[],
        options=options,
        key=str,
        path=lambda key: folder / key,
        only_if={},
    )
