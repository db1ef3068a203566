"""What a file is, in 32 bytes: by its whole, or by its parts if it was sent in parts."""

from __future__ import annotations

_CHUNK = 1024 * 1024


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
