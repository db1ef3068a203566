"""What of a folder or prefix takes part in a transfer, by patterns as in a .gitignore file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from runctl.errors import ValidationError
from runctl.storage.ignore import Rule, parse_rule


class Filters:
    """`include` names all that takes part where it is not empty; `exclude` takes away from that.

    A pattern that matches a folder speaks of everything in it. Raises ValidationError for a pattern that git
    would throw away.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = [_rule(text) for text in include]
        self._exclude = [_rule(text) for text in exclude]
        self._folders: dict[str, tuple[bool, bool]] = {"": (not include, False)}

    def wants(self, key: str) -> bool:
        """Whether the file `key` takes part."""
        if not self._include and not self._exclude:
            return True
        folder, _, _ = key.rpartition("/")
        inside, outside = self._of_folder(folder)
        if outside or _speak(self._exclude, key, is_folder=False):
            return False
        return inside or _speak(self._include, key, is_folder=False)

    def leaves_out_folder(self, key: str) -> bool:
        """Whether nothing in the folder `key` can take part, so that nobody need look into it."""
        return bool(self._exclude) and self._of_folder(key)[1]

    def _of_folder(self, folder: str) -> tuple[bool, bool]:
        found = self._folders.get(folder)
        if found is None:
            inside, outside = self._of_folder(folder.rpartition("/")[0])
            found = (
                inside or _speak(self._include, folder, is_folder=True),
                outside or _speak(self._exclude, folder, is_folder=True),
            )
            self._folders[folder] = found
        return found


def _rule(text: str) -> Rule:
    rule = None if text.startswith("!") else parse_rule(os.fsencode(text))
    if rule is None:
        raise ValidationError(
            f"{text!r} is no pattern",
            why="it matches nothing in a .gitignore file" if not text.startswith("!") else "it is negated",
            next="write it as in a .gitignore file: '*.tmp', 'raw/', '/top.txt'",
        )
    return rule


def _speak(rules: list[Rule], path: str, *, is_folder: bool) -> bool:
    return any(rule.speaks_of(path, is_folder=is_folder) for rule in rules)
