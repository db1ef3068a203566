"""The job's store as a prefix of a bucket."""

from __future__ import annotations

from typing import Callable, Iterator, List, Optional, Sequence

from .credentials import Credentials
from .failures import PreconditionFailed
from .imds import Metadata
from .incoming import Incoming
from .outgoing import Outgoing
from .placed import Fault, Outcome, ToFetch, ToPut
from .s3 import LARGEST, TRIES, Bucket
from .store import Listing


class BucketStore:
    """Keys are relative to the job's prefix; `shared` ones to the bucket."""

    mirrors = True
    checkpoints = "checkpoints/"
    keeps = 0  # all
    links = False
    """Whether `link` gives a file of a snapshot a place in a later one."""

    def __init__(
        self, bucket: str, prefix: str, region: str, metadata: Metadata, owner: str = "", host: str = ""
    ) -> None:
        self._bucket = Bucket(bucket, region, Credentials(metadata), owner=owner, host=host)
        self._prefix = prefix.strip("/") + "/"

    @property
    def moved(self) -> float:
        """On the monotonic clock, when a file or a part of one last arrived; 0 before the first."""
        return self._bucket.moved

    def put(self, key: str, data: bytes, tries: int = TRIES) -> None:
        self._bucket.put(self._prefix + key, data, tries=tries)

    def get(self, key: str, limit: int = LARGEST) -> Optional[bytes]:
        """Raises StoreRefused for an object of more than `limit` bytes."""
        return self._bucket.get(self._prefix + key, limit)

    def send_files(
        self, items: Sequence[ToPut], is_over: Callable[[], bool] = lambda: False
    ) -> Iterator[Outcome]:
        """Send files to places below `checkpoints`, many at once; what comes of each, as it comes.

        What of a file lies in its base already is not sent; nothing at all when nothing has changed, and then
        the file lies where its base does. One file's trouble (OSError, SourceChanged, StoreRefused) is its
        own. Once `is_over`, what is not there yet is broken off: OutOfTime. Raises StoreAway.
        """
        return Outgoing(self._bucket, self._prefix + self.checkpoints, items, is_over).run()

    def fetch_files(self, items: Sequence[ToFetch]) -> Optional[Fault]:
        """Bring files from below `checkpoints`, many connections at once; each piece is proven as it comes.

        None once all is there, else the first that is wrong. Raises StoreAway, StoreRefused, OSError.
        """
        return Incoming(self._bucket, self._prefix + self.checkpoints, items).run()

    def get_file(self, key: str, path: str) -> bool:
        return self._bucket.get_file(self._prefix + key, path)

    def get_shared(self, key: str, path: str) -> bool:
        return self._bucket.get_file(key, path)

    def list(self, prefix: str) -> Listing:
        whole = self._prefix + prefix
        return [(item.key[len(self._prefix) :], item.size) for item in self._bucket.list(whole)]

    def replace(self, key: str, data: bytes, expected: Optional[bytes]) -> bool:
        """Write only where the object still is what was read (None: absent); False where it is not."""
        try:
            current, etag = self._bucket.get_with_etag(self._prefix + key)
            if current != expected:
                return False
            self._bucket.put(self._prefix + key, data, if_match=etag or None, if_absent=expected is None)
        except PreconditionFailed:
            return False
        return True

    def create(self, key: str, data: bytes) -> bool:
        """Write only what is not there yet; False where it is."""
        try:
            self._bucket.put(self._prefix + key, data, if_absent=True)
        except PreconditionFailed:
            return False
        return True

    def keep_only(self, names: List[str]) -> None:
        """Commits in a bucket are kept."""
