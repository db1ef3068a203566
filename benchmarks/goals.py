"""What a benchmark must reach: each figure says whether it does, and a miss is the exit code."""

from __future__ import annotations


class Goals:
    """Upper bounds; `missed` counts the figures that do not keep theirs."""

    def __init__(self) -> None:
        self.missed = 0

    def under(self, figure: float, bound: float) -> str:
        """`reached` or `MISSED`, to be printed behind a figure that must be under its bound."""
        if figure < bound:
            return "reached"
        self.missed += 1
        return "MISSED"

    @property
    def exit_code(self) -> int:
        return 1 if self.missed else 0
