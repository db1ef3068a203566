"""Settings from flags, environment, project file, user file and defaults, each with where it came from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from runctl.errors import ConfigError

Count = Annotated[int, msgspec.Meta(ge=1)]
Hours = Annotated[float, msgspec.Meta(gt=0)]

PROJECT_FILE = ".runctl.toml"
_TABLES = frozenset({"train", "aws", "thresholds"})
_HEADER = re.compile(r"\s*\[+([^\]]+)\]")
_SETTING = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


class Train(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults of `runctl train`; budget in USD."""

    on: str = "local"
    instance_type: str | None = None
    spot: bool = False
    max_attempts: Count = 10
    checkpoints: str | None = None
    output: str | None = None
    budget: Decimal | None = None
    max_hours: Hours | None = None


class Aws(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how machines are made on AWS; the disk in GiB, the lease in minutes."""

    region: str | None = None
    profile: str | None = None
    bucket: str | None = None
    instance_profile: str = "runctl-instance"
    subnet: str | None = None
    security_group: str | None = None
    image: str | None = None
    root_volume_gib: Count = 30
    lease_minutes: Count = 15


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From which spending on runctl warns, in USD."""

    usd_per_hour: Decimal = Decimal(50)
    usd_per_day: Decimal = Decimal(100)
    usd_total: Decimal = Decimal(500)


class Protection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How careful to be: minutes, and numbers of running instances."""

    young_minutes: Count = 5
    warn_instances: Count = 10
    refuse_instances: Count = 50


class Values(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting that there is."""

    project: str | None = None
    user: str | None = None
    cloud: Literal["aws", "sandbox"] = "aws"
    train: Train = Train()
    aws: Aws = Aws()
    thresholds: Thresholds = Thresholds()
    protection: Protection = Protection()


class Settings(msgspec.Struct, frozen=True):
    """The values, and by key (`aws.region`) where each was set."""

    values: Values
    origins: Mapping[str, str]

    def origin(self, key: str) -> str:
        """`/path:LINE`, `env RUNCTL_X`, `flag --x` or `default`."""
        return self.origins.get(key, "default")

    def value(self, key: str) -> Any:
        return _value(self.values, key)

    def under_flags(self, flags: Mapping[str, str | None]) -> Settings:
        """These settings with what flags said above them; `flags` has keys (`aws.region`), not names."""
        given = {key: value for key, value in flags.items() if value is not None}
        merged = {key: self.value(key) for key in self.origins} | given
        origins = dict(self.origins) | {key: f"flag --{key.rpartition('.')[2]}" for key in given}
        return Settings(msgspec.convert(_nest(merged), type=Values), origins)


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


def sources(environment: Mapping[str, str], folder: Path, file: Path | None = None) -> list[Path]:
    """The files that settings come from, the weakest first. Raises ConfigError for a `file` that is not."""
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"There is no configuration file {file}", next="check --config")
        return [file]
    return [path for path in (user_file(environment), project_file(folder)) if path and path.is_file()]


def load(folder: Path, environment: Mapping[str, str] | None = None, file: Path | None = None) -> Settings:
    """Read all sources. Raises ConfigError with file, line and the nearest valid key."""
    environment = os.environ if environment is None else environment
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for path in sources(environment, folder, file):
        text = _read(path)
        for key, value in _flatten(_parse(path, text)):
            where = _place(path, _line_of(text, key))
            merged[key], origins[key] = _check(key, value, where), where
    for name, key in _variables(environment):
        merged[key] = _check(key, environment[name], f"environment {name}", strict=False)
        origins[key] = f"env {name}"
    return Settings(msgspec.convert(_nest(merged), type=Values), origins)


def set_value(path: Path, key: str, text: str, *, dry_run: bool = False) -> Any:
    """Set one key in a file and keep its comments; answers the value. `dry_run` checks alone.

    Raises ConfigError for a key or value that is none, or a file that is no TOML.
    """
    import tomlkit

    value = _check(key, text, "", strict=False)
    before = _read(path) if path.is_file() else ""
    for other, found in _flatten(_parse(path, before)):
        _check(other, found, _place(path, _line_of(before, other)))
    if dry_run:
        return value
    document = tomlkit.parse(before)
    *tables, leaf = key.split(".")
    inner: Any = document
    for table in tables:
        if table not in inner:
            inner[table] = tomlkit.table()
        inner = inner[table]
    inner[leaf] = float(value) if isinstance(value, Decimal) else value
    try:
        _replace(path, tomlkit.dumps(document))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written", why=error.strerror or str(error)) from error
    return value


def _replace(path: Path, text: str) -> None:
    """All or nothing: a full disk leaves the old file as it was."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        if target.exists():
            fresh.chmod(target.stat().st_mode & 0o777)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path} cannot be read", why=str(why)) from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        where = f"{path}:{found[1] if found else text.count(chr(10)) + 1}"
        raise ConfigError(f"{where} is no valid TOML", why=str(error), next=f"correct {where}") from error


def _check(key: str, value: Any, where: str, *, strict: bool = True) -> Any:
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
    try:
        found = _value(msgspec.convert(_nest({key: converted}), type=Values, strict=strict), key)
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


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that are settings: RUNCTL_AWS_REGION is `aws.region`.

    Raises ConfigError for a name that begins as a table's do and is none; other names are a job's own.
    """
    known = {"RUNCTL_" + key.upper().replace(".", "_"): key for key in defaults()}
    tables = tuple({f"RUNCTL_{key.split('.')[0].upper()}_" for key in defaults() if "." in key})
    for name in sorted(environment):
        if name in known:
            yield name, known[name]
        elif name.startswith(tables):
            import difflib

            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            raise ConfigError(
                f"Unknown setting {name!r}",
                why="it is in the environment",
                next=f"did you mean {near[0]!r}?" if near else "runctl config show lists every setting",
            )


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = getattr(values, part)
    return values


def _flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict) and (value or name in _TABLES):
            found.extend(_flatten(value, f"{name}."))
        else:
            found.append((name, value))
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


def _line_of(text: str, key: str) -> int | None:
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


def _place(path: Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}:{line}"
