"""Objects to other places in S3: S3 copies them itself, and no byte comes by this machine."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import msgspec

from runctl.agent.failures import StoreAway
from runctl.agent.multipart import MOST_PARTS, Part
from runctl.errors import Conflict, NotFound, ValidationError
from runctl.events import Emit, Notice
from runctl.storage import etags
from runctl.storage.bulk import BulkStore
from runctl.storage.compare import Order, as_listed, compare
from runctl.storage.crew import Crew, Piece
from runctl.storage.entries import Entry
from runctl.storage.filters import Filters
from runctl.storage.listing import LeftOut, no_key, printable
from runctl.storage.memory import Memory, memory_file
from runctl.storage.objects import checked_key
from runctl.storage.plans import Plan, TransferOptions, never, refuse_for_one, spare_jobs, wanted
from runctl.storage.tries import Damaged, Tries

LARGEST = 1024 * etags.MIB
"""Bytes: bigger ones go in parts, side by side. S3 user guide, "Copying objects": one request takes 5 GiB."""
PART = 512 * etags.MIB
"""Bytes of a part, where the parts that the object came in are not known."""
_SMALLEST_PART, _BIGGEST_PART = 5 * etags.MIB, 5 * 1024 * etags.MIB
_AT_ONCE = 8
_ANEW = 3
_KEPT_HEADERS = (
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "cache-control",
)


class Copying(Plan, kw_only=True):
    """A copy from a prefix to a prefix; `key` is an entry's name at the destination."""

    source: BulkStore
    target: BulkStore
    key: Callable[[str], str] = str

    def move(self, crew: Crew, emit: Emit) -> None:
        copies = _Copies(self, crew, emit)
        crew.run(
            copies.pieces(), now_and_then=self.memory.save if self.memory and self.size else lambda: None
        )

    def remove(self, names: list[str]) -> None:
        for start in range(0, len(names), 1000):
            self.target.remove([self.key(name) for name in names[start : start + 1000]])


def plan_copies(source: BulkStore, target: BulkStore, options: TransferOptions) -> Copying:
    """Everything under one prefix to another. Raises NotFound where there is nothing, ValidationError."""
    _refuse_overlap(source, target)
    _refuse_bandwidth(options)
    return as_listed(lambda order: _plan(source, target, options, order))


def _plan(source: BulkStore, target: BulkStore, options: TransferOptions, order: Order) -> Copying:
    filters = Filters(options.include, options.exclude)
    left_out: list[LeftOut] = []
    memory = Memory(memory_file(options.state, source.place, target.place))
    equal = never if options.checksum else _known(memory)
    with memory.until_planned():
        here = order(_copyable(wanted(source.entries(), filters), left_out))
        comparison = compare(here, order(wanted(target.entries(), filters)), equal, extra=options.delete)
        if not comparison.source_files and not left_out:
            raise NotFound(f"There is nothing under s3://{source.bucket}/{source.prefix}")
    return Copying(
        comparison=comparison,
        left_out=left_out,
        options=options,
        memory=memory,
        kept=spare_jobs(comparison, target.prefix),
        source=source,
        target=target,
    )


def plan_copy(source: BulkStore, name: str, target: BulkStore, key: str, options: TransferOptions) -> Copying:
    """One object under another key. Raises NotFound, ValidationError."""
    entry = source.head(name)
    refuse_for_one(options)
    _refuse_bandwidth(options)
    if source.place == target.place and name == checked_key(key):
        raise ValidationError("Source and destination are one object")
    there: list[Entry] = []
    with contextlib.suppress(NotFound):
        there = [msgspec.structs.replace(target.head(key), key=name)]
    return Copying(
        comparison=compare([entry], there, never if options.checksum else _same_etag, extra=False),
        left_out=[],
        options=options,
        source=source,
        target=target,
        key=lambda _: key,
    )


class _Copies:
    """Copies the plan's entries, as pieces for a crew."""

    def __init__(self, plan: Copying, crew: Crew, emit: Emit) -> None:
        self._plan = plan
        self._crew = crew
        self._emit = emit
        self._tries = Tries(emit)

    def pieces(self) -> Iterator[Piece]:
        """What there is to do, big objects first."""
        for entry in sorted(self._plan.comparison.missing, key=lambda item: -item.size):
            yield self._crew.guarded(entry, self._copy)
        for entry in self._plan.comparison.doubtful:
            yield self._crew.guarded(entry, self._compare)

    def _compare(self, entry: Entry) -> None:
        """Same size and other ETags, which parts and encryption make too: the checksums tell."""
        there = self._plan.target.head(self._plan.key(entry.key))
        same = entry.etag == there.etag and etags.parts_of(entry.etag) is not None
        if same or self._proven(entry, there):
            self._note(entry, there.etag)
            self._crew.equal()
        else:
            self._copy(entry)

    def _proven(self, entry: Entry, there: Entry) -> bool | None:
        """Whether S3's checksums of both are the same; None where it keeps none that can be compared."""
        one = self._plan.source.proof(entry.key, entry.size, entry.etag)
        other = self._plan.target.proof(self._plan.key(entry.key), there.size, there.etag)
        if not one.algorithm or (one.algorithm, one.part_size) != (other.algorithm, other.part_size):
            return None
        if one.expected == other.expected:
            return True
        # Not every server gives a copied part the MD5 of its bytes for an ETag.
        return None if one.algorithm == "md5" and one.part_size else False

    def _copy(self, entry: Entry) -> None:
        for _ in range(_ANEW):
            try:
                self._copy_proven(entry)
                return
            except Conflict:
                text = f"{entry.key} changed while it was copied: it starts anew"
                self._emit(Notice(text=text, warning=True))
                entry = self._plan.source.head(entry.key)
        self._copy_proven(entry)

    def _copy_proven(self, entry: Entry) -> None:
        etag = self._tries.call("CopyObject", lambda: self._copy_once(entry))
        self._note(entry, etag)
        self._crew.moved(entry.size)
        self._crew.done()

    def _copy_once(self, entry: Entry) -> str:
        if entry.size > LARGEST:
            etag = _InParts(self._plan, entry, self._crew, self._emit).copy()
        else:
            etag = _etag_in(self._plan.target, "CopyObject", self._plan.key(entry.key), {}, self._from(entry))
        if self._plan.options.verify:
            self._verify(entry, etag)
        return etag

    def _from(self, entry: Entry) -> dict[str, str]:
        return _copy_headers(self._plan.source, entry)

    def _verify(self, entry: Entry, etag: str) -> None:
        there = self._plan.target.head(self._plan.key(entry.key))
        why = ""
        if (there.size, there.etag) != (entry.size, etag):
            why = f"it has {there.size} bytes and the ETag {there.etag}"
        elif there.etag != entry.etag and self._proven(entry, there) is False:
            why = "S3 keeps another checksum of it"
        if why:
            raise Damaged(f"{entry.key} arrived otherwise than it was", why=why)

    def _note(self, entry: Entry, etag: str) -> None:
        if self._plan.memory is not None:
            _note(self._plan.memory, entry, etag)


class _Begun(msgspec.Struct, frozen=True):
    """A copy in parts that may be gone on with while its source is the same object."""

    upload: str
    etag: str
    part_size: int


class _InParts:
    """One object that is too big for one request."""

    def __init__(self, plan: Copying, entry: Entry, crew: Crew, emit: Emit) -> None:
        self._source, self._target = plan.source, plan.target
        self._entry, self._crew, self._emit = entry, crew, emit
        self._key = plan.key(entry.key)
        place = f"{plan.source.place}\0{entry.key}\0{plan.target.place}\0{self._key}"
        self._record = plan.options.state / f"{blake2b(place.encode(), digest_size=12).hexdigest()}.copy"

    def copy(self) -> str:
        """Answers the ETag. What was begun before goes on; after a failure nothing stays open."""
        begun, there = self._go_on_or_begin()

        def copy(number: int) -> str:
            return self._part(begun, number, there.get(number))

        try:
            count = -(-self._entry.size // begun.part_size)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                parts = list(pool.map(copy, range(1, count + 1)))
            etag = self._complete(begun.upload, parts)
        except Exception:
            with contextlib.suppress(Exception):  # what failed first is what the user must hear of
                self._target.parts(self._key, begun.upload).abort()
                self._record.unlink(missing_ok=True)
            raise
        self._record.unlink(missing_ok=True)
        return etag

    def _go_on_or_begin(self) -> tuple[_Begun, dict[int, Part]]:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, NotFound):
            begun = msgspec.json.decode(self._record.read_bytes(), type=_Begun)
            upload = self._target.parts(self._key, begun.upload)
            with self._target.part_errors("ListParts", self._key):
                if begun.etag == self._entry.etag:
                    return begun, {part.number: part for part in upload.parts()}
                upload.abort()
            text = f"{self._entry.key} changed since its copy was interrupted: it starts anew"
            self._emit(Notice(text=text, warning=True))
        headers, _ = self._source.ask("HeadObject", "HEAD", self._entry.key)
        kept = {
            name: headers[name] for name in headers if name in _KEPT_HEADERS or name.startswith("x-amz-meta-")
        }
        _, body = self._target.ask(
            "CreateMultipartUpload", "POST", self._key, query={"uploads": ""}, headers=kept
        )
        found = re.search(r"<UploadId>([^<]+)</UploadId>", body.decode())
        with self._target.part_errors("CreateMultipartUpload", self._key):
            if not found:
                raise StoreAway("no upload id")
        begun = _Begun(found[1], self._entry.etag, self._part_size())
        self._record.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._record.with_name(f"{self._record.name}.{os.getpid()}")
        fresh.write_bytes(msgspec.json.encode(begun))
        fresh.replace(self._record)
        return begun, {}

    def _part_size(self) -> int:
        """That of the source's own parts, so that both get the same ETag."""
        size, count = self._entry.size, etags.parts_of(self._entry.etag) or 1
        told = self._source.told_part_size(self._entry.key, size, count) if count > 1 else 0
        if _SMALLEST_PART <= told <= _BIGGEST_PART:
            return told
        return max(PART, -(-size // MOST_PARTS))

    def _part(self, begun: _Begun, number: int, there: Part | None) -> str:
        self._crew.check()
        start = (number - 1) * begun.part_size
        end = min(start + begun.part_size, self._entry.size)
        if there is not None and there.size == end - start:
            return there.etag.strip('"')
        query = {"partNumber": str(number), "uploadId": begun.upload}
        headers = _copy_headers(self._source, self._entry)
        headers["x-amz-copy-source-range"] = f"bytes={start}-{end - 1}"
        return _etag_in(self._target, "UploadPartCopy", self._key, query, headers)

    def _complete(self, upload: str, parts: list[str]) -> str:
        listed = "".join(
            f'<Part><PartNumber>{number}</PartNumber><ETag>"{etag}"</ETag></Part>'
            for number, etag in enumerate(parts, 1)
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        _, answer = self._target.ask(
            "CompleteMultipartUpload", "POST", self._key, query={"uploadId": upload}, body=body
        )
        return _found_etag(self._target, "CompleteMultipartUpload", self._key, answer)


def _copy_headers(source: BulkStore, entry: Entry) -> dict[str, str]:
    return {
        "x-amz-copy-source": source.copy_source(entry.key),
        "x-amz-copy-source-if-match": f'"{entry.etag}"',
    }


def _etag_in(
    store: BulkStore, operation: str, key: str, query: dict[str, str], headers: dict[str, str]
) -> str:
    _, body = store.ask(operation, "PUT", key, query=query, headers=headers)
    return _found_etag(store, operation, key, body)


def _found_etag(store: BulkStore, operation: str, key: str, body: bytes) -> str:
    """S3 may answer 200 and then fail: the body tells."""
    found = re.search(r"<ETag>(?:&quot;|&#34;|\")?([^<&\"]+)", body.decode())
    with store.part_errors(operation, key):
        if b"<Error>" in body or not found:
            raise StoreAway(body.decode("utf-8", "replace")[:200])
    return found[1]


def _copyable(entries: Iterator[Entry], left_out: list[LeftOut]) -> Iterator[Entry]:
    for entry in entries:
        why = no_key(entry.key)
        try:
            checked_key(entry.key)
        except ValidationError as error:
            why = why or error.why
        if why is None:
            yield entry
        else:
            left_out.append(LeftOut(printable(entry.key), why))


def _refuse_bandwidth(options: TransferOptions) -> None:
    if options.bandwidth:
        raise ValidationError(
            "--bandwidth-limit cannot be kept between two places in S3",
            why="S3 copies by itself, and nothing comes by this machine",
            next="leave --bandwidth-limit out",
        )


def _refuse_overlap(source: BulkStore, target: BulkStore) -> None:
    one, other = (f"{store.place.rstrip('/')}/" for store in (source, target))
    if one.startswith(other) or other.startswith(one):
        raise ValidationError(
            "Source and destination overlap", why=f"{source.place} and {target.place} lie in one another"
        )


def _same_etag(source: Entry, destination: Entry) -> bool:
    return source.etag == destination.etag and etags.parts_of(source.etag) is not None


def _known(memory: Memory) -> Callable[[Entry, Entry], bool]:
    """Equal by the same ETag, or because it was copied from this very object and is what it was then."""

    def equal(source: Entry, there: Entry) -> bool:
        if memory.recalls(f"{source.key}\0{source.etag}", source.size, 0, there.etag):
            return True
        if _same_etag(source, there):
            _note(memory, source, there.etag)
            return True
        return False

    return equal


def _note(memory: Memory, entry: Entry, etag: str) -> None:
    memory.note(f"{entry.key}\0{entry.etag}", entry.size, 0, etag)
