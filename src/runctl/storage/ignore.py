"""Which files git would leave out, and what `.runctlignore` says instead."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

import msgspec

from runctl import owners
from runctl.trust import Trust

GIT_FILE = ".gitignore"
OWN_FILE = ".runctlignore"

# Git matches bytes, not letters. Bytes that are no plain sign become private letters, which no
# pattern takes for blanks and which keep their order for ranges.
_PRIVATE_LETTERS = {byte: 0xE000 + byte for byte in (*range(0x20), *range(0x7F, 0x100))}


class Rule(msgspec.Struct, frozen=True):
    """One line of an ignore file: `leaves_out` is False for `!pattern`."""

    text: str
    leaves_out: bool
    folders_only: bool
    expression: re.Pattern[str]
    by: Path | None = None  # the file that lets travel without the user's yes
    denied: bool = False  # the user said no to it

    def speaks_of(self, path: str, *, is_folder: bool) -> bool:
        """Whether the pattern matches this very path; what lies inside a match is the walk's affair."""
        if self.folders_only and not is_folder:
            return False
        match = self.expression.search(_byte_by_byte(os.fsencode(path)))
        return match is not None and match.lastgroup is None

    @property
    def shown(self) -> str:
        """The pattern as it stands in the file."""
        return _letters(self.text)

    def names(self, path: str) -> bool:
        """Whether the last part of the pattern is the file's own name, with no wildcard."""
        name = path.rpartition("/")[2]
        return self.text.rpartition("/")[2] == _byte_by_byte(os.fsencode(name))


class RuleFile(msgspec.Struct, frozen=True):
    """The rules of one file, which speak of paths from its own folder on.

    `base` is that folder where it lies below the root, `above` the way from it down to the root where it
    lies higher; each ends with `/` or is empty.
    """

    base: str
    rules: tuple[Rule, ...]
    above: str = ""


def last_word(files: tuple[RuleFile, ...], path: str, *, is_folder: bool) -> Rule | None:
    """The rule that decides: the last that speaks, in the deepest file that has one. `files` go deeper."""
    for file in reversed(files):
        inner = file.above + path.removeprefix(file.base)
        for rule in reversed(file.rules):
            if rule.speaks_of(inner, is_folder=is_folder):
                return rule
    return None


def rule_file(path: Path, base: str, *, above: str = "", trust: Trust | None = None) -> tuple[RuleFile, ...]:
    """The rules of one ignore file, none where there is no such file (git follows no link to one).

    What a file lets travel needs the user's yes where `trust` is given: such rules say by whom they are.
    """
    if path.is_symlink() or not path.is_file():
        return ()
    content = path.read_bytes()
    rules = _rules(content)
    if trust is not None and any(not rule.leaves_out for rule in rules):
        rules = _under(rules, path, _answer(path, content, trust))
    return (RuleFile(base, rules, above),) if rules else ()


def way_back(content: bytes) -> list[str]:
    """The lines of an ignore file that let travel what something else leaves out."""
    return [f"!{rule.shown}" for rule in _rules(content) if not rule.leaves_out]


def _rules(content: bytes) -> tuple[Rule, ...]:
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    return tuple(rule for line in lines if (rule := parse_rule(line.removesuffix(b"\r"))))


def _answer(path: Path, content: bytes, trust: Trust) -> bool | None:
    return None if owners.fault(path) else trust.answer(path, content)


def _under(rules: tuple[Rule, ...], path: Path, answer: bool | None) -> tuple[Rule, ...]:
    if answer:
        return rules
    marked = {"by": path, "denied": answer is False}
    return tuple(rule if rule.leaves_out else msgspec.structs.replace(rule, **marked) for rule in rules)


def parse_rule(line: bytes) -> Rule | None:
    """One line as git reads it; None for a comment, a blank or a pattern that git throws away."""
    from pathspec import GitIgnoreSpec

    text = _without_trailing_blanks(_byte_by_byte(line))
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    pattern = text[1:] if negated else text
    folders_only = pattern.endswith("/")
    pattern = pattern.removesuffix("/")
    if not pattern:
        return None
    protected = f"\\{pattern}" if pattern[0] in "!#" and negated else pattern
    try:
        compiled = GitIgnoreSpec.from_lines([protected]).patterns[0]
    except ValueError:
        return None
    if not (expression := getattr(compiled, "regex", None)):
        return None
    return Rule(pattern, not negated, folders_only, expression)


def _without_trailing_blanks(line: str) -> str:
    stripped = line.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    return stripped + " " if backslashes % 2 and stripped != line else stripped


def _byte_by_byte(text: bytes) -> str:
    return text.decode("latin-1").translate(_PRIVATE_LETTERS)


def _letters(text: str) -> str:
    """The way back, for people."""
    signs = (ord(sign) - 0xE000 if ord(sign) >= 0xE000 else ord(sign) for sign in text)
    return bytes(signs).decode(errors="replace")
