"""Which names no file and no object gets, wherever it comes from: one rule for the laptop and the machine.

A name stands in listings, logs and commands for years. One that a terminal obeys, or that reads as another
than it is, is refused with its reason where files and objects are listed; the rest of a transfer goes on.
"""

from __future__ import annotations

import re

CONTROLS = "\\x00-\\x1f\\x7f-\\x9f"
UNSEEN = (
    # What changes the direction of the text, ends a line of it, or cannot be seen. The joiners of emoji and
    # of many scripts (U+200C, U+200D) are a part of honest names.
    "\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\U000e0000-\\U000e007f"
)
_CONTROL = re.compile("[%s]" % CONTROLS)
_UNSEEN = re.compile("[%s]" % UNSEEN)


def unfit(name: str) -> str:
    """Why nothing gets this name; empty where it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    if _CONTROL.search(name):
        return "its name holds a control character"
    found = _UNSEEN.search(name)
    if found:
        return "its name holds U+%04X, which cannot be seen or turns the text around" % ord(found.group())
    return ""
