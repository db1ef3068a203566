"""Files of a project that the user said yes or no to: by path and content, so that a change asks anew.

A repository brings its files with it; what they decide beyond the harmless counts only after a yes. An
answer is a file of its own (0600) under the user's data folder: two commands never lose each other's.
"""

from __future__ import annotations

import contextlib
import os
from datetime import datetime
from pathlib import Path

import msgspec

from runctl import owners
from runctl.errors import ConfigError

FOLDER = "trust"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the user said of a file as it was then; `sha256` is that of its content."""

    path: str
    sha256: str
    trusted: bool
    at: datetime


class Trust:
    """The answers of one user, in `folder`; without one there are none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def answer(self, path: Path, content: bytes) -> bool | None:
        """The yes or no to a file with this very content, None where it was not asked for."""
        if self._folder is None:
            return None
        found = _read(self._place(path))
        if found is None or found.path != known_as(path) or found.sha256 != digest(content):
            return None
        return found.trusted

    def give(self, path: Path, content: bytes, *, yes: bool, at: datetime) -> Answer:
        """Write an answer down. Raises ConfigError where it cannot be kept."""
        if self._folder is None:
            raise ConfigError(f"No word on {path} can be kept", why="there is no folder for it")
        answer = Answer(path=known_as(path), sha256=digest(content), trusted=yes, at=at)
        target = self._place(path)
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(answer))
            fresh.replace(target)
        except OSError as error:
            raise ConfigError(
                f"No word on {path} can be kept", why=f"{target}: {error.strerror or error}"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
        return answer

    def forget(self, path: Path) -> bool:
        """Whether there was an answer to forget."""
        if self._folder is None or not (target := self._place(path)).exists():
            return False
        target.unlink(missing_ok=True)
        return True

    def answers(self) -> list[Answer]:
        """Every answer, by path."""
        if self._folder is None or not self._folder.is_dir():
            return []
        found = (_read(path) for path in self._folder.glob("*.json"))
        return sorted((answer for answer in found if answer), key=lambda answer: answer.path)

    def _place(self, path: Path) -> Path:
        assert self._folder is not None  # noqa: S101 (asked by every caller)
        name = digest(os.fsencode(known_as(path)))
        return self._folder / f"{name[:32]}.json"


def of_user(home: Path) -> Trust:
    """The answers under the folder of the ledger."""
    return Trust(home / FOLDER)


def digest(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def known_as(path: Path) -> str:
    """A file by its real folder and its own name: one file is not known under two."""
    return os.fsdecode(os.fsencode(path.parent.resolve() / path.name))


def _read(path: Path) -> Answer | None:
    """None for what is missing, torn or not the user's own: no word is no yes."""
    try:
        if owners.fault(path):
            return None
        return msgspec.json.decode(path.read_bytes(), type=Answer)
    except (OSError, msgspec.MsgspecError):
        return None
