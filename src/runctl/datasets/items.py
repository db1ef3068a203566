"""What a cache knows an object by."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import msgspec

from runctl.storage import etags


class Item(msgspec.Struct, frozen=True, gc=False):
    """One state of one object: `place` is its bucket, with a mark of its endpoint where that is not AWS.

    `size` is in bytes. `crc` is what its bytes are proven by instead of its ETag, where it is known: their
    CRC-64/NVME in hex.
    """

    place: str
    key: str
    etag: str
    size: int
    crc: str = ""

    @property
    def name(self) -> str:
        """The file of this object in a cache."""
        text = f"{self.key}\0{self.etag}\0{self.size}"
        digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
        return f"{self.place}/{digest[:2]}/{digest[2:]}"

    def is_at(self, path: Path) -> bool | None:
        """Whether the file has its bytes; None where the ETag cannot tell. Raises OSError."""
        if self.crc:
            return next(etags.digests(path, self.size, self.size, "crc64nvme")).hex() == self.crc
        return etags.matches(path, self.size, self.etag)
