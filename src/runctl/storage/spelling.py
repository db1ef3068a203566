"""Names that a disk cannot keep apart: on most of macOS `A` and `a` are one file."""

from __future__ import annotations

import os
import secrets
import unicodedata
from pathlib import Path

from runctl.errors import Conflict
from runctl.storage.objects import PARTIAL_PREFIX


def tells_case_apart(folder: Path) -> bool:
    """Whether `A` and `a` are two files in this folder; True where nothing can be written there."""
    probe = folder / f"{PARTIAL_PREFIX}{os.getpid()}.case{secrets.token_hex(4)}"
    try:
        probe.touch(exist_ok=False)
    except OSError:
        return True
    try:
        return not probe.with_name(probe.name.upper()).exists()
    finally:
        probe.unlink()


class Spelling:
    """The first spelling of each name below `root`: what lies there, then what is claimed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, dict[str, str]] = {}

    def claim(self, key: str) -> None:
        """Take a name. Raises Conflict where it is taken in another spelling, or a folder of it is."""
        folder = ""
        for part in key.split("/"):
            names = self._names(folder)
            taken = names.setdefault(_folded(part), part)
            if taken != part:
                raise Conflict(
                    f"{key} cannot lie beside {folder}{taken}",
                    why="the names differ only in case or accents, and this disk takes them for one",
                )
            folder += f"{part}/"

    def _names(self, folder: str) -> dict[str, str]:
        if folder not in self._folders:
            try:
                found = os.listdir(self._root / folder)  # noqa: PTH208 (names alone)
            except OSError:
                found = []  # it will be made
            self._folders[folder] = {_folded(name): name for name in found}
        return self._folders[folder]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFD", name).casefold()
