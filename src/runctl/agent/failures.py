"""What may go wrong between the agent and the store."""

from __future__ import annotations


class StoreAway(Exception):
    """The store does not answer, or not well; what was asked may be asked again."""


class StoreRefused(Exception):
    """The store says no, and will say it again."""


class StoreDenied(StoreRefused):
    """Who asks has no right to it now. Rights come back: a role that is attached takes a while to count."""


class PreconditionFailed(Exception):
    """A conditional write came second."""


class OutOfTime(Exception):
    """There was no time left to send it."""


class SourceChanged(Exception):
    """A file was cut while it was sent."""
