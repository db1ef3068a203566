"""What the agent writes is its user's alone; what the script writes has the user's own mask."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Generator, Optional

_PRIVATE = 0o077
_users_mask: Optional[int] = None


def begin() -> None:
    """From now on nobody else may read what this process makes."""
    global _users_mask  # noqa: PLW0603 (a process has one mask)
    if _users_mask is None:
        _users_mask = os.umask(_PRIVATE)


@contextmanager
def as_the_user() -> Generator[None, None, None]:
    """Make files and processes with the mask that the agent was started with.

    A mask is the whole process's: what another thread makes meanwhile lies in a folder that is closed.
    """
    if _users_mask is None:
        yield
        return
    os.umask(_users_mask)
    try:
        yield
    finally:
        os.umask(_PRIVATE)
