"""How S3 is reached: endpoint, region and keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import msgspec

from runctl import partitions
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
    fips: bool = False
    dual_stack: bool = False
    locate: Callable[[str], str] | None = None
    """In which region of AWS a bucket is, where that may be another than `region`."""
    cloud: Cloud | None = None
    """Whose S3 it is, where that is a cloud that may end."""

    def at(self, bucket: str) -> S3Access:
        """As this one, with the region that the bucket is in."""
        if self.locate is None or self.endpoint is not None:
            return self
        return msgspec.structs.replace(self, region=self.locate(bucket), locate=None)

    @property
    def host(self) -> str | None:
        """AWS's S3 in the region; None at another server, and where no region is known."""
        if self.endpoint is not None or self.region is None:
            return None
        return partitions.s3_host(self.region, fips=self.fips, dual_stack=self.dual_stack)

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
