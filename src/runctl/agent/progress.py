"""How far a script is, read from what it prints and from how it names its checkpoints."""

from __future__ import annotations

import re
from typing import Optional, Pattern, Tuple

_THEN_A_NUMBER = rb"[\"' \t\f\v:=#\[(]{1,12}(\d{1,12})\b(?!\.\d)"
_BEFORE = rb"(?<![a-z0-9_.-])"
_STEPS = re.compile(_BEFORE + rb"(?:global_step|step|iteration|iter)" + _THEN_A_NUMBER)
_EPOCHS = re.compile(_BEFORE + rb"epoch" + _THEN_A_NUMBER)
_GLOBAL = len(b"global_")
_MOST_WORDS = 1000  # that name no number, in a row; whoever prints more of them is not waited for
_STEP_IN_NAME = re.compile(r"(?:step|iter)[-_=]?(\d{1,12})", re.IGNORECASE)
_OTHER_IN_NAME = re.compile(r"(?:epoch|checkpoint|ckpt)[-_=]?(\d{1,12})", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![a-z0-9])(?<!\d\.)(\d{1,12})(?![a-z0-9])(?!\.\d)", re.IGNORECASE)
_LONGEST_LINE = 4096


class StepReader:
    """Fed with a script's output, knows the first and last step that it named; steps win over epochs."""

    def __init__(self) -> None:
        self.first: Optional[int] = None
        self.step: Optional[int] = None
        self._saw_steps = False
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Read whole lines. Only the ends are looked at: the time depends on the bytes, not on the lines."""
        text = (self._rest + data).lower().replace(b"\r", b"\n")
        whole = text.rfind(b"\n") + 1
        rest, text = text[whole:], text[:whole]
        if len(rest) > _LONGEST_LINE:
            self.skip()
            rest = self._rest + rest[-_LONGEST_LINE:]
        self._rest = rest
        last = _outermost(text, _STEPS, (b"step", b"iter"), last=True)
        if last is not None:
            if not self._saw_steps:  # what came before were epochs
                self.first = _outermost(text, _STEPS, (b"step", b"iter"), last=False)
            self._saw_steps = True
        elif not self._saw_steps:
            last = _outermost(text, _EPOCHS, (b"epoch",), last=True)
            if self.first is None:
                self.first = _outermost(text, _EPOCHS, (b"epoch",), last=False)
        if last is not None:
            self.step = last

    def skip(self) -> None:
        """What is fed next does not join what was fed before, and begins within a line."""
        self._rest = b"-"  # a word that follows it is not at its beginning


def _outermost(text: bytes, pattern: Pattern[bytes], words: Tuple[bytes, ...], last: bool) -> Optional[int]:
    """The number that the last one of some words names, or the first one."""
    found = [place for place in (_place(text, pattern, word, last) for word in words) if place is not None]
    if not found:
        return None
    return (max(found) if last else min(found))[1]


def _place(text: bytes, pattern: Pattern[bytes], word: bytes, last: bool) -> Optional[Tuple[int, int]]:
    """Where one word names a number, and the number; searched by word, for this is quicker by far."""
    at = len(text) if last else -1
    for _ in range(_MOST_WORDS):
        at = text.rfind(word, 0, at) if last else text.find(word, at + 1)
        if at < 0:
            return None
        match = pattern.match(text, at) or (pattern.match(text, at - _GLOBAL) if at >= _GLOBAL else None)
        if match is not None and match.start(1) > at:
            return at, int(match.group(1))
    return None


def step_of_name(name: str) -> Optional[int]:
    """`epoch-0007.npz` is 7, `checkpoint-500` is 500; None where the name says nothing."""
    stem = name.rsplit(".", 1)[0] if "." in name[1:] else name
    for pattern in (_STEP_IN_NAME, _OTHER_IN_NAME, _NUMBER):
        found = pattern.findall(stem)
        if found:
            return int(found[-1])
    return None
