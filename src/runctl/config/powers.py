"""What a setting can do in the hands of a stranger, said beside the setting itself.

A file that came with a repository decides nothing that spends, sends or weakens until the user says yes.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec

Safe = Literal["never", "lower", "higher", "inside"]


class Power(StrEnum):
    """The worst that a wrong value does."""

    HARMLESS = "harmless"
    SPENDS = "spends"
    SENDS = "sends"
    WEAKENS = "weakens"


class Reach(msgspec.Struct, frozen=True):
    """A setting's power, what it means to the user, and which values are safe from anybody.

    `lower` and `higher`: a value on that side of what would be in force without it (None is no limit);
    `inside`: a folder of the project.
    """

    power: Power
    means: str
    safe: Safe = "never"


UNCLASSED = Reach(Power.WEAKENS, "nobody has said what it can do")


def harmless() -> msgspec.Meta:
    """Names and the like: it counts from anybody's file."""
    return _meta(Reach(Power.HARMLESS, ""))


def spends(means: str, *, safe: Safe = "never") -> msgspec.Meta:
    return _meta(Reach(Power.SPENDS, means, safe))


def sends(means: str, *, safe: Safe = "never") -> msgspec.Meta:
    return _meta(Reach(Power.SENDS, means, safe))


def weakens(means: str, *, safe: Safe = "never") -> msgspec.Meta:
    return _meta(Reach(Power.WEAKENS, means, safe))


def _meta(reach: Reach) -> msgspec.Meta:
    return msgspec.Meta(extra={"reach": reach})


def is_safe(reach: Reach, value: Any, without: Any) -> bool:
    """Whether `value` may come from anybody, where `without` it would be in force."""
    if reach.power is Power.HARMLESS or value == without:
        return True
    if reach.safe == "lower":
        return without is None or _number(value) <= _number(without)
    if reach.safe == "higher":
        return without is not None and _number(value) >= _number(without)
    return reach.safe == "inside" and _is_inside(str(value))


def _number(value: Any) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(str(value))


def _is_inside(path: str) -> bool:
    """A folder below the project by its plain name: no way up, no other place, nothing hidden."""
    parts = PurePosixPath(path).parts
    return bool(parts) and ":" not in path and not any(part.startswith((".", "/", "~")) for part in parts)


def reaches(values: type[msgspec.Struct]) -> Mapping[str, Reach]:
    """By key, what each setting of `values` can do; one that does not say so is `UNCLASSED`."""
    return _reaches(values)


@functools.cache
def _reaches(values: type[msgspec.Struct], prefix: str = "") -> Mapping[str, Reach]:
    found: dict[str, Reach] = {}
    for name, kind in typing.get_type_hints(values, include_extras=True).items():
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            found.update(_reaches(kind, f"{prefix}{name}."))
        else:
            found[prefix + name] = _reach(kind)
    return found


def _reach(kind: Any) -> Reach:
    for meta in getattr(kind, "__metadata__", ()):
        said = (meta.extra or {}).get("reach") if isinstance(meta, msgspec.Meta) else None
        if isinstance(said, Reach):
            return said
    return UNCLASSED
