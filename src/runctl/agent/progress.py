"""How far a script is, read from what it prints and from how it names its checkpoints."""

from __future__ import annotations

import re
from typing import Optional

_WORDS = re.compile(
    rb"(?:^|[^a-z0-9])\"?(global_step|step|steps|iter|iteration|epoch)\"?\s*[:=#\s\[(]\s*(\d{1,12})\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?:step|epoch|iter|checkpoint|ckpt|global_step)[-_=]?(\d{1,12})", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"(\d{1,12})(?!.*\d)")
_LONGEST_LINE = 4096


class StepReader:
    """Fed with a script's output, knows the last step that it named; steps win over epochs."""

    def __init__(self) -> None:
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
            self._saw_steps = True
            self.step = steps
        elif epochs is not None and not self._saw_steps:
            self.step = epochs


def step_of_name(name: str) -> Optional[int]:
    """`epoch-0007.npz` is 7, `checkpoint-500` is 500; None where the name says nothing."""
    stem = name.rsplit(".", 1)[0] if "." in name[1:] else name
    found = _NAME.findall(stem)
    if found:
        return int(found[-1])
    last = _LAST_NUMBER.search(stem)
    return int(last.group(1)) if last else None
