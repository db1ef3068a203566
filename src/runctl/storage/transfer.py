"""The door to transfers between a folder and an S3 prefix: plan first, then carry out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from runctl.errors import NotFound, TransferError, ValidationError
from runctl.events import Emit
from runctl.links import refuse_brought
from runctl.storage.bulk import BulkStore
from runctl.storage.compare import Order, as_listed, compare
from runctl.storage.crew import Crew, reason
from runctl.storage.download import Downloads
from runctl.storage.entries import Entry
from runctl.storage.filters import Filters
from runctl.storage.listing import LeftOut, Walk, one_file, printable, secret
from runctl.storage.memory import Memory, memory_file
from runctl.storage.objects import checked_key, no_file, remove_stale
from runctl.storage.plans import (
    DOWN,
    UP,
    Plan,
    TransferOptions,
    TransferReport,
    Words,
    carry_out,
    never,
    refuse_for_one,
    remove_files,
    same_time,
    spare_jobs,
    wanted,
)
from runctl.storage.upload import Uploads

__all__ = ["LeftOut", "TransferOptions", "TransferPlan", "TransferReport", "carry_out"]


IN_THE_WAY = "S3 has it, and its place here holds what no transfer carries: nothing was touched"


class TransferPlan(Plan, kw_only=True):
    """A transfer between a folder and a prefix. `key` and `path` map an entry to its two ends."""

    upload: bool
    store: BulkStore
    root: Path
    partials: list[Path]
    key: Callable[[str], str]
    path: Callable[[str], Path]
    only_if: dict[str, Entry] | None = None
    """The destination's entries that may be replaced, as the plan saw them; others must still be absent."""

    @property
    def words(self) -> Words:
        return UP if self.upload else DOWN

    @property
    def task(self) -> str:
        return "upload" if self.upload else "download"

    def may_replace(self, entry: Entry) -> None:
        """The destination has it, and it may go while it is as it is now."""
        if self.only_if is not None:
            self.only_if[entry.key] = entry

    def move(self, crew: Crew, emit: Emit) -> None:
        (_upload if self.upload else _download)(self, crew, emit)

    def remove(self, names: list[str]) -> None:
        if self.upload:
            for start in range(0, len(names), 1000):
                self.store.remove([self.key(name) for name in names[start : start + 1000]])
        else:
            remove_files(self.root, [self.path(name) for name in names])


def plan_download(store: BulkStore, folder: Path, options: TransferOptions) -> TransferPlan:
    """Everything under the store's prefix into `folder`. Raises NotFound where there is nothing."""
    if folder.exists() and not folder.is_dir():
        raise ValidationError(f"{folder} is a file", why="a prefix needs a folder")
    return as_listed(lambda order: _plan_download(store, folder, options, order))


def _plan_download(store: BulkStore, folder: Path, options: TransferOptions, order: Order) -> TransferPlan:
    left_out: list[LeftOut] = []
    filters = Filters(options.include, options.exclude)
    there = order(fit_for_paths(wanted(store.entries(), filters), left_out))
    walk = Walk(folder, filters, secrets=None) if folder.is_dir() else None
    comparison = compare(there, walk or (), never if options.checksum else same_time, extra=options.delete)
    if not comparison.source_files and not left_out:
        raise NotFound(f"There is nothing under s3://{store.bucket}/{store.prefix}")
    if walk:
        comparison.missing = held_back(comparison.missing, walk, left_out)
    return TransferPlan(
        upload=False,
        store=store,
        root=folder,
        comparison=comparison,
        left_out=left_out,
        partials=walk.partials if walk else [],
        options=options,
        key=str,
        path=lambda key: folder / key,
    )


def plan_fetch(store: BulkStore, key: str, path: Path, options: TransferOptions) -> TransferPlan:
    """One object into the file `path`. Raises NotFound, ValidationError for options that need a folder."""
    entry = store.head(key)
    refuse_for_one(options)
    there: list[Entry] = []
    with contextlib.suppress(NotFound):
        there = [msgspec.structs.replace(one_file(path), key=key)]
    return TransferPlan(
        upload=False,
        store=store,
        root=path.parent,
        comparison=compare([entry], there, never if options.checksum else same_time, extra=False),
        left_out=[],
        partials=[],
        options=options,
        key=str,
        path=lambda _: path,
    )


def plan_upload(folder: Path, store: BulkStore, options: TransferOptions) -> TransferPlan:
    """Every file of `folder` under the store's prefix. Raises NotFound where there is no folder."""
    _refuse_unproven(options)
    refuse_brought(folder, reading=True)
    return as_listed(lambda order: _plan_upload(folder, store, options, order))


def _plan_upload(folder: Path, store: BulkStore, options: TransferOptions, order: Order) -> TransferPlan:
    filters = Filters(options.include, options.exclude)
    walk = Walk(folder, filters, secrets=options.secrets)
    memory = Memory(memory_file(options.state, folder, store.place))
    equal = never if options.checksum else _remembered(memory)
    with memory.until_planned():
        comparison = compare(walk, order(wanted(store.entries(), filters)), equal, extra=options.delete)
    return TransferPlan(
        upload=True,
        store=store,
        root=folder,
        comparison=comparison,
        left_out=walk.left_out,
        partials=[],
        options=options,
        key=str,
        path=lambda key: folder / key,
        memory=memory,
        kept=spare_jobs(comparison, store.prefix),
    )


def plan_send(path: Path, store: BulkStore, key: str, options: TransferOptions) -> TransferPlan:
    """One file under `key`. Raises NotFound, ValidationError for options that need a folder."""
    refuse_for_one(options)
    _refuse_unproven(options)
    refuse_brought(path, reading=True)
    entry = msgspec.structs.replace(one_file(path), key=checked_key(key))
    whole = (os.path.abspath(path), os.path.realpath(path))  # noqa: PTH100 (texts)
    why = next((why for name in whole if (why := secret(name, path.name, options.secrets))), None)
    left_out = [LeftOut(printable(path.name), why)] if why else []
    there: list[Entry] = []
    with contextlib.suppress(NotFound):
        there = [store.head(key)]
    return TransferPlan(
        upload=True,
        store=store,
        root=path.parent,
        comparison=compare([] if left_out else [entry], there, never, extra=False),
        left_out=left_out,
        partials=[],
        options=options,
        key=str,
        path=lambda _: path,
    )


def _download(plan: TransferPlan, crew: Crew, emit: Emit) -> None:
    refuse_brought(plan.root)
    try:
        plan.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TransferError(f"Cannot make {plan.root}", why=reason(error)) from error
    remove_stale(plan.partials)
    downloads = Downloads(
        plan.store,
        plan.root,
        crew,
        target=plan.path,
        verify=plan.options.verify,
        only_if=plan.only_if,
        memory=plan.memory,
        emit=emit,
    )
    try:
        crew.run(downloads.pieces(plan.comparison.missing, plan.comparison.doubtful))
    finally:
        downloads.leave()
    downloads.put_on_disk()


def _upload(plan: TransferPlan, crew: Crew, emit: Emit) -> None:
    uploads = Uploads(
        plan.store,
        plan.path,
        crew,
        begun=plan.options.state,
        memory=plan.memory,
        key=plan.key,
        only_if=plan.only_if,
        emit=emit,
    )
    todo, save = plan.comparison, plan.memory.save if plan.memory and plan.size else lambda: None
    crew.run(uploads.pieces(todo.missing, todo.doubtful), now_and_then=save)


def _refuse_unproven(options: TransferOptions) -> None:
    if not options.verify:
        raise ValidationError(
            "--no-verify is for downloads",
            why="S3 itself verifies the checksum of every upload, and that costs nothing more",
            next="leave --no-verify out",
        )


def fit_for_paths(entries: Iterable[Entry], left_out: list[LeftOut]) -> Iterator[Entry]:
    """Keys that can be files below a folder; the rest is refused by name."""
    for entry in entries:
        why = no_file(entry.key)
        if why is None:
            yield entry
        else:
            left_out.append(LeftOut(printable(entry.key), why))


def held_back(missing: list[Entry], walk: Walk, left_out: list[LeftOut]) -> list[Entry]:
    """The entries without those whose place here holds what the walk left out: it must not be replaced."""
    found: list[Entry] = []
    for entry in missing:
        if walk.hides(entry.key):
            left_out.append(LeftOut(printable(entry.key), IN_THE_WAY))
        else:
            found.append(entry)
    return found


def _remembered(memory: Memory) -> Callable[[Entry, Entry], bool]:
    return lambda file, there: memory.recalls(file.key, file.size, file.modified, there.etag)
