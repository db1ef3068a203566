"""Files to objects: S3 checks each against its SHA-256; big ones go in parts that are not sent twice."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from runctl.agent.failures import SourceChanged
from runctl.agent.multipart import Multipart, Part, part_size
from runctl.errors import CloudError, Conflict, NotFound, TransferError
from runctl.events import Emit, Notice
from runctl.storage import etags
from runctl.storage.bulk import BulkStore, Proof
from runctl.storage.crew import Crew, Piece
from runctl.storage.entries import Entry
from runctl.storage.memory import Memory
from runctl.storage.tries import Damaged, Tries, is_spoilt

PIECE = 16 * etags.MIB
"""Bytes: what is bigger is sent in parts."""


_SPOILT = 4
"""How often a part is sent that comes to S3 with other bytes."""
_CLOCKS = 60.0
"""Seconds by which this machine's clock may be ahead of S3's."""


class Begun(msgspec.Struct, frozen=True):
    """An upload in parts that may be gone on with while its source is the same file in the same state.

    `asked` is when it was asked for, in seconds since the epoch; `upload` is empty while no answer has come.
    """

    upload: str
    size: int
    modified: int
    part_size: int
    asked: float = 0.0


class Changed(TransferError):
    """The source is not what it was when its transfer began."""


class Uploads:
    """Sends files to a store, as pieces for a crew. `begun` is where uploads in parts are noted.

    With `only_if` an object is replaced only while it is the one that is named there, and made only where
    there is none.
    """

    def __init__(
        self,
        store: BulkStore,
        source: Callable[[str], Path],
        crew: Crew,
        *,
        begun: Path,
        memory: Memory | None = None,
        key: Callable[[str], str] = str,
        only_if: Mapping[str, Entry] | None = None,
        emit: Emit,
    ) -> None:
        self.store = store
        self.crew = crew
        self.emit = emit
        self.key = key
        self.source = source
        self._memory = memory
        self._only_if = only_if
        self._begun = begun
        self.tries = Tries(emit)

    def pieces(self, missing: Iterable[Entry], doubtful: Iterable[Entry]) -> Iterator[Piece]:
        """What there is to do, big files first."""
        for entry in sorted(missing, key=lambda item: -item.size):
            if entry.size > PIECE:
                yield from self._parts(entry)
            else:
                yield self.crew.guarded(entry, self._whole)
        for entry in doubtful:
            yield self.crew.guarded(entry, self._compare)

    def record_of(self, entry: Entry) -> Path:
        """Where the upload in parts of this file is noted."""
        place = f"{self.source(entry.key)}\0{self.store.bucket}\0{self.store.prefix}\0{self.key(entry.key)}"
        return self._begun / f"{blake2b(os.fsencode(place), digest_size=12).hexdigest()}.upload"

    def arrived(self, entry: Entry, etag: str) -> None:
        """The object is what the file was."""
        if self._memory is not None:
            self._memory.note(entry.key, entry.size, entry.modified, etag)
        self.crew.done()

    def _whole(self, entry: Entry) -> None:
        state, data = _read(self.source(entry.key))
        etag = self.tries.call("PutObject", lambda: self._send(entry.key, data))
        self.arrived(msgspec.structs.replace(entry, size=state.size, modified=state.modified), etag)

    def expected(self, name: str) -> str | None:
        """The ETag that the object must have: empty for none, None where it may be any."""
        if self._only_if is None:
            return None
        there = self._only_if.get(name)
        return there.etag if there else ""

    def _send(self, name: str, data: bytes) -> str:
        key = self.key(name)
        etag = self._put(name, key, data)
        if etags.parts_of(etag) == 1 and hashlib.md5(data, usedforsecurity=False).hexdigest() != etag:
            # With a key of KMS the ETag is no MD5, and looks like one: S3's own checksum tells.
            proof = self.store.proof(key, len(data), etag)
            if proof.algorithm != "sha256" or hashlib.sha256(data).hexdigest() != proof.expected:
                raise Damaged(f"{name} arrived damaged", why="S3 answered with another checksum")
        self.crew.moved(len(data))
        return etag

    def _put(self, name: str, key: str, data: bytes) -> str:
        expected = self.expected(name)
        if expected is None:
            return self.store.send(key, data)
        try:
            return self.store.send(key, data, {"e_tag": f'"{expected}"'} if expected else "create")
        except Conflict:
            there = self.store.head(key)  # a try whose answer was lost may have written it
            proof = self.store.proof(key, len(data), there.etag)
            if there.size != len(data) or not _proves(proof, data):
                raise _overtaken(name) from None
            return there.etag

    def _compare(self, entry: Entry) -> None:
        """Same size, and nothing is remembered: the content tells."""
        if etags.matches(self.source(entry.key), entry.size, entry.etag):
            if self._memory is not None:
                self._memory.note(entry.key, entry.size, entry.modified, entry.etag)
            self.crew.equal()
        elif entry.size > PIECE:
            for piece in self._parts(entry):
                piece()
        else:
            self._whole(entry)

    def _parts(self, entry: Entry) -> Iterator[Piece]:
        try:
            parts = _Parts(self, entry)
        except Exception as error:
            self.crew.fail(entry.key, error)
            return
        yield from parts.pieces()


class _Parts:
    """One big file. The piece that ends last completes the object."""

    def __init__(self, uploads: Uploads, entry: Entry) -> None:
        self._uploads = uploads
        self._crew = uploads.crew
        self._record = uploads.record_of(entry)
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._sent: list[Part] = []
        path = uploads.source(entry.key)
        self._file = os.open(path, os.O_RDONLY)
        status = os.fstat(self._file)
        self._entry = msgspec.structs.replace(entry, size=status.st_size, modified=status.st_mtime_ns)
        try:
            self._begun, self._there = self._go_on_or_begin()
        except BaseException:
            os.close(self._file)
            raise
        self._upload = uploads.store.parts(uploads.key(entry.key), self._begun.upload)
        self._left = max(1, -(-self._begun.size // self._begun.part_size))

    def pieces(self) -> Iterator[Piece]:
        for number in range(1, self._left + 1):
            yield functools.partial(self._piece, number)

    def _go_on_or_begin(self) -> tuple[Begun, dict[int, Part]]:
        key = self._uploads.key(self._entry.key)
        wanted = (self._entry.size, self._entry.modified)
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            begun = msgspec.json.decode(self._record.read_bytes(), type=Begun)
            upload = self._uploads.store.parts(key, begun.upload)
            if not begun.upload:
                self._abort_unanswered(begun.asked)
            elif (begun.size, begun.modified) == wanted:
                with contextlib.suppress(NotFound):
                    return begun, {part.number: part for part in self._list(upload)}
            else:
                self._say(f"{self._entry.key} changed since its transfer was interrupted: it starts anew")
                self._abort(upload)
        begun = Begun("", *wanted, part_size(self._entry.size), time.time())
        self._note(begun)
        begun = msgspec.structs.replace(begun, upload=self._begin(key, begun.asked))
        self._note(begun)
        return begun, {}

    def _begin(self, key: str, asked: float) -> str:
        """The id of a new upload. One whose answer was lost must not stay open."""
        lost = False

        def begin() -> str:
            nonlocal lost
            if lost:
                self._abort_unanswered(asked)
            lost = True
            return self._uploads.store.begin_parts(key).upload

        return self._uploads.tries.call("CreateMultipartUpload", begin)

    def _abort_unanswered(self, asked: float) -> None:
        for upload in self._uploads.store.open_parts(self._uploads.key(self._entry.key), asked - _CLOCKS):
            self._abort(upload)

    def _note(self, begun: Begun) -> None:
        """Replaced whole: half a record would forget the upload."""
        self._record.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._record.with_name(f"{self._record.name}.{os.getpid()}")
        fresh.write_bytes(msgspec.json.encode(begun))
        fresh.replace(self._record)

    def _list(self, upload: Multipart) -> list[Part]:
        with self._uploads.store.part_errors("ListParts", upload.key):
            return upload.parts()

    def _piece(self, number: int) -> None:
        try:
            if self._error is None:
                self._send(number)
        except Exception as error:
            self._error = self._error or error
        self._crew.check()
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._end()

    def _send(self, number: int) -> None:
        start = (number - 1) * self._begun.part_size
        size = min(self._begun.part_size, self._begun.size - start)
        part = self._same(self._there.get(number), start, size)
        if part is None:
            part = self._put(number, start, size)
            self._crew.moved(size)
        with self._lock:
            self._sent.append(part)

    def _put(self, number: int, start: int, size: int) -> Part:
        """Send a part; again where it came to S3 spoilt while the file is what it was."""
        for tries_left in reversed(range(_SPOILT)):
            digest = self._digest("sha256", start, size)
            try:
                with self._uploads.store.part_errors("UploadPart", self._entry.key):
                    return self._upload.put(number, self._file, start, size, digest)
            except CloudError as error:
                self._refuse_changed()
                if not tries_left or not is_spoilt(error):
                    raise
            except SourceChanged:
                self._refuse_changed()
                raise
        raise AssertionError("unreachable")

    def _same(self, part: Part | None, start: int, size: int) -> Part | None:
        """The part where S3 has these bytes already: by its checksum, or by MD5 where it lists none."""
        if part is None or part.size != size:
            return None
        checksum = _checksum(self._digest("sha256", start, size))
        if part.checksum:
            return part if part.checksum == checksum else None
        if part.etag.strip('"') != self._digest("md5", start, size).hexdigest():
            return None
        return part._replace(checksum=checksum)

    def _digest(self, algorithm: str, start: int, size: int) -> Any:
        digest = hashlib.new(algorithm, usedforsecurity=False)
        for at in range(start, start + size, etags.MIB):
            digest.update(os.pread(self._file, min(etags.MIB, start + size - at), at))
        return digest

    def _end(self) -> None:
        try:
            if self._error is not None:
                raise self._error
            self._refuse_changed()
            etag = self._complete()
            self._uploads.arrived(self._entry, etag)
            self._record.unlink(missing_ok=True)
        except Exception as error:
            with contextlib.suppress(Exception):  # what failed first is what the user must hear of
                self._abort(self._upload)
                self._record.unlink(missing_ok=True)  # else the next transfer goes on with it
            self._crew.fail(self._entry.key, error)
        finally:
            os.close(self._file)

    def _complete(self) -> str:
        ours = [part.etag.strip('"') for part in sorted(self._sent)]
        expected = ""
        if all(etags.parts_of(one) == 1 for one in ours):
            expected = etags.of_parts(bytes.fromhex(one) for one in ours)
        etag = self._uploads.tries.call("CompleteMultipartUpload", lambda: self._put_together(expected))
        if expected and etags.parts_of(etag) == len(ours) and etag != expected:
            raise Damaged(f"{self._entry.key} arrived damaged", why="S3 put other parts together")
        return etag

    def _put_together(self, expected: str) -> str:
        """Complete the upload. Where it is gone, its answer may have been lost: then the object is there."""
        try:
            with self._uploads.store.part_errors("CompleteMultipartUpload", self._entry.key):
                return self._upload.complete(self._sent, self._condition())
        except (NotFound, Conflict) as error:
            there = self._uploads.store.head(self._uploads.key(self._entry.key))
            if expected and there.etag == expected:
                return there.etag
            if isinstance(error, Conflict):
                raise _overtaken(self._entry.key) from None
            raise

    def _condition(self) -> dict[str, str]:
        there = self._uploads.expected(self._entry.key)
        if there is None:
            return {}
        return {"If-Match": f'"{there}"'} if there else {"If-None-Match": "*"}

    def _refuse_changed(self) -> None:
        status = os.fstat(self._file)
        if (status.st_size, status.st_mtime_ns) != (self._begun.size, self._begun.modified):
            raise Changed(
                f"{self._entry.key} changed while it was sent",
                next="give the command again when it is at rest",
            )

    def _abort(self, upload: Multipart) -> None:
        with self._uploads.store.part_errors("AbortMultipartUpload", upload.key):
            upload.abort()

    def _say(self, text: str) -> None:
        self._uploads.emit(Notice(text=text, warning=True))


class _State(msgspec.Struct, frozen=True):
    size: int
    modified: int


def _read(path: Path) -> tuple[_State, bytes]:
    """A file's bytes in one state. Raises Changed where it would not hold still, OSError."""
    for _ in range(3):
        with path.open("rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            data = file.readall()
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) and len(
            data
        ) == after.st_size:
            return _State(after.st_size, after.st_mtime_ns), data
    raise Changed(f"{path.name} changed while it was read", next="give the command again when it is at rest")


def _overtaken(name: str) -> Conflict:
    return Conflict(f"{name} was changed in S3 meanwhile", next="give the command again")


def _proves(proof: Proof, data: bytes) -> bool:
    digest = {"sha256": hashlib.sha256, "md5": hashlib.md5}.get(proof.algorithm)
    return digest is not None and digest(data).hexdigest() == proof.expected


def _checksum(digest: Any) -> str:
    return base64.b64encode(digest.digest()).decode()
