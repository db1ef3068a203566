"""Files of a snapshot on their way to the bucket: many at once, large ones in parts over many connections.

Of a large file that the bucket has in an earlier version, only the parts that differ are sent; S3 copies the
others by itself. Each part counts with S3's own SHA-256 of it.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Callable, Iterator, List, NamedTuple, Optional, Sequence, Set, Union

from . import packs
from .failures import OutOfTime, SourceChanged, StoreAway, StoreRefused
from .files import chunks_of
from .in_parts import IN_PARTS_FROM, InParts
from .multipart import Multipart
from .placed import Outcome, Placed, ToPut
from .s3 import TRIES, Bucket

CONNECTIONS = 24
_MOST = 2 * CONNECTIONS
"""Files that are open for sending at once."""
_MOST_PACKS = 8
"""Packs that are being sent at once: they are in memory."""
_WAITING = 4
"""Connections that stay open for what comes next."""
_WATCHED = 0.1
"""Real seconds between two questions whether the time is over."""
_OWN_FAULTS = (OSError, SourceChanged, StoreRefused)
_Result = Union[Placed, Exception]


class _Packed(NamedTuple):
    number: int
    size: int
    digest: str


class Outgoing:
    """Sends files to places below `prefix`. Used once."""

    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        items: Sequence[ToPut],
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Once `is_over`, what is under way is broken off."""
        self._trunk = bucket
        self._bucket = bucket.branch()
        self._is_over = is_over
        self._over = False
        self._left: Set[int] = set(range(len(items)))  # of which nothing was told yet
        self._prefix = prefix
        self._items = items
        self._came: "queue.SimpleQueue[Union[List[Outcome], BaseException]]" = queue.SimpleQueue()
        self._under_way = 0
        self._stopping = False
        self._pack: List[_Packed] = []
        self._pack_data: List[bytes] = []
        self._pack_size = 0
        self._packs_left = threading.Semaphore(_MOST_PACKS)
        self._in_parts: List[InParts] = []
        self._torn: List[Multipart] = []  # that could not be given up, as all that is asked is broken off
        self._pool = ThreadPoolExecutor(CONNECTIONS, "store")

    def run(self) -> Iterator[Outcome]:
        """What comes of each file, as it comes: its trouble is its own. Raises StoreAway."""
        threading.Thread(target=self._watch, name="store-time", daemon=True).start()
        try:
            for number, outcome in self._outcomes():
                self._left.discard(number)
                yield number, outcome
        except OutOfTime:
            pass
        finally:
            self._stopping = True
            for one in self._in_parts:
                one.stop()
            self._pool.shutdown()  # what is being sent is read until then
            self._bucket.close(but=_WAITING)
            if self._torn:
                threading.Thread(target=self._tidy, name="store-tidy", daemon=True).start()
        for number in sorted(self._left):
            yield number, OutOfTime("there was no time left to send it")

    def _outcomes(self) -> Iterator[Outcome]:
        """Raises OutOfTime once it is over."""
        packing = len(self._items) >= packs.MANY
        for number in range(len(self._items)):
            if self._over:
                raise OutOfTime
            yield from self._begin(number, packing)
            while self._under_way >= _MOST or self._came.qsize():
                yield from self._next()
        self._send_pack()
        while self._under_way:
            yield from self._next()

    def _watch(self) -> None:
        """A request may hang for longer than there is time: whoever waits for it is told."""
        while not self._stopping:
            if self._is_over():
                self._over = True
                self._bucket.cut()
                self._came.put(OutOfTime())
                return
            time.sleep(_WATCHED)

    def _tidy(self) -> None:
        """Nobody waits for it: the bucket's own rule removes what is left of torn uploads."""
        for upload in self._torn:
            try:
                Multipart(self._trunk, upload.key, upload.upload).abort(tries=1)
            except (StoreAway, StoreRefused):
                return

    def _begin(self, number: int, packing: bool) -> Iterator[Outcome]:
        item = self._items[number]
        try:
            file, size = item.open()
            if packing and size <= packs.PACKED_UP_TO:
                yield from self._add_to_pack(number, file, size)
                return
        except _OWN_FAULTS as error:
            yield number, error
            return
        self._under_way += 1
        if size < IN_PARTS_FROM:
            self._submit(lambda: [(number, self._send(item, file, size))])
        else:
            self._send_in_parts(number, item, file, size)

    def _next(self) -> List[Outcome]:
        came = self._came.get()
        if isinstance(came, BaseException):
            if self._over and isinstance(came, StoreAway):
                raise OutOfTime
            raise came
        self._under_way -= 1
        return came

    def _submit(self, work: Callable[[], List[Outcome]]) -> None:
        def do() -> None:
            if self._stopping:
                return
            try:
                self._came.put(work())
            except BaseException as error:
                self._came.put(error)

        self._pool.submit(do)

    def _send(self, item: ToPut, file: IO[bytes], size: int) -> _Result:
        """Send a file in one piece."""
        try:
            digest = hashlib.sha256()
            for chunk in chunks_of(file.fileno(), 0, size):
                digest.update(chunk)
            if _is_same(item.base, size, digest.hexdigest()):
                item.done()
                return item.base  # type: ignore[return-value]
            self._bucket.put_slice(self._prefix + item.at, {}, file.fileno(), 0, size, digest, TRIES)
            item.done()
            return Placed(item.at, size, digest.hexdigest())
        except _OWN_FAULTS as error:
            return error

    def _send_in_parts(self, number: int, item: ToPut, file: IO[bytes], size: int) -> None:
        def end(outcome: Union[Placed, BaseException]) -> None:
            del self._in_parts[self._in_parts.index(sending)]
            if self._over and isinstance(outcome, StoreAway):
                outcome = OutOfTime()
                if sending.upload is not None:
                    self._torn.append(sending.upload)
            is_own = isinstance(outcome, (Placed, *_OWN_FAULTS))
            self._came.put([(number, outcome)] if is_own else outcome)  # type: ignore[list-item, arg-type]

        sending = InParts(self._bucket, self._prefix, item, file, size, self._pool.submit, end)
        self._in_parts.append(sending)
        sending.begin()

    def _add_to_pack(self, number: int, file: IO[bytes], size: int) -> Iterator[Outcome]:
        item = self._items[number]
        data = b"".join(chunks_of(file.fileno(), 0, size))
        item.done()
        digest = hashlib.sha256(data).hexdigest()
        if _is_same(item.base, size, digest):
            yield number, item.base  # type: ignore[misc]
            return
        if self._pack_size + size > packs.LARGEST:
            self._send_pack()
        self._pack.append(_Packed(number, size, digest))
        self._pack_data.append(data)
        self._pack_size += size

    def _send_pack(self) -> None:
        if self._pack:
            self._packs_left.acquire()
            self._under_way += 1
            files, data = self._pack, b"".join(self._pack_data)
            self._pack, self._pack_data, self._pack_size = [], [], 0
            self._submit(lambda: self._pack_sent(files, data))

    def _pack_sent(self, files: List[_Packed], data: bytes) -> List[Outcome]:
        snapshot = self._items[files[0].number].at.split("/", 1)[0]
        place = packs.new_place(snapshot, len(data))
        try:
            self._bucket.put(self._prefix + place, data)
        except StoreRefused as error:
            return [(one.number, error) for one in files]
        finally:
            self._packs_left.release()
        placed: List[Outcome] = []
        offset = 0
        for one in files:
            placed.append((one.number, Placed(packs.place_in(place, offset), one.size, one.digest)))
            offset += one.size
        return placed


def _is_same(base: Optional[Placed], size: int, digest: str) -> bool:
    return base is not None and not base.part and (base.size, base.sha256) == (size, digest)
