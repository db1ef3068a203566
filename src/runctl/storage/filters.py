"""What of a folder or prefix takes part in a transfer, by patterns as in a .gitignore file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from runctl.errors import ValidationError
from runctl.storage.ignore import Rule, parse_rule


class Filters:
    """`include` names all that takes part where it is not empty; `exclude` takes away from that.

    In each list the last pattern that matches decides, `!` takes its match back. A pattern that matches a
    folder speaks of everything in it, and nothing in an excluded folder can be taken back, as in git. Raises
    ValidationError for a pattern that git would throw away, and for an `include` that only takes back.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = [_rule(text) for text in include]
        self._exclude = [_rule(text) for text in exclude]
        if include and not any(rule.leaves_out for rule in self._include):
            raise ValidationError(
                f"--include {include[0]!r} takes back what nothing names",
                next=f"write --exclude {include[0][1:]!r}",
            )
        self._folders: dict[str, tuple[bool, bool]] = {"": (not include, False)}

    def wants(self, key: str) -> bool:
        """Whether the file `key` takes part."""
        if not self._include and not self._exclude:
            return True
        folder, _, _ = key.rpartition("/")
        inside, outside = self._of_folder(folder)
        if outside or _last(self._exclude, key, is_folder=False):
            return False
        named = _last(self._include, key, is_folder=False)
        return inside if named is None else named

    def leaves_out_folder(self, key: str) -> bool:
        """Whether nothing in the folder `key` can take part, so that nobody need look into it."""
        return bool(self._exclude) and self._of_folder(key)[1]

    def _of_folder(self, folder: str) -> tuple[bool, bool]:
        found = self._folders.get(folder)
        if found is None:
            inside, outside = self._of_folder(folder.rpartition("/")[0])
            named = _last(self._include, folder, is_folder=True)
            found = (
                inside if named is None else named,
                outside or bool(_last(self._exclude, folder, is_folder=True)),
            )
            self._folders[folder] = found
        return found


def _rule(text: str) -> Rule:
    rule = parse_rule(os.fsencode(text))
    if rule is None:
        raise ValidationError(
            f"{text!r} is no pattern",
            why="it matches nothing in a .gitignore file",
            next="write it as in a .gitignore file: '*.tmp', 'raw/', '/top.txt'",
        )
    return rule


def _last(rules: list[Rule], path: str, *, is_folder: bool) -> bool | None:
    """What the last rule that speaks of it says, None where none does."""
    for rule in reversed(rules):
        if rule.speaks_of(path, is_folder=is_folder):
            return rule.leaves_out
    return None
