"""Text of others as a terminal may be shown it: what would be obeyed, or not be seen, is spelled out.

Names, tags, keys, causes and error texts come from clouds, buckets, files and scripts. A terminal obeys the
control characters in them, a reader is misled by characters that change the direction or cannot be seen, and
a line break forges a line of ours. Text leaves in `render.output` alone, which asks here: no command has to.
"""

from __future__ import annotations

import re

LONGEST_LINE = 4_000
"""Characters of one line of text; what is longer is whole in JSON alone."""

_NOT_PLAIN = re.compile(r"[^ -~]")
_NOT_PLAIN_JSON = re.compile(r"[^\n -~]")
_LINE_END = re.compile(r"(\r?\n)")
_UNSEEN = re.compile(
    # Letters, marks and signs to Unicode, and nothing to the eye (Default_Ignorable_Code_Point, U+2800).
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def is_harmless(text: str) -> bool:
    """Whether each character is one that can be seen, or a plain space."""
    return text.isprintable() and not (not text.isascii() and _UNSEEN.search(text))


def harmless(text: str, *, longest: int | None = LONGEST_LINE) -> str:
    r"""One line, every other character than visible ones as its escape: `\x1b`, `\n`, `\u202e`.

    At most `longest` characters of the text are shown, and how many more there are.
    """
    more = ""
    if longest is not None and len(text) > longest:
        more = f"... ({len(text) - longest:,} more characters)"
        text = text[:longest]
    return (text if is_harmless(text) else _NOT_PLAIN.sub(_spelled, text)) + more


def harmless_lines(text: str) -> str:
    """A document of ours whose line ends are its structure: as `harmless` between them, and never cut."""
    parts = _LINE_END.split(text)
    parts[::2] = [harmless(part, longest=None) for part in parts[::2]]
    return "".join(parts)


def harmless_json(text: str) -> str:
    r"""The same JSON, with `\uXXXX` for what a terminal would obey; it decodes to exactly what it did before.

    Outside of its strings JSON is plain ASCII, so that every other character stands in a string.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return _NOT_PLAIN_JSON.sub(_spelled_in_json, text)


def _spelled(match: re.Match[str]) -> str:
    char = match[0]
    if is_harmless(char):
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no text: os.fsdecode
        code -= 0xDC00
    if char in _SHORT:
        return _SHORT[char]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _spelled_in_json(match: re.Match[str]) -> str:
    char = match[0]
    if is_harmless(char):
        return char
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    return f"\\u{0xD800 + (code - 0x10000 >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
