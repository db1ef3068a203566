"""Whether two places hold the same: files against objects by size and ETag, or objects against objects.

What is not proven equal is told with the reason: missing, different, extra, or unverifiable because S3 keeps
nothing that its bytes could be checked by (keys of KMS or of the customer, without a SHA-256).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import msgspec

from runctl.errors import NotFound
from runctl.events import Emit, Progress, ignore
from runctl.storage import etags
from runctl.storage.bulk import BulkStore
from runctl.storage.compare import in_order, side_by_side
from runctl.storage.download import file_proves
from runctl.storage.entries import Entry
from runctl.storage.filters import Filters
from runctl.storage.listing import LeftOut, Walk, printable

_BATCH = 1000
_READERS = min(8, os.cpu_count() or 1)
EQUAL = ("equal", "")
SENT_OTHERWISE = "both were sent in parts or encrypted in different ways: their ETags tell nothing"
NO_PROOF = "its ETag is no MD5 (a key of KMS or of the customer), and it has no checksum"
UNKNOWN_PARTS = "no part size that is usual makes its ETag, and S3 does not tell its own"


class Verification(msgspec.Struct, kw_only=True):
    """What a comparison found; names are relative to both places, sizes in bytes.

    `missing` are in the source alone, `extra` in the target alone; `left_out` are no plain files.
    """

    source: str
    target: str
    equal_files: int = 0
    equal_bytes: int = 0
    missing: list[LeftOut] = []
    different: list[LeftOut] = []
    extra: list[LeftOut] = []
    unverifiable: list[LeftOut] = []
    left_out: list[LeftOut] = []

    @property
    def faultless(self) -> bool:
        """Whether all is there, and all of it proven."""
        return not (self.missing or self.different or self.extra or self.unverifiable or self.left_out)


Pair = tuple[Entry, Entry]
Judge = Callable[[Pair], tuple[str, str]]


def folder_against(
    folder: Path,
    store: BulkStore,
    *,
    folder_is_source: bool,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    emit: Emit = ignore,
) -> Verification:
    """Compare a folder with a prefix, reading every file. Raises NotFound, CloudError, TransferError."""
    filters = Filters(include, exclude)
    walk = Walk(folder, filters, secrets=None)
    place = f"s3://{store.bucket}/{store.prefix}"
    objects = _listed(store, filters)
    ends = (str(folder), place) if folder_is_source else (place, str(folder))
    found = Verification(source=ends[0], target=ends[1])
    sides = side_by_side(walk, objects)
    pairs = _pairs(sides if folder_is_source else ((there, here) for here, there in sides), found)
    total = sum(entry.size for entry in objects)

    def judge(pair: Pair) -> tuple[str, str]:
        entry = pair[1] if folder_is_source else pair[0]
        return _file_is(folder / entry.key, entry, store)

    _judge_all(pairs, judge, found, total, emit)
    found.left_out += walk.left_out
    # What is there and was not looked at is no object that is missing.
    named = {item.name for item in walk.left_out}
    side = found.extra if folder_is_source else found.missing
    side[:] = [item for item in side if item.name not in named]
    return found


def prefixes_against(
    source: BulkStore,
    target: BulkStore,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Verification:
    """Compare two prefixes by what S3 says of their objects. Raises NotFound, CloudError."""
    filters = Filters(include, exclude)
    found = Verification(
        source=f"s3://{source.bucket}/{source.prefix}", target=f"s3://{target.bucket}/{target.prefix}"
    )
    left, right = _listed(source, filters), _listed(target, filters)
    if not left and not right:
        raise NotFound(f"There is nothing at {found.source}", next="a prefix, such as s3://bucket/imagenet")
    _judge_all(_pairs(side_by_side(left, right), found), _objects_are, found, 0, ignore)
    return found


def _listed(store: BulkStore, filters: Filters) -> list[Entry]:
    """The objects in order of key."""
    return in_order(entry for entry in store.entries() if filters.wants(entry.key))


def _pairs(
    sides: Iterable[tuple[Entry | None, Entry | None]], found: Verification
) -> Iterator[tuple[Entry, Entry]]:
    """Those of equal name and size; the rest is judged at once."""
    for source, target in sides:
        if source is None or target is None:
            alone = source or target
            assert alone is not None  # noqa: S101 (one side has it)
            kind = found.missing if target is None else found.extra
            kind.append(LeftOut(printable(alone.key), f"{alone.size} bytes"))
        elif source.size != target.size:
            why = f"{source.size} bytes in the source, {target.size} in the target"
            found.different.append(LeftOut(printable(source.key), why))
        else:
            yield source, target


def _judge_all(
    pairs: Iterator[Pair],
    judge: Judge,
    found: Verification,
    total: int,
    emit: Emit,
) -> None:
    """Judge every pair by its content, which threads read."""
    done = 0
    with ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(pairs, _BATCH)):
            for (source, _), (verdict, why) in zip(batch, pool.map(judge, batch), strict=True):
                done += source.size
                if verdict == "equal":
                    found.equal_files += 1
                    found.equal_bytes += source.size
                else:
                    kind = found.different if verdict == "different" else found.unverifiable
                    kind.append(LeftOut(printable(source.key), why))
                if total:
                    emit(Progress(task="verify", done=done, total=total, unit="B"))
    found.different.sort(key=lambda item: item.name)


def _file_is(path: Path, entry: Entry, store: BulkStore) -> tuple[str, str]:
    """`equal`, `different` or `unverifiable`, and why."""
    try:
        if etags.matches(path, entry.size, entry.etag):
            return EQUAL
        return _by_proof(path, entry, store)
    except FileNotFoundError:
        return "different", "it vanished meanwhile"
    except NotFound:
        return "different", "the object vanished meanwhile"
    except OSError as error:
        return "unverifiable", error.strerror or str(error)


def _by_proof(path: Path, entry: Entry, store: BulkStore) -> tuple[str, str]:
    """The ETag does not name the file's bytes: whether it could have, and whether S3 knows more."""
    proof = store.proof(entry.key, entry.size, entry.etag)
    if not proof.algorithm:
        return "unverifiable", NO_PROOF
    if proof.algorithm != "md5":
        name = {"sha256": "SHA-256"}.get(proof.algorithm, proof.algorithm.upper())
        return EQUAL if file_proves(proof, path, entry.size) else ("different", f"another {name}")
    if "-" not in entry.etag:
        return "different", "another MD5"
    count = etags.parts_of(entry.etag) or 1
    part_size = store.told_part_size(entry.key, entry.size, count)
    if not part_size:
        return "unverifiable", UNKNOWN_PARTS
    same = etags.of_parts(etags.digests(path, entry.size, part_size, "md5")) == entry.etag
    return EQUAL if same else ("different", f"another MD5, in {count} parts")


def _objects_are(pair: Pair) -> tuple[str, str]:
    source, target = pair
    if source.etag == target.etag and source.etag:
        return EQUAL
    whole = [etags.parts_of(entry.etag) == 1 and "-" not in entry.etag for entry in pair]
    if all(whole):
        # With keys of KMS these are no MD5, and differ for equal bytes.
        return "different", "other ETags; where one is encrypted by KMS, that proves nothing"
    return "unverifiable", SENT_OTHERWISE
