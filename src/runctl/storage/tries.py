"""What may be tried again in a transfer, and the trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from runctl.errors import CloudError, TransferError
from runctl.events import Emit
from runctl.retry import RetryPolicy

T = TypeVar("T")
_SPOILT = ("BadDigest", "InvalidRange")
"""What S3 says of bytes spoilt on their way up, and of a body that went on behind an end that was a lie."""


class Damaged(TransferError):
    """What came is not what was sent."""


class Tries:
    """The tries of one transfer, each of which is told."""

    def __init__(self, emit: Emit) -> None:
        self._policy = RetryPolicy(attempts=6, seconds=120.0)
        self._emit = emit

    def call(self, operation: str, work: Callable[[], T]) -> T:
        """Do it, and again under the policy where it failed in a way that passes."""
        try:
            return work()
        except Exception as error:
            if not is_passing(error):
                raise
            return self._policy.call(operation, work, retryable=is_passing, emit=self._emit)


def is_passing(error: Exception) -> bool:
    """Whether the same request may succeed in a while."""
    return isinstance(error, Damaged) or (
        isinstance(error, CloudError) and (error.retryable or is_spoilt(error))
    )


def is_spoilt(error: CloudError) -> bool:
    """Whether the wire did something to the bytes."""
    return error.code in _SPOILT
