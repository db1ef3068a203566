"""How S3 is reached: endpoint, region and keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import msgspec

from runctl.clouds import Cloud, sandbox_ended
from runctl.errors import CloudError, NotFound


class Credentials(NamedTuple):
    """Keys to S3; `expires` is when to ask for new ones, None for some minutes from now."""

    access_key: str
    secret_key: str
    token: str | None = None
    expires: datetime | None = None


class S3Access(msgspec.Struct, frozen=True):
    """How to reach S3. An `endpoint` of None means AWS; `credentials` of None the environment and IMDS.

    `owner` answers the account that the bucket must belong to: S3 refuses every request where it does not.
    """

    endpoint: str | None = None
    region: str | None = None
    credentials: Callable[[], Credentials | tuple[str, str, str | None]] | None = None
    owner: Callable[[], str] | None = None
    cloud: Cloud | None = None
    """Whose S3 it is, where that is a cloud that may end."""

    def over(self, operation: str) -> CloudError | None:
        """What to raise for a request that failed because its sandbox ended; None while that lives."""
        if self.cloud is None or not self.cloud.ended:
            return None
        return sandbox_ended(self.cloud, "s3", operation)


class NoBucket(NotFound):
    """Not an object is missing, but the place where it would be: that says nothing of the object."""

    @property
    def kind(self) -> str:
        return NotFound.__name__
