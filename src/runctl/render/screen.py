r"""A script's log on a terminal: its colours and progress bars work, and it gives no other order.

A log is shown live, and it may come from another user's job or from whoever can write to the bucket. What
passes:

- text, line ends, tabs, `\r` and backspaces;
- colours and styles (SGR), which are switched off before a line of ours;
- within a line: left, right, to a column, erase (in) the line;
- lines up and down, as tqdm, rich and pip draw their bars: never above the first line that the log itself
  wrote since our own last line, so that it paints over nothing of ours; erase below.

Of everything else (titles, clipboard, links, queries that are answered as if typed, modes, the other screen,
character sets, resets, their C1 forms, characters that change the direction or cannot be seen) the control
character is shown as its escape; what follows it is plain text then. In a pipe or file nothing is changed.
"""

from __future__ import annotations

import codecs
import re

from runctl.agent.names import UNSEEN
from runctl.render.harmless import harmless

_LONGEST_SEQUENCE = 64
_SPECIAL = re.compile(
    r"\x1b\[(?P<sgr>[0-9;:]{0,48})m"
    r"|\x1b\[(?P<count>[0-9]{0,4})(?P<move>[ABCDEFGK])"
    r"|\x1b\[0?J"
    r"|(?P<cursor>\x1b\[\?25[hl])"
    rf"|(?P<other>[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f{UNSEEN}])"
)
_BEGUN = re.compile(r"\x1b(?:\[[0-9;:?]*)?\Z")
_UP, _DOWN = "AF", "BE"


class Screen:
    """What one log has done to the terminal so far; its memory is bounded whatever the log holds."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._begun = ""
        self._styled = False
        self._line = 0  # how far below its first line the log writes
        self._lowest = 0

    def shown(self, data: bytes) -> bytes:
        """The next bytes of the log as the terminal may have them; a sequence may go on in the next ones."""
        text = self._begun + self._decoder.decode(data)
        self._begun = ""
        if begun := _BEGUN.search(text, max(0, len(text) - _LONGEST_SEQUENCE)):
            text, self._begun = text[: begun.start()], begun[0]
        parts: list[str] = []
        end = 0
        for match in _SPECIAL.finditer(text):
            parts.append(self._plain(text[end : match.start()]))
            parts.append(self._special(match))
            end = match.end()
        parts.append(self._plain(text[end:]))
        return "".join(parts).encode("utf-8", "backslashreplace")

    def settled(self) -> bytes:
        """What undoes the log's style; from here on it cannot come back above this line."""
        self._line = self._lowest = 0
        if not self._styled:
            return b""
        self._styled = False
        return b"\x1b[0m"

    def _plain(self, text: str) -> str:
        self._line += text.count("\n")
        self._lowest = max(self._lowest, self._line)
        return text

    def _special(self, match: re.Match[str]) -> str:
        if match["other"] is not None:
            return harmless(match[0])
        if match["cursor"] is not None:
            return ""  # hiding the cursor is what every bar does and none must: nobody would show it again
        if match["sgr"] is not None:
            self._styled = match["sgr"].strip("0;:") != ""
        elif match["move"] is not None and match["move"] in _UP + _DOWN:
            return self._moved(match["move"], int(match["count"] or 1) or 1)
        return match[0]

    def _moved(self, move: str, count: int) -> str:
        is_up = move in _UP
        count = min(count, self._line if is_up else self._lowest - self._line)
        if count == 0:
            return "\r" if move in "EF" else ""
        self._line += -count if is_up else count
        return f"\x1b[{count}{move}"
