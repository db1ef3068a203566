"""Where a file's bytes lie in the store, and what proves them; what is to be sent there and fetched."""

from __future__ import annotations

from typing import IO, Callable, NamedTuple, Optional, Tuple, Union


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


class ToPut(NamedTuple):
    """A file to be sent to the place `at`.

    `open` gives the open file and how many of its bytes are meant. `done` is called once all of these were
    read, before anything counts as sent: it may close the file, and raises SourceChanged when what was read
    is the state of no one moment. Both are called in any thread. Whatever comes of a file, nothing is read of
    it once that is told. `base` is an earlier version, of which the store has the bytes already.
    """

    at: str
    open: Callable[[], Tuple[IO[bytes], int]]
    done: Callable[[], None] = lambda: None
    base: Optional[Placed] = None


class ToFetch(NamedTuple):
    """A file of the store, and the path at which nothing lies yet and where it shall lie."""

    placed: Placed
    path: str


Outcome = Tuple[int, Union[Placed, Exception]]
"""Which of the files that were to be sent, counted from 0, and what came of it."""

MISSING = "is missing"
CHANGED = "is not what was committed"


class Fault(NamedTuple):
    """Which of the files that were to be fetched is wrong, counted from 0, and why: MISSING or CHANGED."""

    number: int
    why: str
