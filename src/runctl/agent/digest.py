"""What a file is, in 32 bytes: by its whole, or by its parts where it was sent in parts."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple

_CHUNK = 1024 * 1024


class Digest(NamedTuple):
    """A file's SHA-256 (hex). With a `part` above 0 it is the SHA-256 of the SHA-256 of each part of so
    many bytes, one after another, as S3 makes its composite checksums: then each byte is hashed once for
    the signature, for S3's own check and for the manifest alike.
    """

    sha256: str
    part: int = 0

    def entry(self) -> Dict[str, Any]:
        """The digest as a manifest has it."""
        return {"sha256": self.sha256, "part": self.part} if self.part else {"sha256": self.sha256}


def file_digest(path: str, part: int = 0) -> str:
    """The SHA-256 of a file, by parts of `part` bytes where that is above 0."""
    import hashlib

    from .files import open_regular

    whole, piece, left = hashlib.sha256(), hashlib.sha256(), part
    with open_regular(path) as file:
        while True:
            chunk = file.read(min(_CHUNK, left) if part else _CHUNK)
            if not part:
                whole.update(chunk)
            else:
                piece.update(chunk)
                left -= len(chunk)
                if left == 0 or (not chunk and left < part):
                    whole.update(piece.digest())
                    piece, left = hashlib.sha256(), part
            if not chunk:
                return whole.hexdigest()
