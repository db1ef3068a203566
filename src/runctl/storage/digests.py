"""The checksums that S3 keeps of objects, of a whole or of parts: S3 user guide, "Checking object integrity".

CRCs come from AWS's own library and zlib-ng at the speed of memory; MD5 takes a core for some Gbit/s.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

CRCS = ("crc64nvme", "crc32", "crc32c")
"""Those of them that are no hashes: they prove that nothing was damaged, not that nobody meddled."""
_CRC_BYTES = {"crc64nvme": 8, "crc32": 4, "crc32c": 4}


class Digest(Protocol):
    """As hashlib's objects."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class Checksum(msgspec.Struct, frozen=True):
    """What S3 keeps: in base 64; `parts` is how many parts it is made of, 0 for the bytes of the whole."""

    algorithm: str
    value: str
    parts: int = 0


def new(algorithm: str) -> Digest:
    """An empty digest of sha256, md5 or one of the CRCs; without an algorithm nothing is computed."""
    if not algorithm:
        return _Nothing()
    return _Crc(algorithm) if algorithm in CRCS else hashlib.new(algorithm, usedforsecurity=False)


def length(algorithm: str) -> int:
    """Bytes of a digest."""
    return _CRC_BYTES.get(algorithm) or hashlib.new(algorithm, usedforsecurity=False).digest_size


def of_headers(headers: Mapping[str, str], algorithms: Iterable[str] = ("sha256", *CRCS)) -> Checksum | None:
    """The checksum among an answer's headers, where there is one by an algorithm that can be computed."""
    for algorithm in algorithms:
        value, _, parts = headers.get(f"x-amz-checksum-{algorithm}", "").partition("-")
        if value:
            return Checksum(algorithm, value, int(parts) if parts.isdigit() else 0)
    return None


def of_whole(algorithm: str, parts: Iterable[tuple[bytes, int]]) -> bytes:
    """The digest of a whole from its parts' digests and lengths in bytes. CRCs alone can tell."""
    from awscrt import checksums

    combine = getattr(checksums, f"combine_{algorithm}")
    whole = 0
    for digest, size in parts:
        whole = combine(whole, int.from_bytes(digest), size)
    return whole.to_bytes(_CRC_BYTES[algorithm])


def of_digests(algorithm: str, digests: Iterable[bytes]) -> str:
    """A composite checksum: that of the parts' digests, one after the other, in base 64."""
    digest = new(algorithm)
    digest.update(b"".join(digests))
    return base64.b64encode(digest.digest()).decode()


def _function(algorithm: str) -> Callable[[bytes | memoryview, int], int]:
    if algorithm == "crc32":  # awscrt's takes ten times as long
        from zlib_ng import zlib_ng

        return zlib_ng.crc32
    from awscrt import checksums

    return getattr(checksums, algorithm)


class _Nothing:
    def update(self, data: bytes | memoryview, /) -> None:
        pass

    def digest(self) -> bytes:
        return b""


class _Crc:
    def __init__(self, algorithm: str) -> None:
        self._size = _CRC_BYTES[algorithm]
        self._function = _function(algorithm)
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size)
