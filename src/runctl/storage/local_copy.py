"""Files to other places on this machine: proven under a temporary name, put on the disk, then renamed."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from runctl.errors import Conflict, NotFound, TransferError, ValidationError
from runctl.events import Emit
from runctl.links import refuse_brought
from runctl.storage import digests, etags, spelling
from runctl.storage.compare import compare
from runctl.storage.crew import Crew, Piece, reason
from runctl.storage.entries import Entry
from runctl.storage.filters import Filters
from runctl.storage.listing import LeftOut, Walk, one_file, printable
from runctl.storage.objects import PARTIAL_PREFIX, inside, remove_stale, sync
from runctl.storage.plans import (
    Plan,
    TransferOptions,
    never,
    refuse_for_one,
    remove_files,
    same_time,
)
from runctl.storage.tries import Damaged
from runctl.storage.upload import Changed

_READ = 4 * etags.MIB
_CHECK = "crc64nvme"
IN_THE_WAY = "its place there holds what no transfer carries: nothing was touched"


class LocalCopy(Plan, kw_only=True):
    """A copy from a folder to a folder; `source` and `target` say where an entry is and goes."""

    root: Path
    source: Callable[[str], Path]
    target: Callable[[str], Path]
    partials: list[Path]

    def move(self, crew: Crew, emit: Emit) -> None:  # noqa: ARG002 (there is nothing to tell)
        refuse_brought(self.root)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TransferError(f"Cannot make {self.root}", why=reason(error)) from error
        remove_stale(self.partials)
        copies = _Copies(self, crew)
        crew.run(copies.pieces())
        copies.sync_folders()

    def remove(self, names: list[str]) -> None:
        remove_files(self.root, [self.target(name) for name in names])


def plan_folder(source: Path, target: Path, options: TransferOptions) -> LocalCopy:
    """Every file of a folder to another folder. Raises NotFound, ValidationError."""
    if target.exists() and not target.is_dir():
        raise ValidationError(f"{target} is a file", why="a folder needs a folder")
    refuse_brought(source, reading=True)
    one, other = source.resolve(), target.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise ValidationError("Source and destination overlap", why=f"{one} and {other} lie in one another")
    filters = Filters(options.include, options.exclude)
    here = Walk(source, filters, secrets=None)
    there = Walk(target, filters, secrets=None) if target.is_dir() else None
    comparison = compare(here, there or (), never if options.checksum else same_time, extra=options.delete)
    if there:
        hidden = [entry for entry in comparison.missing if there.hides(entry.key)]
        here.left_out.extend(LeftOut(printable(entry.key), IN_THE_WAY) for entry in hidden)
        comparison.missing = [entry for entry in comparison.missing if not there.hides(entry.key)]
    return LocalCopy(
        comparison=comparison,
        left_out=here.left_out,
        options=options,
        root=target,
        source=lambda key: source / key,
        target=lambda key: target / key,
        partials=there.partials if there else [],
    )


def plan_file(source: Path, target: Path, options: TransferOptions) -> LocalCopy:
    """One file to another name. Raises NotFound, ValidationError."""
    refuse_brought(source, reading=True)
    entry = one_file(source)
    refuse_for_one(options)
    there: list[Entry] = []
    with contextlib.suppress(NotFound):
        there = [msgspec.structs.replace(one_file(target), key=entry.key)]
        if source.samefile(target):
            raise ValidationError("Source and destination are one file")
    return LocalCopy(
        comparison=compare([entry], there, never if options.checksum else same_time, extra=False),
        left_out=[],
        options=options,
        root=target.parent,
        source=lambda _: source,
        target=lambda _: target,
        partials=[],
    )


class _Copies:
    """Copies the plan's entries, as pieces for a crew."""

    def __init__(self, plan: LocalCopy, crew: Crew) -> None:
        self._plan = plan
        self._crew = crew
        self._numbers = itertools.count()
        self._folders: set[Path] = set()

    def pieces(self) -> Iterator[Piece]:
        """What there is to do, big files first."""
        names = None if spelling.tells_case_apart(self._plan.root) else spelling.Spelling(self._plan.root)
        for entry in sorted(self._plan.comparison.missing, key=lambda item: -item.size):
            try:
                if names is not None:
                    names.claim(self._relative(entry))
            except Conflict as error:
                self._crew.fail(entry.key, error)
                continue
            yield self._crew.guarded(entry, self._copy)
        for entry in self._plan.comparison.doubtful:
            yield self._crew.guarded(entry, self._compare)

    def sync_folders(self) -> None:
        """Put the new names on the disk."""
        for folder in self._folders:
            with contextlib.suppress(OSError):  # it went meanwhile
                sync(folder)

    def _compare(self, entry: Entry) -> None:
        """Same size, another time: the content tells."""
        target = self._plan.target(entry.key)
        if _digest(self._plan.source(entry.key)) == _digest(target):
            os.utime(target, ns=(entry.modified, entry.modified))
            self._crew.equal()
        else:
            self._copy(entry)

    def _relative(self, entry: Entry) -> str:
        return self._plan.target(entry.key).relative_to(self._plan.root).as_posix()

    def _copy(self, entry: Entry) -> None:
        target = self._plan.target(entry.key)
        inside(self._plan.root, self._relative(entry))
        if target.parent not in self._folders:
            refuse_brought(target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f"{PARTIAL_PREFIX}{os.getpid()}.{next(self._numbers)}"
        try:
            self._write(self._plan.source(entry.key), partial)
            partial.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        self._folders.add(target.parent)
        self._crew.done()

    def _write(self, source: Path, partial: Path) -> None:
        """The source's bytes in one state, with its time and mode, proven and on the disk."""
        digest = digests.new(_CHECK)
        with source.open("rb", buffering=0) as file, partial.open("xb", buffering=0) as copy:
            before = os.fstat(file.fileno())
            while data := file.read(_READ):
                digest.update(data)
                _write_all(copy.fileno(), data)
                self._crew.moved(len(data))
            after = os.fstat(file.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise Changed(f"{source.name} changed while it was copied", next="give the command again")
            os.fchmod(copy.fileno(), before.st_mode & 0o777)
            os.utime(copy.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))
            os.fsync(copy.fileno())
        if self._plan.options.verify and _digest(partial) != digest.digest():
            raise Damaged(f"{source.name} arrived damaged", why="the disk gives back other bytes than it got")


def _digest(path: Path) -> bytes:
    digest = digests.new(_CHECK)
    with path.open("rb", buffering=0) as file:
        while data := file.read(_READ):
            digest.update(data)
    return digest.digest()


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
