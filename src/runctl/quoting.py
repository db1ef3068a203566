"""Words of others in a command that is shown to be copied: a shell takes each for one word only."""

from __future__ import annotations

import shlex

_IN_ANSI_C = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"}


def quoted(word: object) -> str:
    r"""A word as bash, zsh and fish read it back; as it is where it has nothing special.

    What a terminal would obey or not show is spelled out as bash and zsh understand it: `$'a\x1b'`.
    """
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_spelled(char) for char in text) + "'"


def _spelled(char: str) -> str:
    if char in _IN_ANSI_C:
        return _IN_ANSI_C[char]
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no text: os.fsdecode
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
