"""Settings from flags, environment, project file, user file and defaults, each with where it came from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from runctl.config.checking import check, defaults, flatten, line_of, nest, parse, place, value_of
from runctl.config.powers import Power, Reach, is_safe, reaches
from runctl.config.sources import ProjectFile, read_named, read_project, read_user, text_of
from runctl.config.values import Values
from runctl.errors import ConfigError
from runctl.trust import Trust

NOBODY = Trust(None)


class Wish(msgspec.Struct, frozen=True):
    """A setting of the project's file that does not count, because the user gave it no yes."""

    key: str
    value: Any
    origin: str
    reach: Reach


class Settings(msgspec.Struct, frozen=True):
    """The values, and by key (`aws.region`) where each was set.

    `project` is the project's file where there is one; `wishes` are its settings that do not count,
    `from_project` the keys of those that do.
    """

    values: Values
    origins: Mapping[str, str]
    project: ProjectFile | None = None
    wishes: tuple[Wish, ...] = ()
    from_project: frozenset[str] = frozenset()

    def origin(self, key: str) -> str:
        """`/path:LINE`, `env RUNCTL_X`, `flag --x` or `default`."""
        return self.origins.get(key, "default")

    def value(self, key: str) -> Any:
        return value_of(self.values, key)

    def under_flags(self, flags: Mapping[str, str | None]) -> Settings:
        """These settings with what flags said above them; `flags` has keys (`aws.region`), not names."""
        given = {key: value for key, value in flags.items() if value is not None}
        merged = {key: self.value(key) for key in self.origins} | given
        origins = dict(self.origins) | {key: f"flag --{key.rpartition('.')[2]}" for key in given}
        return Settings(
            msgspec.convert(nest(merged), type=Values),
            origins,
            self.project,
            tuple(wish for wish in self.wishes if wish.key not in given),
            self.from_project - given.keys(),
        )


def load(
    folder: Path,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    *,
    trust: Trust = NOBODY,
) -> Settings:
    """Read all sources. What spends, sends or weakens needs a yes in `trust` if a project's file sets it.

    Raises ConfigError with file, line and the nearest valid key.
    """
    environment = os.environ if environment is None else environment
    project = None if file is not None else read_project(folder, trust)
    own = read_user(environment) if file is None else (file, read_named(file))
    merged = _entries(*own) if own is not None else {}
    wanted = _entries(project.path, project.content) if project is not None else {}
    environed = {
        key: (check(key, environment[name], f"environment {name}", strict=False), f"env {name}")
        for name, key in _variables(environment)
    }
    base, wishes = Values(), list[Wish]()
    counted: set[str] = set()
    for key, (value, origin) in wanted.items():
        without = merged[key][0] if key in merged else value_of(base, key)
        if key in environed:
            continue
        if project is None or _counts(project, key, value, without):
            merged[key] = value, origin
            counted.add(key)
        else:
            wishes.append(Wish(key, value, origin, _reach(key)))
    merged |= environed
    return Settings(
        msgspec.convert(nest({key: value for key, (value, _) in merged.items()}), type=Values),
        {key: origin for key, (_, origin) in merged.items()},
        project,
        tuple(wishes),
        frozenset(counted),
    )


def wishes_of(project: ProjectFile) -> tuple[Wish, ...]:
    """All that a yes to a file lets count, whatever is in force now. Raises ConfigError."""
    return tuple(
        Wish(key, value, origin, _reach(key))
        for key, (value, origin) in _entries(project.path, project.content).items()
        if _reach(key).power is not Power.HARMLESS
    )


def _counts(project: ProjectFile, key: str, value: Any, without: Any) -> bool:
    if project.fault:
        return value == without
    return project.stance == "trusted" or is_safe(_reach(key), value, without)


def _reach(key: str) -> Reach:
    return reaches(Values)[key]


def _entries(path: Path, content: bytes) -> dict[str, tuple[Any, str]]:
    """By key, a file's values and where each stands."""
    text = text_of(path, content)
    found: dict[str, tuple[Any, str]] = {}
    for key, value in flatten(parse(path, text)):
        where = place(path, line_of(text, key))
        found[key] = check(key, value, where), where
    return found


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
