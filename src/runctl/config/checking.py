"""Text of a settings file against the settings' own types, with the line that each stands on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from runctl.config.values import Values
from runctl.errors import ConfigError

_TABLES = frozenset({"train", "aws", "thresholds", "protection"})
_HEADER = re.compile(r"\s*\[+([^\]]+)\]")
_SETTING = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def defaults() -> dict[str, Any]:
    """Every key with its default, in order."""
    return dict(flatten(msgspec.to_builtins(Values())))


def parse(path: Path, text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        where = f"{path}:{found[1] if found else text.count(chr(10)) + 1}"
        raise ConfigError(f"{where} is no valid TOML", why=str(error), next=f"correct {where}") from error


def check(key: str, value: Any, where: str, *, strict: bool = True) -> Any:
    """One key and value against the settings' own types; answers the value as its type."""
    if key not in defaults():
        import difflib

        near = difflib.get_close_matches(key, defaults(), n=1, cutoff=0.4)
        raise ConfigError(
            f"Unknown setting {key!r}",
            why=where,
            next=f"did you mean {near[0]!r}?" if near else "runctl config show lists every setting",
        )
    # Money may stand as a number in TOML: msgspec takes Decimal from text.
    number = isinstance(value, float | int) and not isinstance(value, bool)
    converted = str(value) if number and _is_money(key) else value
    if not strict and isinstance(value, str) and isinstance(defaults()[key], list | tuple):
        converted = [part.strip() for part in value.split(",") if part.strip()]
    try:
        found = value_of(msgspec.convert(nest({key: converted}), type=Values, strict=strict), key)
    except msgspec.ValidationError as error:
        raise _ill_typed(key, value, where, _plain(str(error))) from error
    if found is None:
        raise _ill_typed(key, value, where, "expected a value")
    if isinstance(found, float) and not isfinite(found):
        raise _ill_typed(key, value, where, "expected a finite number")
    if isinstance(found, Decimal) and not (found.is_finite() and found >= 0):
        raise _ill_typed(key, value, where, "expected an amount of USD")
    return found


def _ill_typed(key: str, value: Any, where: str, expected: str) -> ConfigError:
    return ConfigError(
        f"The setting {key!r} cannot be {value!r}",
        why=f"{where}: {expected}" if where else expected,
        next=f"correct {where}" if where else "runctl config show lists every setting",
    )


def _plain(message: str) -> str:
    """msgspec's sentence without its paths and quotes: what was expected."""
    message = message.split(" - at ", maxsplit=1)[0].replace(" | null", "").replace("`", "")
    message = message.replace("Invalid decimal string", "expected an amount of USD")
    return message[0].lower() + message[1:]


def _is_money(key: str) -> bool:
    return key == "train.budget" or key.startswith("thresholds.")


def value_of(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = getattr(values, part)
    return values


def flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict) and (value or name in _TABLES):
            found.extend(flatten(value, f"{name}."))
        else:
            found.append((name, value))
    return found


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, leaf = key.split(".")
        inner = nested
        for table in tables:
            inner = inner.setdefault(table, {})
        inner[leaf] = str(value) if isinstance(value, Decimal) else value
    return nested


def line_of(text: str, key: str) -> int | None:
    """The line on which a key is set, or its inline table begins; None where neither can be found."""
    section = ""
    nearest: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            section = _dotted(header[1])
            name = section
        else:
            setting = _SETTING.match(line)
            if not setting:
                continue
            name = ".".join(part for part in (section, _dotted(setting[1])) if part)
        if name == key:
            return number
        if key.startswith(f"{name}."):
            nearest = number
    return nearest


def _dotted(text: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in text.split("."))


def place(path: Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}:{line}"
