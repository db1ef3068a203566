"""One large file on its way to the bucket, in parts, of which some may be there already."""

from __future__ import annotations

import base64
import hashlib
import threading
from typing import IO, Any, Callable, List, Optional, Union

from .failures import SourceChanged, StoreAway, StoreRefused
from .files import chunks_of
from .multipart import MOST_PARTS, Multipart, Part
from .placed import Placed, ToPut
from .s3 import Bucket

IN_PARTS_FROM = 16 * 1024 * 1024
"""Bytes of a file that goes in parts."""
PART = 8 * 1024 * 1024
_USUAL_PARTS = 2000
"""A file that is cut in more pieces is cut in larger ones: each costs a request."""
_DIGEST = 32
_SPOILT = 3
"""How often a part is sent that comes to the store spoilt, as these tell:"""
_SPOILT_CODES = ("BadDigest", "XAmzContentSHA256Mismatch")


class InParts:
    """Hashes the parts of a file, several at once, and sends each as soon as it is known to be another."""

    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        item: ToPut,
        file: IO[bytes],
        size: int,
        submit: Callable[..., Any],
        end: Callable[[Union[Placed, BaseException]], None],
    ) -> None:
        """`submit` gives a function and its arguments to threads; `end` is called once, in one of them."""
        self._bucket = bucket
        self._prefix = prefix
        self._item = item
        self._file = file.fileno()
        self._size = size
        self._submit = submit
        self._end = end
        self._base = item.base if item.base is not None and _can_be_base(item.base, size) else None
        self._part = self._base.part if self._base is not None else part_size(size)
        self._count = -(-size // self._part)
        self._digests: List[bytes] = [b""] * self._count
        self._sent: List[Optional[Part]] = [None] * self._count
        self._same: List[int] = []  # parts that the base has, found before one that it has not
        self._copies = True
        self.upload: Optional[Multipart] = None
        self._beginning = threading.Lock()
        self._lock = threading.Lock()
        self._left = 0
        self._fault: Optional[BaseException] = None

    def begin(self) -> None:
        self._give(self._look, list(range(self._count)))

    def stop(self) -> None:
        """Begin no further part; what came of it is an error then."""
        with self._lock:
            self._fault = self._fault or StoreAway("given up")

    def _give(self, work: Callable[[int], None], numbers: List[int]) -> None:
        self._left = len(numbers)
        for number in numbers:
            self._submit(self._do, work, number)

    def _do(self, work: Callable[[int], None], number: int) -> None:
        try:
            if self._fault is None:
                work(number)
        except BaseException as error:
            with self._lock:
                self._fault = self._fault or error
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._go_on()

    def _look(self, number: int) -> None:
        digest = self._hash(number, hashlib.sha256())
        own = self._digests[number] = digest.digest()
        if self._base is None or _piece(self._base.parts, number) != own:
            self._put(number, digest)
            return
        with self._lock:
            if self.upload is None:
                self._same.append(number)
                return
        self._copy(number)

    def _go_on(self) -> None:
        """Every part that was given out is done with."""
        try:
            if self._fault is not None:
                raise self._fault
            if self.upload is None and self._base is not None and self._is_unchanged():
                self._item.done()
                self._end(self._base)
            elif self._same:
                same, self._same = self._same, []
                self._give(self._copy, same)
            else:
                self._end(self._complete())
        except BaseException as error:
            self._give_up()
            self._end(error)

    def _is_unchanged(self) -> bool:
        assert self._base is not None  # noqa: S101 (asked by its only caller)
        return self._size == self._base.size and len(self._same) == self._count

    def _complete(self) -> Placed:
        self._item.done()
        parts = [part for part in self._sent if part is not None]
        self._begun().complete(parts)
        told = b"".join(self._digests)
        return Placed(self._item.at, self._size, hashlib.sha256(told).hexdigest(), self._part, told)

    def _give_up(self) -> None:
        if self.upload is not None:
            try:
                self.upload.abort(tries=1)
            except (StoreAway, StoreRefused):
                pass  # the bucket's own rule removes torn uploads

    def _copy(self, number: int) -> None:
        """Let S3 take a part from the base; where it cannot, or has others there, it is sent."""
        assert self._base is not None  # noqa: S101 (there is no part of it otherwise)
        start = number * self._part
        if self._copies:
            try:
                source = self._prefix + self._base.at
                part = self._begun().copy(number + 1, source, start, self._length(number))
                if self._proves(part, number):
                    checksum = base64.b64encode(self._digests[number]).decode()
                    self._sent[number] = part._replace(checksum=checksum)
                    return
            except StoreRefused:  # the store knows no such copies, or the base is gone
                self._copies = False
        self._put(number, self._hash_again(number))

    def _proves(self, part: Part, number: int) -> bool:
        """Whether S3 took what was wanted, by its SHA-256, else by the MD5 that its ETag may be."""
        if part.checksum:
            return part.checksum == base64.b64encode(self._digests[number]).decode()
        md5 = self._hash(number, hashlib.md5())  # noqa: S324 (S3's own form)
        return part.etag.strip('"') == md5.hexdigest()

    def _put(self, number: int, digest: Any) -> None:
        """Send a part; again if it came to the store spoilt while the file is what it was."""
        start, length = number * self._part, self._length(number)
        for tries_left in reversed(range(_SPOILT)):
            try:
                self._sent[number] = self._begun().put(number + 1, self._file, start, length, digest)
                return
            except StoreRefused as error:
                self._hash_again(number)
                if not tries_left or not any(code in str(error) for code in _SPOILT_CODES):
                    raise

    def _hash_again(self, number: int) -> Any:
        """The SHA-256 of a part that was hashed before. Raises SourceChanged if it is another one now."""
        digest = self._hash(number, hashlib.sha256())
        if digest.digest() != self._digests[number]:
            raise SourceChanged("it was written to while it was sent")
        return digest

    def _begun(self) -> Multipart:
        with self._beginning:
            if self.upload is None:
                self.upload = Multipart.begin(self._bucket, self._prefix + self._item.at)
            return self.upload

    def _length(self, number: int) -> int:
        return min(self._part, self._size - number * self._part)

    def _hash(self, number: int, digest: Any) -> Any:
        for chunk in chunks_of(self._file, number * self._part, self._length(number)):
            digest.update(chunk)
        return digest


def part_size(size: int) -> int:
    """How many bytes each part but the last has, of a file that the store has no version of."""
    return PART * max(1, -(-size // (PART * _USUAL_PARTS)))


def _can_be_base(base: Placed, size: int) -> bool:
    return base.part > 0 and bool(base.parts) and -(-size // base.part) <= MOST_PARTS


def _piece(parts: bytes, number: int) -> bytes:
    return parts[number * _DIGEST : (number + 1) * _DIGEST]
