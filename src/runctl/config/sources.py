"""The files that settings come from, and whether they are the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from runctl import owners
from runctl.errors import ConfigError
from runctl.quoting import quoted
from runctl.trust import Trust

PROJECT_FILE = ".runctl.toml"
Stance = Literal["trusted", "unknown", "refused", "foreign"]


class ProjectFile(msgspec.Struct, frozen=True, kw_only=True):
    """A project's file as it was read, and what the user said of this very content.

    `fault` says why a file is not the user's own: then its `stance` is `foreign`, unless it was refused.
    """

    path: Path
    content: bytes
    stance: Stance
    fault: str = ""


def user_file(environment: Mapping[str, str]) -> Path:
    named = environment.get("RUNCTL_CONFIG")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_config_dir("runctl")) / "config.toml"


def project_file(folder: Path) -> Path | None:
    """The nearest `.runctl.toml` from a folder up to the top of its git repository; else its own alone."""
    if (folder / PROJECT_FILE).is_file():
        return folder / PROJECT_FILE
    for parent in _up_to_repository(folder):
        if (parent / PROJECT_FILE).is_file() and owners.speaks(parent / PROJECT_FILE):
            return parent / PROJECT_FILE
    return None


def sources(environment: Mapping[str, str], folder: Path, file: Path | None = None) -> list[Path]:
    """The files that settings come from, the weakest first. Raises ConfigError for a `file` that is not."""
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"There is no configuration file {file}", next="check --config")
        return [file]
    return [path for path in (user_file(environment), project_file(folder)) if path and path.is_file()]


def read_user(environment: Mapping[str, str]) -> tuple[Path, bytes] | None:
    """The user's own file, None where there is none. Raises ConfigError where others may change it."""
    path = user_file(environment)
    if not path.is_file():
        return None
    require_own(path, named=bool(environment.get("RUNCTL_CONFIG")))
    return path, read(path)


def read_named(path: Path) -> bytes:
    """The file that `--config` names. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"There is no configuration file {path}", next="check --config")
    require_own(path, named=True)
    return read(path)


def read_project(folder: Path, trust: Trust) -> ProjectFile | None:
    """The project's file with what was said of it, None where there is none."""
    path = project_file(folder)
    return None if path is None else look_at(path, trust)


def look_at(path: Path, trust: Trust) -> ProjectFile:
    """A file of a project with what was said of it. Raises ConfigError where it cannot be read."""
    content, fault = read(path), _fault(path, named=False)
    said = trust.answer(path, content)
    stances: dict[bool | None, Stance] = {True: "trusted", False: "refused", None: "unknown"}
    stance = "foreign" if fault and said is not False else stances[said]
    return ProjectFile(path=path, content=content, stance=stance, fault=fault)


def require_own(path: Path, *, named: bool = False) -> None:
    """Raises ConfigError for a file that others may change; one that the user named may be a colleague's."""
    if fault := _fault(path, named=named):
        raise ConfigError(
            f"The settings in {path} do not count",
            why=fault,
            next=f"chmod o-w {quoted(path)}, or make it yours",
        )


def read(path: Path) -> bytes:
    """Raises ConfigError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", why=str(error.strerror)) from error


def text_of(path: Path, content: bytes) -> str:
    """Raises ConfigError for what is no UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read", why="it is not UTF-8") from error


def _fault(path: Path, *, named: bool) -> str:
    try:
        return owners.fault(path, any_owner=named)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", why=str(error.strerror)) from error


def _up_to_repository(folder: Path) -> list[Path]:
    """From a folder up to the top of its repository, or the folder alone where it is in none."""
    way: list[Path] = []
    for parent in (folder, *folder.parents):
        way.append(parent)
        if owners.speaks(parent / ".git"):
            return way
    return [folder]
