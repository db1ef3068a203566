"""Which files are refused, for which reasons, and what their owner can do about it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from runctl.errors import ValidationError
from runctl.quoting import quoted
from runctl.storage.secret_files import contents, names
from runctl.storage.secret_files.contents import Found

_SHOWN = 3
"""Lines of one file that are told of; how many there are is told in any case."""


class Candidate(Protocol):
    """A file that is about to travel: the path that it will have, and where it lies."""

    @property
    def path(self) -> str: ...
    @property
    def where(self) -> Path: ...


class Refusal(msgspec.Struct, frozen=True):
    """A file that must not travel. `name` is what its name says that it holds, `found` what stands in it."""

    path: str
    name: str | None
    found: tuple[Found, ...]

    @property
    def reason(self) -> str:
        """In words, without the secret."""
        reasons = [] if self.name is None else [f"its name: {self.name}"]
        reasons += [f"line {one.line}: {one.kind}" if one.line else one.kind for one in self.found[:_SHOWN]]
        more = len(self.found) - _SHOWN
        return ", ".join(reasons) + (f", and {more} more" if more > 0 else "")


class HoldsSecrets(ValidationError):
    """Files that must not travel are among what was to be sent; nothing was sent."""

    def __init__(self, refused: tuple[Refusal, ...], *, what: str, next: str) -> None:  # noqa: A002
        shown = "; ".join(f"{one.path} ({one.reason})" for one in refused)
        super().__init__(
            f"{what} holds {len(refused)} file(s) that look like credentials: {shown}",
            why="secrets do not travel with code: a machine gets its rights from its role",
            next=next,
        )
        self.refused = refused

    def details(self) -> dict[str, object]:
        """Every file with its reasons."""
        return {
            "refused": [
                {
                    "path": one.path,
                    "name": one.name,
                    "found": [{"line": found.line, "kind": found.kind} for found in one.found],
                }
                for one in self.refused
            ]
        }


def refusals(files: Iterable[Candidate], *, look_inside: bool = True) -> Iterator[Refusal]:
    """Each of the files that must not travel; links are none. Raises OSError for one that cannot be read."""
    for file in files:
        if file.where.is_symlink():
            continue
        name = names.by_name(_with_hidden_root(file))
        found: tuple[Found, ...] = ()
        if look_inside:
            with file.where.open("rb") as opened:
                data = opened.read(contents.READ_UP_TO)
            if name is not None and names.may_be_public(file.path) and contents.is_public(data):
                name = None
            found = contents.by_content(data, file.path)
        if name is not None or found:
            yield Refusal(file.path, name, found)


def require_none(refused: Iterable[Refusal], *, ignore_file: str) -> None:
    """Raises HoldsSecrets that names every one of the files, and the ways out of all of them."""
    all_refused = tuple(refused)
    if not all_refused:
        return
    lines = " ".join(shlex.quote(_as_pattern(one.path)) for one in all_refused)
    raise HoldsSecrets(
        all_refused,
        what="The code",
        next=f"leave out: printf '%s\\n' {lines} >> {quoted(ignore_file)}; or let one travel: name it there, "
        f"like !{_as_pattern(all_refused[0].path)}, and say yes to that: "
        f"runctl config trust {quoted(ignore_file)}",
    )


def require_none_in_data(folder: Path) -> None:
    """Raises HoldsSecrets for files of a data folder by their names: what stands in data may be anything."""
    files = (Path(parent, name) for parent, _, names_ in os.walk(folder) for name in names_)
    found = (_File(path.relative_to(folder).as_posix(), path) for path in files)
    refused = tuple(sorted(refusals(found, look_inside=False), key=lambda one: one.path))
    if refused:
        raise HoldsSecrets(
            refused,
            what=f"The data folder {folder}",
            next=f"move them out of it; or send what you mean to, and name that as --data: "
            f"runctl s3 upload {shlex.quote(str(folder))} s3://BUCKET/PREFIX --allow-secret NAME",
        )


class _File(msgspec.Struct, frozen=True):
    path: str
    where: Path


def _with_hidden_root(file: Candidate) -> str:
    """A folder that is sent from inside `.aws` holds what it holds; `secrets` may be a project's own name."""
    root = file.where.absolute().parents[file.path.count("/")].name
    return f"{root}/{file.path}" if root.startswith(".") else file.path


def _as_pattern(path: str) -> str:
    """A line of an ignore file that speaks of this path and of no other."""
    escaped = "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in path)
    return "/" + (escaped[:-1] + "\\ " if escaped.endswith(" ") else escaped)
