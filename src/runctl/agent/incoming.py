"""Files of a snapshot on their way from the bucket: large ones by ranges over many connections, small ones
many at once. Each piece is proven as it comes; what is wrong is asked for again before it counts as wrong.
"""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from . import packs
from .failures import StoreRefused
from .multipart import TRIES_OF_A_PART
from .placed import CHANGED, MISSING, Fault, ToFetch
from .s3 import Bucket

CONNECTIONS = 24
_WAITING = 4
"""Connections that stay open for what comes next."""
_TRIES = 3
"""How often a piece is asked for that comes whole and wrong."""
_SPAN = 4 * 1024 * 1024
"""Bytes of a pack that are asked for at once, and how many may lie between two files that are wanted:"""
_GAP = 128 * 1024
_DIGEST = 32


class _Piece(NamedTuple):
    """What one request brings: bytes of objects to bytes of files, in order, each proven by its SHA-256.

    `start` is where in the object, `at` where in the file.
    """

    number: int
    path: str
    at: int
    start: int
    size: int
    sha256: bytes


class _Request(NamedTuple):
    place: str
    pieces: Tuple[_Piece, ...]


class Incoming:
    """Fetches files that lie below `prefix`. Used once."""

    def __init__(self, bucket: Bucket, prefix: str, items: Sequence[ToFetch]) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._requests = _requests(items)
        self._taking = threading.Lock()
        self._lock = threading.Lock()
        self._fault: Optional[Fault] = None
        self._ended = False

    def run(self) -> Optional[Fault]:
        """None once all is there and proven, else the first that is wrong. Raises StoreAway, StoreRefused,
        OSError."""
        with ThreadPoolExecutor(CONNECTIONS, "store") as pool:
            lanes = [pool.submit(self._work) for _ in range(CONNECTIONS)]
        self._bucket.close(but=_WAITING)
        for lane in lanes:
            lane.result()
        return self._fault

    def _work(self) -> None:
        try:
            while True:
                with self._taking:
                    request = None if self._ended else next(self._requests, None)
                if request is None:
                    return
                self._fetch(request)
        except BaseException:
            self._ended = True
            raise

    def _fetch(self, request: _Request) -> None:
        fault = self._ask(request)
        for _ in range(_TRIES - 1):
            if fault is None or fault.why == MISSING:
                break
            fault = self._ask(request)
        if fault is None:
            return
        self._ended = True
        with self._lock:
            self._fault = self._fault or fault

    def _ask(self, request: _Request) -> Optional[Fault]:
        """One request, and what is wrong with what came."""
        first, last = request.pieces[0], request.pieces[-1]
        size = last.start + last.size - first.start
        if not size:  # empty files: there is nothing to be asked for
            return _write(request.pieces, iter(()))
        came: List[Optional[Fault]] = [None]

        def into(chunks: Iterator[memoryview]) -> None:
            came[0] = _write(request.pieces, chunks)

        try:
            if not self._bucket.get_range(
                self._prefix + request.place, first.start, size, into, TRIES_OF_A_PART
            ):
                return Fault(first.number, MISSING)
        except StoreRefused as error:
            if "HTTP 416" in str(error):  # it is shorter
                return Fault(first.number, CHANGED)
            raise
        return came[0]


def _write(pieces: Sequence[_Piece], chunks: Iterator[memoryview]) -> Optional[Fault]:
    """Write what comes to where it belongs; what is wrong with it, if something is."""
    have = memoryview(b"")
    position = pieces[0].start
    for piece in pieces:
        file = os.open(piece.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            digest = hashlib.sha256()
            at, left = piece.at, piece.size
            while left:
                if not have:
                    have = next(chunks, memoryview(b""))
                    if not have:
                        return Fault(piece.number, CHANGED)
                if position < piece.start:
                    skipped = min(len(have), piece.start - position)
                    have, position = have[skipped:], position + skipped
                    continue
                part = have[:left]
                digest.update(part)
                _write_all(file, part, at)
                have = have[len(part) :]
                at, left, position = at + len(part), left - len(part), position + len(part)
        finally:
            os.close(file)
        if digest.digest() != piece.sha256:
            return Fault(piece.number, CHANGED)
    if have or next(chunks, None) is not None:
        return Fault(pieces[-1].number, CHANGED)
    return None


def _write_all(file: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(file, data, at)
        data, at = data[count:], at + count


def _requests(items: Sequence[ToFetch]) -> Iterator[_Request]:
    """Large files first, each part by itself; then packs, of which what is wanted comes together."""
    packed: Dict[str, List[_Piece]] = {}
    for index, (placed, path) in sorted(enumerate(items), key=lambda one: -one[1].placed.size):
        inside = packs.inside(placed.at)
        if inside is not None:
            piece = _Piece(index, path, 0, inside.offset, placed.size, bytes.fromhex(placed.sha256))
            packed.setdefault(inside.pack, []).append(piece)
        elif not placed.part:
            piece = _Piece(index, path, 0, 0, placed.size, bytes.fromhex(placed.sha256))
            yield _Request(placed.at, (piece,))
        else:
            for number, start in enumerate(range(0, placed.size, placed.part)):
                size = min(placed.part, placed.size - start)
                digest = placed.parts[number * _DIGEST : (number + 1) * _DIGEST]
                yield _Request(placed.at, (_Piece(index, path, start, start, size, digest),))
    for pack, pieces in packed.items():
        for span in _spans(pieces):
            yield _Request(pack, tuple(span))


def _spans(pieces: List[_Piece]) -> Iterator[List[_Piece]]:
    """Pieces of one object that are worth one request, in their order there; none lies in another."""
    span: List[_Piece] = []
    end = 0
    for piece in sorted(pieces, key=lambda one: (one.start, one.size)):
        far = span and (piece.start - end > _GAP or piece.start + piece.size - span[0].start > _SPAN)
        if far or piece.start < end:
            yield span
            span = []
        span.append(piece)
        end = piece.start + piece.size
    if span:
        yield span
