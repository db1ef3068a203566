"""Settings from flags, environment, project file, user file and defaults, each with where it came from."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from runctl.errors import ConfigError

PROJECT_FILE = ".runctl.toml"
_OWN_VARIABLES = frozenset({"RUNCTL_HOME", "RUNCTL_CONFIG", "RUNCTL_DEBUG", "RUNCTL_CLOCK", "RUNCTL_DRILL"})


class Train(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults of `runctl train`; budget in USD."""

    on: str = "local"
    instance_type: str | None = None
    spot: bool = False
    max_attempts: int = 10
    checkpoints: str | None = None
    output: str | None = None
    budget: Decimal | None = None
    max_hours: float | None = None


class Aws(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how machines are made on AWS; the disk in GiB, the lease in minutes."""

    region: str | None = None
    profile: str | None = None
    bucket: str | None = None
    instance_profile: str = "runctl-instance"
    subnet: str | None = None
    security_group: str | None = None
    image: str | None = None
    root_volume_gib: int = 30
    lease_minutes: int = 15


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From which spending on runctl warns, in USD."""

    usd_per_hour: Decimal = Decimal(50)
    usd_per_day: Decimal = Decimal(100)
    usd_total: Decimal = Decimal(500)


class Values(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting that there is."""

    project: str | None = None
    user: str | None = None
    train: Train = Train()
    aws: Aws = Aws()
    thresholds: Thresholds = Thresholds()


@dataclass(frozen=True, slots=True)
class Settings:
    """The values, and by key (`aws.region`) where each was set."""

    values: Values
    origins: Mapping[str, str]

    def origin(self, key: str) -> str:
        return self.origins.get(key, "default")


def defaults() -> dict[str, Any]:
    """Every key with its default, in order."""
    return dict(_flatten(msgspec.to_builtins(Values())))


def user_file(environment: Mapping[str, str]) -> Path:
    named = environment.get("RUNCTL_CONFIG")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_config_dir("runctl")) / "config.toml"


def project_file(folder: Path) -> Path | None:
    """The nearest `.runctl.toml` from a folder upwards."""
    for parent in (folder, *folder.parents):
        if (parent / PROJECT_FILE).is_file():
            return parent / PROJECT_FILE
    return None


def load(folder: Path, environment: Mapping[str, str] | None = None, file: Path | None = None) -> Settings:
    """Read all sources. Raises ConfigError with file, line and the nearest valid key."""
    environment = os.environ if environment is None else environment
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    files = [user_file(environment), project_file(folder)] if file is None else [file]
    if file is not None and not file.is_file():
        raise ConfigError(f"There is no configuration file {file}", next="check --config")
    for path in files:
        if path is None or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        for key, value in _flatten(_parse(path, text)):
            line = _line_of(text, key)
            _check(key, value, f"{path}:{line}")
            merged[key], origins[key] = value, f"{path}:{line}"
    for name, text in sorted(environment.items()):
        if name.startswith("RUNCTL_") and name not in _OWN_VARIABLES:
            key = _key_of_variable(name)
            if key is not None:
                merged[key], origins[key] = (
                    _check(key, text, f"environment {name}", strict=False),
                    f"env {name}",
                )
    values = msgspec.convert(_nest(merged), type=Values, strict=False)
    return Settings(values, origins)


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = f"{path}:{line[1]}" if line else str(path)
        raise ConfigError(f"{where} is no valid TOML", why=str(error), next=f"correct {where}") from error


def _check(key: str, value: Any, where: str, *, strict: bool = True) -> Any:
    """One key and value against the settings' own types; answers the value as its type."""
    if key not in defaults():
        near = difflib.get_close_matches(key, defaults(), n=1, cutoff=0.4)
        raise ConfigError(
            f"Unknown setting {key!r}",
            why=where,
            next=f"did you mean {near[0]!r}?" if near else "runctl config show lists every setting",
        )
    try:
        # Money may stand as a number in TOML: msgspec takes Decimal from text.
        converted = str(value) if isinstance(value, float | int) and _is_money(key) else value
        found = msgspec.convert(_nest({key: converted}), type=Values, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"The setting {key!r} cannot be {value!r}", why=f"{where}: {error}", next=f"correct {where}"
        ) from error
    for part in key.split("."):
        found = getattr(found, part)
    return found


def _is_money(key: str) -> bool:
    return key == "train.budget" or key.startswith("thresholds.")


def _key_of_variable(name: str) -> str | None:
    """RUNCTL_AWS_REGION is `aws.region`; a name that is no setting is a job's own, or nobody's."""
    known = {"RUNCTL_" + key.upper().replace(".", "_"): key for key in defaults()}
    return known.get(name)


def _flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found.extend(_flatten(value, f"{prefix}{key}."))
        else:
            found.append((prefix + key, value))
    return found


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, leaf = key.split(".")
        inner = nested
        for table in tables:
            inner = inner.setdefault(table, {})
        inner[leaf] = str(value) if isinstance(value, Decimal) else value
    return nested


def _line_of(text: str, key: str) -> int:
    """The line on which a key is set; 1 where it cannot be found."""
    *tables, leaf = key.split(".")
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            section = stripped.strip("[]").strip()
            continue
        name = stripped.split("=")[0].strip()
        whole = f"{section}.{name}" if section else name
        if whole == key or (section == ".".join(tables) and name == leaf):
            return number
    return 1


def set_value(path: Path, key: str, text: str) -> Any:
    """Set one key in a file and keep its comments; answers the value. Raises ConfigError for a bad one."""
    import tomlkit

    value = _check(key, text, "the given value", strict=False)
    document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.is_file() else tomlkit.document()
    *tables, leaf = key.split(".")
    inner: Any = document
    for table in tables:
        if table not in inner:
            inner[table] = tomlkit.table()
        inner = inner[table]
    inner[leaf] = float(value) if isinstance(value, Decimal) else value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomlkit.dumps(document), encoding="utf-8")
    return value
