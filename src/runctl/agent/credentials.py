"""AWS keys: from the environment, else from the instance's role."""

from __future__ import annotations

import os
import threading
import time
from typing import NamedTuple, Optional

from .failures import StoreAway
from .imds import Metadata, MetadataAway


class Keys(NamedTuple):
    access: str
    secret: str
    token: Optional[str]
    expires: float


class Credentials:
    """From the environment, else from the instance's role, renewed before they run out."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._lock = threading.Lock()
        self._keys: Optional[Keys] = None

    def get(self) -> Keys:
        """Raises StoreAway where the role's keys cannot be had now."""
        with self._lock:
            if self._keys is None or self._keys.expires < time.time() + 300:
                self._keys = self._fetch()
            return self._keys

    def forget(self) -> None:
        """The store calls the keys outdated."""
        with self._lock:
            self._keys = None

    def _fetch(self) -> Keys:
        environ = os.environ
        if environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
            return Keys(
                environ["AWS_ACCESS_KEY_ID"],
                environ["AWS_SECRET_ACCESS_KEY"],
                environ.get("AWS_SESSION_TOKEN"),
                float("inf"),
            )
        try:
            role = self._metadata.get("iam/security-credentials/")
            keys = self._metadata.get_json("iam/security-credentials/" + role.strip()) if role else None
        except MetadataAway as error:
            raise StoreAway("no credentials: %s" % error) from error
        if not keys or "AccessKeyId" not in keys:
            raise StoreAway("no credentials: the instance has no role")
        # An hour at most, and an expiry that lies behind us is a faster clock's: it says nothing here.
        expires = parse_time(str(keys.get("Expiration"))) or 0.0
        latest = time.time() + 3600
        return Keys(
            keys["AccessKeyId"],
            keys["SecretAccessKey"],
            keys.get("Token"),
            min(expires, latest) if expires > time.time() + 300 else latest,
        )


def parse_time(text: str) -> Optional[float]:
    """Seconds since the epoch of `2026-01-01T00:00:00Z`, None for what is none."""
    import calendar

    try:
        text = text.partition(".")[0] + "Z" if "." in text else text
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return None
