"""What an ETag proves: MD5 of an object that came in one piece, MD5 of MD5s where it came in parts.

S3 user guide, "Checking object integrity": so it is for objects that S3 encrypts with its own keys or not at
all. With KMS or customer keys an ETag proves nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from runctl.storage.digests import new

MIB = 1024 * 1024
_WHOLE = re.compile(r"[0-9a-f]{32}")
_PARTS = re.compile(r"[0-9a-f]{32}-([1-9][0-9]{0,4})")
_USUAL_PARTS = (8, 16, 5, 50, 15, 32, 64, 10, 20, 25, 40, 48, 100, 128, 256, 512, 1024, 6, 7, 12, 24, 96)
"""MiB: what AWS CLI and boto3 (8), rclone and Hadoop (5, 64, 128), s5cmd (50) and we (16) send."""
_READ = 4 * MIB


def parts_of(etag: str) -> int | None:
    """How many parts an object came in, 1 for one piece, None for an ETag that is no MD5."""
    if _WHOLE.fullmatch(etag):
        return 1
    found = _PARTS.fullmatch(etag)
    return int(found[1]) if found else None


def of_parts(digests: Iterable[bytes]) -> str:
    """The ETag of an object from the MD5 digests of its parts."""
    all_of_them = list(digests)
    return f"{hashlib.md5(b''.join(all_of_them), usedforsecurity=False).hexdigest()}-{len(all_of_them)}"


def possible_parts(size: int, count: int) -> Iterator[int]:
    """The part sizes in bytes that make `count` parts of `size` bytes, the likely ones first."""
    fitting = [mib * MIB for mib in _USUAL_PARTS if -(-size // (mib * MIB)) == count]
    yield from fitting
    exact = -(-size // count)  # s3transfer grows its parts to the MiB or to the byte that still fits
    for candidate in (exact, -(-exact // MIB) * MIB):
        if candidate > 0 and candidate not in fitting and -(-size // candidate) == count:
            fitting.append(candidate)
            yield candidate


def matches(path: Path, size: int, etag: str) -> bool | None:
    """Whether the file is what the ETag names; None where the ETag cannot tell. Raises OSError.

    A mismatch of an object in parts is no proof either, unless a part size of its sender was tried: every
    usual one is.
    """
    count = parts_of(etag)
    if count is None:
        return None
    with path.open("rb") as file:
        if "-" not in etag:
            return hashlib.file_digest(file, _md5).hexdigest() == etag
        return any(
            of_parts(digests(path, size, part_size, "md5")) == etag
            for part_size in possible_parts(size, count)
        )


def digests(path: Path, size: int, part_size: int, algorithm: str) -> Iterator[bytes]:
    """The digest of each part of a file. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        for start in range(0, size, part_size):
            left = min(part_size, size - start)
            digest = new(algorithm)
            while left and (data := file.read(min(_READ, left))):
                digest.update(data)
                left -= len(data)
            yield digest.digest()


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)
