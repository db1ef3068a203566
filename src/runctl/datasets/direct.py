"""Objects straight from S3: every read is of the very object that was listed, big ones come in parallel."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from runctl.errors import ConfigError, Conflict
from runctl.events import ignore
from runctl.storage import digests, etags
from runctl.storage.entries import Entry
from runctl.storage.partial import write_at
from runctl.storage.tries import Tries

if TYPE_CHECKING:
    from runctl.events import Emit
    from runctl.storage.bulk import BulkStore
    from runctl.storage.s3 import S3Access

T = TypeVar("T")
PIECE = 8 * etags.MIB
"""Bytes: what is longer is read in pieces at once."""
FILL = 16 * etags.MIB
"""Bytes: a file is filled in pieces of so many at once."""
READ_AHEAD = 4
"""Pieces of one stream that are on their way at once."""

_used_in = 0
"""The process that has used the S3 client, whose threads a fork does not take along."""


class Filled(NamedTuple):
    """What was written into a file: bytes, and their CRC in hex."""

    size: int
    crc: str


class DirectS3:
    """Reads the objects below a prefix; `parallel` requests at once. Thread-safe; usable in a forked process
    as long as nothing was read before the fork. `emit` is told of retries.

    Reads raise Conflict where an object is not the one that was listed, NotFound, ConfigError, CloudError.
    """

    def __init__(
        self, bucket: str, prefix: str, access: S3Access, *, parallel: int = 16, emit: Emit | None = None
    ) -> None:
        self.bucket, self.prefix, self.access = bucket, prefix, access
        self.parallel = parallel
        self._tries = Tries(emit or ignore)
        self._pid = 0
        self._made: BulkStore | None = None
        self._pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return (_again, (self.bucket, self.prefix, self.access, self.parallel))

    @property
    def place(self) -> str:
        """The bucket, as a folder of a cache is named."""
        from hashlib import blake2b

        endpoint = self.access.endpoint
        suffix = f"@{blake2b(endpoint.encode(), digest_size=4).hexdigest()}" if endpoint else ""
        return f"{self.bucket}{suffix}"

    def list(self) -> Iterator[Entry]:
        """What there is, in order of key. The process may be forked afterwards."""
        return self._store().entries()

    def start(self, entry: Entry, start: int, length: int) -> Callable[[], bytes]:
        """Begin to read; the answer waits for the bytes."""
        return self.submit(lambda: self.read(entry, start, length)).result

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have a thread do it."""
        return self._threads()[0].submit(work)

    def read(self, entry: Entry, start: int = 0, length: int | None = None) -> bytes:
        """An object, or `length` bytes of it from `start` on."""
        length = entry.size - start if length is None else length
        if length <= PIECE:
            return self._piece(entry, start, length)
        return b"".join(self.stream(entry, start, length))

    def stream(self, entry: Entry, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The same in pieces of up to 8 MiB, of which at most five are held in memory."""
        end = entry.size if length is None else start + length
        pool = self._threads()[1]
        coming: deque[Future[bytes]] = deque()
        at = start
        try:
            while at < end or coming:
                while at < end and len(coming) < READ_AHEAD:
                    coming.append(pool.submit(self._piece, entry, at, min(PIECE, end - at)))
                    at += PIECE
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()

    def read_alone(self, entry: Entry) -> bytes:
        """A small object, through a client of its own: the process may be forked afterwards."""
        from runctl.storage.requests import Requests

        requests = Requests(self.bucket, self.access)
        path = f"{self.prefix}/{entry.key}" if self.prefix else entry.key
        try:
            with requests.errors("GetObject", entry.key):
                headers, data = requests.client.ask("GET", path)[1:]
        finally:
            requests.close()
        if headers.get("etag", "").strip('"') != entry.etag or len(data) != entry.size:
            raise self._changed(entry)
        return data

    def crc(self, entry: Entry) -> tuple[str, str]:
        """The CRC that S3 keeps of an object's bytes, by its name and in hex; empty where it keeps none."""
        proof = self._tries.call(
            "HeadObject", lambda: self._reading().proof(entry.key, entry.size, entry.etag)
        )
        whole = proof.algorithm in digests.CRCS and not proof.part_size
        return (proof.algorithm, proof.expected) if whole else ("", "")

    def fill(self, entry: Entry, file: int, crc: str) -> Filled:
        """Write an object into a file; `crc` names the CRC that is taken of it meanwhile, if any."""

        def move(start: int) -> tuple[bytes, int]:
            length = min(FILL, entry.size - start)
            return self._tries.call("GetObject", lambda: self._move(entry, file, start, length, crc))

        pieces = list(self._threads()[1].map(move, range(0, entry.size, FILL)))
        return Filled(sum(size for _, size in pieces), digests.of_whole(crc, pieces).hex() if crc else "")

    def _move(self, entry: Entry, file: int, start: int, length: int, crc: str) -> tuple[bytes, int]:
        """The CRC and the bytes of what was written."""
        digest, at = digests.new(crc), start

        def take(piece: memoryview) -> None:
            nonlocal at
            digest.update(piece)
            at += write_at(file, piece, at)

        self._reading().receive(entry.key, start, length, entry.etag, take)
        return digest.digest(), at - start

    def proves(self, entry: Entry, path: Path) -> bool:
        """Whether S3 has nothing against these bytes, where the ETag alone did not fit. Costs a request."""
        from runctl.storage.download import file_proves

        proof = self._tries.call(
            "HeadObject", lambda: self._reading().proof(entry.key, entry.size, entry.etag)
        )
        return not proof.algorithm or file_proves(proof, path, entry.size)

    def close(self) -> None:
        """End the threads and connections. What is read later makes new ones."""
        if self._made is not None:
            self._made.close()
        pools, self._pools = self._pools, None
        for pool in pools or ():
            pool.shutdown(wait=False, cancel_futures=True)

    def _piece(self, entry: Entry, start: int, length: int) -> bytes:
        store = self._reading()
        if not length:
            return b""

        def get() -> bytes:
            if length != entry.size:
                return store.read_range(entry.key, start, length, etag=entry.etag)
            body = store.fetch(entry.key)
            if body.etag != entry.etag or len(body.data) != entry.size:
                raise self._changed(entry)
            return bytes(body.data)

        return self._tries.call("GetObject", get)

    def _changed(self, entry: Entry) -> Conflict:
        return Conflict(
            f"{entry.key} was changed by somebody else",
            why=f"s3://{self.bucket}/{self.prefix} is not what it was when it was opened",
            next="open the dataset anew",
        )

    def _store(self) -> BulkStore:
        if self._made is None:
            from runctl.storage.bulk import BulkStore

            self._made = BulkStore(self.bucket, self.prefix, self.access)
        return self._made

    def _reading(self) -> BulkStore:
        global _used_in  # noqa: PLW0603 (the client's threads belong to the process)
        pid = os.getpid()
        if _used_in != pid:
            if _used_in:
                raise ConfigError(
                    "A forked process cannot read from S3 after its parent has",
                    why="the threads that read did not come along, and it would hang",
                    next='read nothing before that, or give the DataLoader multiprocessing_context="spawn"',
                )
            _used_in = pid
        return self._store()

    def _threads(self) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
        """For objects, and for the pieces of objects, on which the first ones wait."""
        pid = os.getpid()
        if self._pools is None or self._pid != pid:
            self._pid = pid
            self._pools = (
                ThreadPoolExecutor(self.parallel, "objects"),
                ThreadPoolExecutor(max(READ_AHEAD, self.parallel // 2), "pieces"),
            )
        return self._pools


def _again(bucket: str, prefix: str, access: S3Access, parallel: int) -> DirectS3:
    return DirectS3(bucket, prefix, access, parallel=parallel)
