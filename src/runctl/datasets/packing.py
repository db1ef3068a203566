"""Writing a packed dataset: plan first, then carry out; the index comes last.

A pack's name tells what was known of its files before they were read, and the checksum of its bytes. So
what an interrupted packing has written is found again by name, and proven before it is kept.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from array import array
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import msgspec

from runctl.datasets.dataset import Dataset
from runctl.datasets.direct import DirectS3
from runctl.datasets.order import Permutation
from runctl.datasets.packs import (
    INDEX,
    Index,
    Pack,
    PackedFile,
    Planned,
    crc_of,
    encode,
    lay_out,
    name_parts,
)
from runctl.datasets.samples import Sample
from runctl.datasets.sources import Direct, Folder, Source
from runctl.errors import CloudError, Conflict, NotFound, ValidationError
from runctl.events import Emit, Progress, ignore
from runctl.links import refuse_brought
from runctl.retry import RetryPolicy
from runctl.storage import digests
from runctl.storage.access import S3Access
from runctl.storage.bulk import BulkStore
from runctl.storage.entries import Entry
from runctl.storage.filters import Filters
from runctl.storage.folder import FolderStore
from runctl.storage.listing import LeftOut, Walk
from runctl.storage.location import LocalPath, S3Location
from runctl.storage.objects import PARTIAL_PREFIX
from runctl.storage.transfer import fit_for_paths
from runctl.storage.tries import is_passing

SMALLEST, LARGEST = 1 << 20, 1 << 30
"""Bytes of a pack: one request writes it, and it is held in memory meanwhile."""
_PIECE = 8 << 20
_AT_ONCE = 3
"""Packs that are written at once."""


class PackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to pack: `pack_size` in bytes; `mixed` lays files in shuffled order, the same each time.

    `parallel` requests read at once; `secrets` names files that look like credentials and are to go along.
    """

    pack_size: int = 64 << 20
    mixed: bool = False
    parallel: int = 16
    secrets: tuple[str, ...] = ()


class PackPlan(msgspec.Struct, kw_only=True):
    """What is to be packed, and what is left out by name."""

    source: Dataset
    target: FolderStore | BulkStore
    place: str
    packs: list[Planned]
    left_out: list[LeftOut]

    @property
    def size(self) -> int:
        return sum(pack.size for pack in self.packs)


class PackReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it. `kept_packs` were there and right; `other_packs` lie there of another state."""

    files: int
    bytes: int
    packs: int
    written_packs: int
    kept_packs: int
    other_packs: int
    left_out: tuple[LeftOut, ...]
    seconds: float


def plan(
    source: LocalPath | S3Location, target: LocalPath | S3Location, options: PackOptions, access: S3Access
) -> PackPlan:
    """Lay the source's files out in packs. Raises NotFound, ValidationError, CloudError."""
    if not SMALLEST <= options.pack_size <= LARGEST:
        raise ValidationError(
            "A pack has 1 MiB to 1 GiB", why=f"--pack-size says {options.pack_size} bytes", next="try 64MiB"
        )
    _refuse_inside(source, target)
    if isinstance(source, LocalPath):
        refuse_brought(source.path, reading=True)
    if isinstance(target, LocalPath):
        refuse_brought(target.path)
    left_out: list[LeftOut] = []
    dataset = _source(source, options, access, left_out)
    count = len(dataset.entries)
    mixed = Permutation(count, 0, 0)
    order = (mixed[place] for place in range(count)) if options.mixed else range(count)
    store = (
        FolderStore(target.path)
        if isinstance(target, LocalPath)
        else BulkStore(target.bucket, target.key.rstrip("/"), access)
    )
    packs = lay_out(dataset.entries, order, options.pack_size)
    return PackPlan(source=dataset, target=store, place=str(target), packs=packs, left_out=left_out)


def carry_out(plan: PackPlan, *, emit: Emit = ignore) -> PackReport:
    """Write what is missing, then the index. Going on after an interruption, what is right is kept.

    Raises Conflict where a file changes meanwhile, NotFound, CloudError, TransferError: then there is no new
    index, and the same call goes on.
    """
    began = time.monotonic()
    if isinstance(plan.target, FolderStore):
        _remove_stale(plan.target.root / "packs")
    with contextlib.ExitStack() as ending:
        ending.callback(plan.source.close)
        if isinstance(plan.target, BulkStore):
            ending.callback(plan.target.close)
        writing = _Writing(plan, emit)
        packs = writing.run()
        index = Index(tuple(packs), tuple(_files(plan, writing.crcs)))
        writing.write(INDEX, encode(index))
    names = {pack.key for pack in packs}
    return PackReport(
        files=len(index.files),
        bytes=plan.size,
        packs=len(packs),
        written_packs=len(packs) - writing.kept,
        kept_packs=writing.kept,
        other_packs=sum(name not in names for name in writing.there),
        left_out=tuple(plan.left_out),
        seconds=time.monotonic() - began,
    )


class _Writing:
    """`crcs` fills with the CRC-32 of each piece, by number of the pack."""

    def __init__(self, plan: PackPlan, emit: Emit) -> None:
        self._plan, self._emit = plan, emit
        self.there = {item.key: item.size for item in plan.target.list() if name_parts(item.key) is not None}
        self.crcs: dict[int, array[int]] = {}
        self.kept = 0
        self._done = 0
        self._packs: dict[int, Pack] = {}

    def run(self) -> list[Pack]:
        missing = self._missing()
        with ThreadPoolExecutor(_AT_ONCE, "packs") as pool:
            going: set[Future[None]] = set()
            try:
                for planned, data in self._read(missing):
                    while len(going) >= _AT_ONCE:
                        going = _settled(going)
                    going.add(pool.submit(self._place, planned, data))
                while going:
                    going = _settled(going)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [self._packs[number] for number in range(len(self._plan.packs))]

    def write(self, name: str, data: bytes) -> None:
        """Have an object whole or not at all."""
        target = self._plan.target
        if isinstance(target, FolderStore):
            target.write(name, data)
            return
        try:
            target.send_long(name, data)
        except CloudError as error:
            if not error.retryable:
                raise
            policy = RetryPolicy(attempts=6, seconds=600.0)
            policy.call(
                "PutObject", lambda: target.send_long(name, data), retryable=is_passing, emit=self._emit
            )

    def _missing(self) -> list[Planned]:
        """What must be read. Objects whose ETags are known need not be, where their pack is there and right.

        Files of a folder have no ETags: they are read, and only what is written is left out.
        """
        if isinstance(self._plan.source.source, Folder):
            return self._plan.packs
        found: dict[tuple[int, str], list[str]] = {}
        for name in sorted(self.there):
            number, state, _ = name_parts(name) or (0, "", "")
            found.setdefault((number, state), []).append(name)
        with ThreadPoolExecutor(_AT_ONCE, "packs") as pool:
            here = [found.get((planned.number, planned.state), []) for planned in self._plan.packs]
            right = list(pool.map(self._is_right, self._plan.packs, here))
        return [planned for planned, known in zip(self._plan.packs, right, strict=True) if not known]

    def _is_right(self, planned: Planned, names: list[str]) -> bool:
        for name in names:
            data = self._right(planned, name)
            if data is not None:
                self._keep(planned, data, name)
                return True
        return False

    def _right(self, planned: Planned, name: str) -> bytes | None:
        """The pack of this name, where it lies there and its bytes are those that its name tells."""
        if self.there.get(name) != planned.size:
            return None
        try:
            data = self._plan.target.read(name)
        except NotFound:
            return None
        return data if planned.name(crc_of(data)) == name else None

    def _read(self, missing: list[Planned]) -> Iterator[tuple[Planned, bytearray]]:
        """The packs' bytes in order; the next files are read meanwhile."""
        source = self._plan.source
        coming = source.fetch(
            Sample(piece.file, at, min(_PIECE, piece.start + piece.length - at))
            for planned in missing
            for piece in planned.pieces
            for at in range(piece.start, piece.start + piece.length, _PIECE)
        )
        for planned in missing:
            data = bytearray()
            while len(data) < planned.size:
                data += next(coming)
            if isinstance(source.source, Folder):
                for piece in planned.pieces:
                    _refuse_changed(source.source.root, source.entries[piece.file])
            yield planned, data

    def _place(self, planned: Planned, data: bytearray) -> None:
        body = bytes(data)
        name = planned.name(crc_of(body))
        is_there = self._right(planned, name) is not None
        if not is_there:
            self.write(name, body)
        self._keep(planned, body, name, kept=int(is_there))

    def _keep(self, planned: Planned, data: bytes, name: str, *, kept: int = 1) -> None:
        at, view, crcs = 0, memoryview(data), array("Q")
        for piece in planned.pieces:
            crcs.append(zlib.crc32(view[at : at + piece.length]))
            at += piece.length
        self.crcs[planned.number] = crcs
        self._packs[planned.number] = Pack(name, planned.size, 0, crc=(name_parts(name) or ("", "", ""))[2])
        self.kept += kept
        self._done += planned.size
        self._emit(Progress(task="pack", done=self._done, total=self._plan.size, unit="B"))


def _files(plan: PackPlan, crcs: dict[int, array[int]]) -> Iterator[PackedFile]:
    """The files in order of name, with their places; `crcs` are those of each pack's pieces."""
    entries = plan.source.entries
    packs, offsets, whole = (array("Q", bytes(8 * len(entries))) for _ in range(3))
    for planned in plan.packs:
        at = 0
        for (file, start, length), crc in zip(planned.pieces, crcs[planned.number], strict=True):
            if start == 0:
                packs[file], offsets[file], whole[file] = planned.number, at, crc
            else:
                whole[file] = _joined((whole[file], start), (crc, length))
            at += length
    for number, entry in enumerate(entries):
        place = packs[number], offsets[number], whole[number]
        yield PackedFile(entry.key, entry.size, 0, entry.etag, *place)


def _joined(*parts: tuple[int, int]) -> int:
    """The CRC-32 of bytes that follow each other, from their CRCs and lengths."""
    return int.from_bytes(digests.of_whole("crc32", ((crc.to_bytes(4), length) for crc, length in parts)))


def _source(
    place: LocalPath | S3Location, options: PackOptions, access: S3Access, left_out: list[LeftOut]
) -> Dataset:
    if isinstance(place, LocalPath):
        walk = Walk(place.path, Filters((), ()), secrets=options.secrets)
        entries = list(walk)
        left_out += walk.left_out
        source: Source = Folder(place.path)
    else:
        remote = DirectS3(place.bucket, place.key.rstrip("/"), access, parallel=options.parallel)
        entries = list(fit_for_paths(remote.list(), left_out))
        source = Direct(remote)
    if any(entry.key == INDEX for entry in entries):
        raise ValidationError(f"{place} is packed already", next="pack what it was packed from")
    if not entries:
        raise NotFound(f"There is nothing to pack in {place}")
    entries.sort(key=lambda entry: entry.key.encode())
    return Dataset(str(place), "pack", source, entries, ahead_bytes=max(64 << 20, options.pack_size))


def _refuse_inside(source: LocalPath | S3Location, target: LocalPath | S3Location) -> None:
    """Packs beside the files would be files of the source the next time."""
    if isinstance(source, LocalPath) and isinstance(target, LocalPath):
        inside = target.path.resolve().is_relative_to(source.path.resolve())
    elif isinstance(source, S3Location) and isinstance(target, S3Location):
        above = f"{source.key.rstrip('/')}/".lstrip("/")
        inside = source.bucket == target.bucket and f"{target.key.rstrip('/')}/".startswith(above)
    else:
        inside = False
    if inside:
        raise ValidationError(
            f"{target} lies in {source}",
            why="the packs would become files of the dataset",
            next="name a place beside it",
        )


def _refuse_changed(root: Path, entry: Entry) -> None:
    status = (root / entry.key).stat()
    if (status.st_size, status.st_mtime_ns) != (entry.size, entry.modified):
        raise Conflict(
            f"{entry.key} changed while it was packed", next="give the command again when it is at rest"
        )


def _remove_stale(folder: Path) -> None:
    """What a killed packing was writing: nobody else writes among packs."""
    for path in folder.glob(f"{PARTIAL_PREFIX}*"):
        path.unlink(missing_ok=True)


def _settled(going: set[Future[None]]) -> set[Future[None]]:
    done, rest = wait(going, return_when=FIRST_COMPLETED)
    for one in done:
        one.result()
    return rest
