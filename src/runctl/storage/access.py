"""How S3 is reached: endpoint, region and keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import msgspec

from runctl.errors import NotFound


class Credentials(NamedTuple):
    """Keys to S3; `expires` is when to ask for new ones, None for some minutes from now."""

    access_key: str
    secret_key: str
    token: str | None = None
    expires: datetime | None = None


class S3Access(msgspec.Struct, frozen=True):
    """How to reach S3. An `endpoint` of None means AWS; `credentials` of None the environment and IMDS."""

    endpoint: str | None = None
    region: str | None = None
    credentials: Callable[[], Credentials | tuple[str, str, str | None]] | None = None


class NoBucket(NotFound):
    """Not an object is missing, but the place where it would be: that says nothing of the object."""

    @property
    def kind(self) -> str:
        return NotFound.__name__
