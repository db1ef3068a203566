"""Whether what came of an object is what S3 keeps a checksum of, as far as the standard library can tell."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from typing import Any, Callable, Iterator, NamedTuple

from .objects import composite

ALGORITHMS = ("sha256", "crc32")
"""Of S3's own checksums, those that a machine can compute; ETags come beside them."""

_READ = 4 * 1024 * 1024


class Proof(NamedTuple):
    """`expected` is a digest of the whole in hex or, with a `part_size` in bytes, what S3 makes of the parts.

    `algorithm` is sha256, crc32, or md5 for an ETag.
    """

    algorithm: str
    expected: str
    part_size: int = 0


def proves(proof: Proof, data: memoryview) -> bool:
    """Whether these bytes are the object's."""
    return _proves(proof, len(data), lambda length, at: data[at : at + length])


def proves_file(proof: Proof, file: int, size: int) -> bool:
    """Whether an open file of `size` bytes is the object. Raises OSError."""
    return _proves(proof, size, lambda length, at: os.pread(file, length, at))


def _proves(proof: Proof, size: int, read: Callable[[int, int], Any]) -> bool:
    if not proof.part_size:
        return _digest(proof.algorithm, read, 0, size).hex() == proof.expected
    parts = [
        _digest(proof.algorithm, read, at, min(proof.part_size, size - at))
        for at in range(0, size, proof.part_size)
    ]
    if proof.algorithm == "md5":
        return composite(parts) == proof.expected
    joined = b"".join(parts)
    of_all = _digest(proof.algorithm, lambda length, at: joined[at : at + length], 0, len(joined))
    return "%s-%d" % (base64.b64encode(of_all).decode(), len(parts)) == proof.expected


def _digest(algorithm: str, read: Callable[[int, int], Any], start: int, length: int) -> bytes:
    if algorithm == "crc32":
        value = 0
        for chunk in _chunks(read, start, length):
            value = zlib.crc32(chunk, value)
        return value.to_bytes(4, "big")
    digest = hashlib.new(algorithm)
    for chunk in _chunks(read, start, length):
        digest.update(chunk)
    return digest.digest()


def _chunks(read: Callable[[int, int], Any], start: int, length: int) -> Iterator[Any]:
    at, end = start, start + length
    while at < end:
        chunk = read(min(_READ, end - at), at)
        if not chunk:
            return  # shorter than it should be: no digest will fit
        yield chunk
        at += len(chunk)
