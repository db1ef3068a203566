"""Where a file's bytes lie in the store, and what proves them."""

from __future__ import annotations

from typing import NamedTuple


class Placed(NamedTuple):
    """`at` is the key below the store's folder of snapshots; size in bytes.

    With a `part` above 0, `sha256` (hex) is the SHA-256 of those of each so many bytes, which are `parts`, 32
    bytes each, one after another. So S3 makes its composite checksums: each byte is hashed once for the
    signature, for S3's own check and for the manifest alike.
    """

    at: str
    size: int
    sha256: str
    part: int = 0
    parts: bytes = b""
