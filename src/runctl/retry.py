"""The one retry policy: exponential backoff with full jitter, bounded by attempts and by time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from runctl.events import Emit, Retried, ignore

T = TypeVar("T")


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often and how long to try; waits are in seconds."""

    attempts: int = 8
    seconds: float = 60.0
    first_wait: float = 0.25
    longest_wait: float = 10.0

    def call(
        self,
        operation: str,
        function: Callable[[], T],
        *,
        retryable: Callable[[Exception], bool],
        emit: Emit = ignore,
    ) -> T:
        """Call `function` until it succeeds, fails for good, or the policy is spent.

        Raises the last error as it came. Each retry is an event.
        """
        import logging

        import stamina

        # The event tells of a retry: stamina's own line must not reach a bare stderr beside it.
        if not (log := logging.getLogger("stamina")).handlers:
            log.addHandler(logging.NullHandler())
        tries = 0
        for attempt in stamina.retry_context(
            on=retryable,
            attempts=self.attempts,
            timeout=self.seconds,
            wait_initial=self.first_wait,
            wait_max=self.longest_wait,
            wait_jitter=self.first_wait,
        ):
            with attempt:
                tries += 1
                try:
                    return function()
                except Exception as error:
                    if retryable(error) and tries < self.attempts:
                        emit(
                            Retried(
                                operation=operation,
                                error=str(error),
                                attempt=tries,
                                wait=attempt.next_wait,
                            )
                        )
                    raise
        raise AssertionError("unreachable: stamina raises the last error")
