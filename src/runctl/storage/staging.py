"""A prefix for the time of one transfer, and URLs that open single objects of it to whoever holds them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, Protocol

from runctl.storage.objects import ObjectInfo, checked_key
from runctl.storage.s3 import S3Access, S3Store

FOLDER = "runctl/staging"
UPLOADS = "uploads/"
"""Records of multipart uploads that were begun: whoever empties the prefix aborts them first."""

LIFETIME = timedelta(hours=6)
"""How long a URL opens its object; signatures of temporary credentials end with these, if that is sooner."""

BRIEF = timedelta(minutes=15)
"""For URLs in commands, whose text the cloud keeps for a month; less is lost to clocks that differ."""

_DELETED_AT_ONCE = 1000


def new_prefix() -> str:
    """Where one transfer may stage, and nobody else does."""
    return f"{FOLDER}/{secrets.token_hex(8)}"


class Staging(Protocol):
    """What lies between two sides, and the rights to it. Raises as every store does."""

    def sign(
        self, method: Literal["GET", "PUT"], keys: Sequence[str], *, lifetime: timedelta = LIFETIME
    ) -> list[str]:
        """A URL for each key with which one may do this, and only this, without credentials."""
        ...

    def publish(self, name: str, data: bytes) -> str:
        """A URL of bytes that always have this name, which opens them for a `BRIEF` time."""
        ...

    def read_if_exists(self, key: str, *, largest: int | None = None) -> bytes | None: ...
    def write(self, key: str, data: bytes) -> str: ...
    def list(self) -> Sequence[ObjectInfo]: ...
    def remove(self, keys: Sequence[str]) -> None:
        """Delete many objects; one that is not there is no error."""
        ...


class SigningStore(S3Store):
    """A store that hands out rights to single objects. Raises as every store does."""

    @property
    def access(self) -> S3Access:
        """How its bucket is reached."""
        return self._access

    def sign(
        self, method: Literal["GET", "PUT"], keys: Sequence[str], *, lifetime: timedelta = LIFETIME
    ) -> list[str]:
        """A URL for each key with which one may do this, and only this, without credentials."""
        import obstore

        if not keys:
            return []
        with self._errors("Sign", keys[0]):
            return list(obstore.sign(self._client(), method, [self._path(key) for key in keys], lifetime))

    def publish(self, name: str, data: bytes) -> str:
        """A URL of bytes that always have this name, in the bucket and not under the prefix.

        Whoever fetches them knows their digest: what somebody else put there is replaced.
        """
        from runctl.storage import pinned

        pinned.ensure(self.bucket, self.access, name, data)
        return SigningStore(self.bucket, "", self.access).sign("GET", [name], lifetime=BRIEF)[0]

    def remove(self, keys: Sequence[str]) -> None:
        """Delete many objects; one that is not there is no error."""
        import obstore

        for start in range(0, len(keys), _DELETED_AT_ONCE):
            some = [self._path(checked_key(key)) for key in keys[start : start + _DELETED_AT_ONCE]]
            with self._errors("DeleteObjects", keys[start]):
                obstore.delete(self._client(), some)

    def empty(self) -> int:
        """Delete every object under the store's prefix; answers how many there were."""
        keys = [found.key for found in self.entries()]
        self.remove(keys)
        return len(keys)
