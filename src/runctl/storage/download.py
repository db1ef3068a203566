"""Objects to files: each proven under a temporary name, then renamed; no part is fetched twice."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runctl.errors import Conflict, TransferError
from runctl.events import Emit, Notice
from runctl.links import refuse_brought
from runctl.storage import digests, durable, etags, spelling
from runctl.storage.bulk import BulkStore, Proof
from runctl.storage.crew import Crew, Piece, reason
from runctl.storage.entries import Entry
from runctl.storage.memory import Memory
from runctl.storage.objects import PARTIAL_PREFIX, inside, sync
from runctl.storage.partial import Header, PartialFile, write_at
from runctl.storage.tries import Damaged, Tries

PIECE = 8 * etags.MIB
"""Bytes: what is bigger is fetched in parts."""

_FEW = 32
"""Small files: more are put on the disk all at once, when they are there (ADR 17)."""
_STRETCH = 16 * etags.MIB
_ANEW = 3
"""How often a file that came damaged, or changed on the way, is fetched anew."""


class Downloads:
    """Fetches entries of a store to where `target` says, as pieces for a crew.

    With `only_if` a file is replaced only while it is the one that is named there, and made only where there
    is none. `memory` is told of each file that arrived.
    """

    def __init__(
        self,
        store: BulkStore,
        root: Path,
        crew: Crew,
        *,
        target: Callable[[str], Path],
        verify: bool = True,
        only_if: Mapping[str, Entry] | None = None,
        memory: Memory | None = None,
        emit: Emit,
    ) -> None:
        self._store = store
        self._root = root
        self.crew = crew
        self._target = target
        self.verify = verify
        self._only_if = only_if
        self._memory = memory
        self.tries = Tries(emit)
        self.emit = emit
        self._folders: set[Path] = set()
        self._open: set[_Parts] = set()
        self._names = itertools.count()
        self._one_by_one = True

    def pieces(self, missing: Iterable[Entry], doubtful: Iterable[Entry]) -> Iterator[Piece]:
        """What there is to do, big files first."""
        missing, doubtful = list(missing), list(doubtful)
        self._one_by_one = len(missing) + len(doubtful) <= _FEW
        names = None if spelling.tells_case_apart(self._root) else spelling.Spelling(self._root)
        for entry in sorted(missing, key=lambda item: -item.size):
            if names is not None and not self._has_its_name(entry, names):
                continue
            if entry.size > PIECE:
                yield from self._parts(entry)
            else:
                yield self.crew.guarded(entry, self._whole)
        for entry in doubtful:
            yield self.crew.guarded(entry, self._compare)

    def leave(self) -> None:
        """Close what is in flight and keep it for the next time."""
        for parts in list(self._open):
            parts.file.close()

    def put_on_disk(self) -> None:
        """What arrived outlives a power cut from now on. Raises TransferError."""
        if not self.crew.moved_files:
            return
        try:
            if not self._one_by_one:
                durable.sync_disk(self._root)
                return
            for folder in self._folders:
                sync(folder)
        except OSError as error:
            raise TransferError(f"Cannot put {self._root} on the disk", why=reason(error)) from error

    def _has_its_name(self, entry: Entry, names: spelling.Spelling) -> bool:
        try:
            names.claim(self._target(entry.key).relative_to(self._root).as_posix())
        except Conflict as error:
            self.crew.fail(entry.key, error)
            return False
        return True

    def _place(self, key: str) -> Path:
        """Where a key goes; its folder is there and does not lead out of the root."""
        path = self._target(key)
        if path.parent not in self._folders:
            inside(self._root, path.relative_to(self._root).as_posix())
            refuse_brought(path.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        return path

    def _whole(self, entry: Entry) -> None:
        path = self._place(entry.key)
        self.arrived(self.tries.call("GetObject", lambda: self._fetch(entry.key, path)))

    def arrived(self, entry: Entry) -> None:
        """The file is what the object is."""
        if self._memory is not None:
            self._memory.note(entry.key, entry.size, entry.modified, entry.etag)
        self.crew.done()

    def refuse_changed(self, key: str, path: Path) -> None:
        """Raises Conflict where the file is not what it was when the transfer was planned."""
        if self._only_if is None:
            return
        planned = self._only_if.get(key)
        try:
            status = path.lstat()
        except FileNotFoundError:
            status = None
        if planned is None and status is None:
            return
        if planned and status and stat.S_ISLNK(status.st_mode):
            status = path.stat()
        if (
            planned is None
            or status is None
            or (planned.size, planned.modified) != (status.st_size, status.st_mtime_ns)
        ):
            raise Conflict(f"{key} was changed here meanwhile", next="give the command again")

    def _fetch(self, key: str, path: Path) -> Entry:
        body = self._store.fetch(key)
        if self.verify and not self._is_whole(key, body.data, body.etag):
            raise Damaged(f"{key} came damaged", why="its bytes are not those that S3 has a checksum of")
        partial = f"{path.parent}/{PARTIAL_PREFIX}{os.getpid()}.{next(self._names)}"
        file = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            try:
                _write(file, body.data)
                os.utime(file, ns=(body.modified, body.modified))
                if self._one_by_one:
                    os.fsync(file)
            finally:
                os.close(file)
            self.refuse_changed(key, path)
            os.replace(partial, path)  # noqa: PTH105 (thousands of them: a Path costs more than the call)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)  # noqa: PTH108
            raise
        self.crew.moved(len(body.data))
        return Entry(key, len(body.data), body.modified, body.etag)

    def _is_whole(self, key: str, data: object, etag: str) -> bool:
        view = memoryview(data)  # pyright: ignore[reportArgumentType]
        if etags.parts_of(etag) == 1 and hashlib.md5(view, usedforsecurity=False).hexdigest() == etag:
            return True
        # With a key of KMS an ETag looks like an MD5 and is none: S3 tells.
        proof = self._store.proof(key, len(view), etag)
        if not proof.algorithm:
            return True
        if not proof.part_size:
            return _digest(proof.algorithm, view).hex() == proof.expected
        starts = range(0, len(view), proof.part_size)
        parts = [_digest(proof.algorithm, view[start : start + proof.part_size]) for start in starts]
        return proof.holds(parts, len(view), proof.part_size)

    def _compare(self, entry: Entry) -> None:
        """Same size, another time: the content tells."""
        path = self._place(entry.key)
        if etags.matches(path, entry.size, entry.etag):
            os.utime(path, ns=(entry.modified, entry.modified))
            self.crew.equal()
        elif entry.size > PIECE:
            for piece in self._parts(entry):
                piece()
        else:
            self._whole(entry)

    def _parts(self, entry: Entry) -> Iterator[Piece]:
        try:
            parts = _Parts(self, self._store, entry, self._place(entry.key))
        except Exception as error:
            self.crew.fail(entry.key, error)
            return
        self._open.add(parts)
        parts.when_over = functools.partial(self._open.discard, parts)
        yield from parts.pieces()


class _Parts:
    """One big file. The piece that ends last proves it and gives it its name."""

    def __init__(self, downloads: Downloads, store: BulkStore, entry: Entry, path: Path) -> None:
        self._downloads = downloads
        self._store = store
        self._entry = entry
        self._crew = downloads.crew
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self.when_over: Callable[[], None] = lambda: None
        free = shutil.disk_usage(path.parent).free
        self._proof = self._proof_of(entry)
        self.file = PartialFile(path, self._header(entry))
        if self.file.began_anew:
            self._say(f"{entry.key} changed since its transfer was interrupted: it starts anew")
        elif not self.file.digests and free < entry.size:
            self.file.discard()
            raise TransferError(
                f"The disk is too full for {path.name}", why=f"{entry.size} bytes, and {free} are free"
            )
        self._left = max(1, self._count())

    def pieces(self) -> Iterator[Piece]:
        for number in range(self._left):
            yield functools.partial(self._piece, number)

    def _piece(self, number: int) -> None:
        try:
            if self._error is None and not self.file.is_there(number):
                self._downloads.tries.call("GetObject", lambda: self._fetch(number))
        except Exception as error:
            self._error = self._error or error
        self._crew.check()
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._end()

    def _fetch(self, number: int) -> None:
        header = self.file.header
        at = start = number * header.part_size
        length = min(header.part_size, header.size - start)
        digest = digests.new(header.algorithm)

        def take(piece: memoryview) -> None:
            nonlocal at
            digest.update(piece)
            at += write_at(self.file.file, piece, at)
            self._crew.moved(len(piece))

        self._store.receive(self._entry.key, start, length, header.etag, take)
        self.file.note(number, digest.digest())

    def _end(self) -> None:
        try:
            self._prove_or_fetch_anew()
            self.file.finish(self._entry.modified, check=self._check)
            self._downloads.arrived(self._entry)
        except Exception as error:
            self.file.discard()
            self._crew.fail(self._entry.key, error)
        finally:
            self.when_over()

    def _check(self) -> None:
        self._downloads.refuse_changed(self._entry.key, self.file.target)

    def _prove_or_fetch_anew(self) -> None:
        for _ in range(_ANEW):
            if isinstance(self._error, Conflict):
                self._say(f"{self._entry.key} changed while it was fetched: it starts anew")
                self._entry = self._store.head(self._entry.key)
                self._proof = self._proof_of(self._entry)
            elif self._error is not None:
                raise self._error
            elif self._is_whole():
                return
            else:
                self._say(f"{self._entry.key} came damaged: it is fetched anew")
            self._again()
        if self._error is not None:
            raise self._error
        if not self._is_whole():
            raise Damaged(f"{self._entry.key} came damaged", why=f"{1 + _ANEW} times")

    def _again(self) -> None:
        self._error = None
        self.file.begin(self._header(self._entry))
        for number in range(self._count()):
            try:
                self._downloads.tries.call("GetObject", functools.partial(self._fetch, number))
            except Conflict as error:
                self._error = error
                return

    def _is_whole(self) -> bool:
        proof, header = self._proof, self.file.header
        if not self._downloads.verify or not proof.algorithm:
            return True
        if self._inline:
            parts = [self.file.digests[number] for number in range(self._count())]
            return proof.holds(parts, header.size, header.part_size)
        return file_proves(proof, self.file.data_path, header.size)

    @property
    def _inline(self) -> bool:
        return self._downloads.verify and self._proof.while_it_comes

    def _proof_of(self, entry: Entry) -> Proof:
        if not self._downloads.verify:
            return Proof("", "")
        return self._downloads.tries.call(
            "HeadObject", lambda: self._store.proof(entry.key, entry.size, entry.etag)
        )

    def _header(self, entry: Entry) -> Header:
        part_size = self._proof.part_size if self._proof.while_it_comes else 0
        return Header(
            entry.etag, entry.size, part_size or _STRETCH, self._proof.algorithm if self._inline else ""
        )

    def _count(self) -> int:
        return -(-self.file.header.size // self.file.header.part_size)

    def _say(self, text: str) -> None:
        self._downloads.emit(Notice(text=text, warning=True))


def file_proves(proof: Proof, path: Path, size: int) -> bool:
    """Whether a file of `size` bytes is what the proof speaks of. Raises OSError."""
    if proof.algorithm == "md5":
        return bool(etags.matches(path, size, proof.expected))
    if proof.part_size:
        parts = list(etags.digests(path, size, proof.part_size, proof.algorithm))
        return proof.holds(parts, size, proof.part_size)
    whole = next(etags.digests(path, size, size, proof.algorithm)) if size else _digest(proof.algorithm, b"")
    return whole.hex() == proof.expected


def _digest(algorithm: str, data: Any) -> bytes:
    digest = digests.new(algorithm)
    digest.update(data)
    return digest.digest()


def _write(file: int, data: object) -> None:
    left = memoryview(data)  # pyright: ignore[reportArgumentType]
    while left:
        left = left[os.write(file, left) :]
