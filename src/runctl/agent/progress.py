"""How far a script is, read from what it prints and from how it names its checkpoints."""

from __future__ import annotations

import re
from typing import Optional

_WORDS = re.compile(
    rb"(?:^|[^a-z0-9_.-])(global_step|step|iter|iteration|epoch)[\"'\s:=#\[(]{1,12}(\d{1,12})\b(?!\.\d)",
    re.IGNORECASE,
)
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
        lines = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop()[-_LONGEST_LINE:]
        for line in lines:
            self._read(line)

    def _read(self, line: bytes) -> None:
        steps = epochs = None
        for match in _WORDS.finditer(line):
            if match.group(1).lower() == b"epoch":
                epochs = int(match.group(2))
            else:
                steps = int(match.group(2))
        if steps is not None:
            if not self._saw_steps:
                self.first = None  # what came before were epochs
            self._saw_steps = True
            self._name(steps)
        elif epochs is not None and not self._saw_steps:
            self._name(epochs)

    def _name(self, step: int) -> None:
        self.step = step
        if self.first is None:
            self.first = step


def step_of_name(name: str) -> Optional[int]:
    """`epoch-0007.npz` is 7, `checkpoint-500` is 500; None where the name says nothing."""
    stem = name.rsplit(".", 1)[0] if "." in name[1:] else name
    for pattern in (_STEP_IN_NAME, _OTHER_IN_NAME, _NUMBER):
        found = pattern.findall(stem)
        if found:
            return int(found[-1])
    return None
