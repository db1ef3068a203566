# pyright: basic, reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalCall=false
# moto carries no types; what we take from it is narrowed where it leaves the overlay.
"""How ours stands over moto's: replaced methods, errors in the caller's protocol, the cloud in force."""

from __future__ import annotations

import base64
import copy
import fnmatch
import functools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from moto.core.exceptions import ServiceException
from werkzeug.exceptions import HTTPException

from runctl.sandbox.state import SandboxCloud

_current: list[SandboxCloud] = []


class AwsError(ServiceException):
    """An answer of AWS's: moto writes code and message in the protocol of the called service."""


class ServerError(HTTPException):
    """The few EC2 errors that come as HTTP 5xx. moto sends the description as the body."""

    def __init__(self, code: str, message: str, status: int = 500) -> None:
        super().__init__(
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            "<RequestID>sandbox</RequestID></Response>"
        )
        self.code = status
        self.error_code, self.error_message = code, message

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


def keep_time() -> None:
    """Let moto's EC2 records carry the cloud's time, not the host's."""
    from moto.ec2.models import amis, elastic_block_store, fleets, instances, launch_templates

    for module in (amis, elastic_block_store, fleets, instances, launch_templates):
        module.utcnow = now


def asked(call: Any, name: str, default: Any = None) -> Any:
    """A parameter of the call, by its name in the API; dots lead into structures."""
    return call._get_param(name, default)


def asked_tags(call: Any, resource: str) -> dict[str, str]:
    """The tags that the call gives to one kind of resource."""
    return call._parse_tag_specification().get(resource, {})


def asked_filters(call: Any) -> dict[str, list[str]]:
    return call._filters_from_querystring()


def asked_template(call: Any) -> dict[str, Any]:
    """The data of the launch template that the call names."""
    wanted = asked(call, "LaunchTemplate")
    return dict(call.ec2_backend._get_template_from_args(wanted).data) if wanted else {}


def page(rows: list[Any], call: Any, *, least: int = 5, usual: int | None = None) -> tuple[list[Any], Any]:
    """The rows that MaxResults and NextToken ask for, and the token of the next page."""
    size = asked(call, "MaxResults", usual)
    token = asked(call, "NextToken")
    if size is not None and not least <= int(size) <= 1_000:
        raise AwsError(
            "InvalidParameterValue",
            f"Value ( {size} ) for parameter maxResults is invalid. "
            f"Expecting a value between {least} and 1000.",
        )
    try:
        start = int(base64.urlsafe_b64decode(token).decode().removeprefix("at:")) if token else 0
    except ValueError:
        raise AwsError("InvalidNextToken", "The token that was provided is not valid.") from None
    end = len(rows) if size is None else start + int(size)
    following = base64.urlsafe_b64encode(f"at:{end}".encode()).decode() if end < len(rows) else None
    return rows[start:end], following


def matches(values: Iterable[Any], patterns: list[str]) -> bool:
    """Whether a filter's patterns, with * and ?, fit any of the values."""
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    return any(fnmatch.fnmatchcase(text, pattern) for text in texts for pattern in patterns)


def disguised(instance: Any, state: str, code: int) -> Any:
    """A copy of an instance's record that shows another state; it owns no addresses to give back."""
    false = copy.copy(instance)
    false._state = type(instance._state)(state, code)
    false._private_ips = set()
    return false
