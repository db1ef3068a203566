# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
# moto carries no types; what we take from it is narrowed where it leaves the overlay.
"""How ours stands over moto's: replaced methods, errors in the caller's protocol, the cloud in force."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from moto.core.exceptions import ServiceException
from werkzeug.exceptions import HTTPException

from runctl.sandbox.state import SandboxCloud

_current: list[SandboxCloud] = []


class AwsError(ServiceException):
    """An answer of AWS's: moto writes code and message in the protocol of the called service."""


class ServerError(HTTPException):
    """The few EC2 errors that come as HTTP 5xx, capacity among them."""

    def __init__(self, code: str, message: str, status: int = 500) -> None:
        self.code = status
        self._body = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            "<RequestID>sandbox</RequestID></Response>"
        )
        super().__init__()

    def get_body(self, *_: Any) -> str:
        return self._body

    def get_headers(self, *_: Any) -> list[tuple[str, str]]:
        return [("Content-Type", "text/xml")]


def use(cloud: SandboxCloud) -> None:
    """Let the overlay work on this cloud: one a process, as moto's own records are."""
    _current[:] = [cloud]


def cloud() -> SandboxCloud:
    return _current[0]


def replaces(owner: type, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function in the place of a method of moto's; it gets the original first."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        original = getattr(owner, name)

        @functools.wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return function(original, self, *args, **kwargs)

        setattr(owner, name, method)
        return function

    return decorate


def now() -> datetime:
    """The cloud's time as moto keeps times: UTC without a zone."""
    return datetime.fromtimestamp(cloud().clock.now(), UTC).replace(tzinfo=None)


def tag_of(resource: Any, key: str) -> str:
    return next((tag["value"] for tag in resource.get_tags() if tag["key"] == key), "")
