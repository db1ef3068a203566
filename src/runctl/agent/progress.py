"""How far a script is, read from what it prints and from how it names its checkpoints."""

from __future__ import annotations

import bisect
import re
from typing import List, Optional, Pattern, Tuple

_THEN_A_NUMBER = rb"[\"' \t\f\v:=#\[(]{1,12}(\d{1,12})\b(?!\.\d)"
_BEFORE = rb"(?<![a-z0-9_.-])"
_STEPS = re.compile(_BEFORE + rb"(?:global_step|step|iteration|iter)" + _THEN_A_NUMBER)
_EPOCHS = re.compile(_BEFORE + rb"epoch" + _THEN_A_NUMBER)
_GLOBAL = len(b"global_")
_MOST_WORDS = 1000  # that name no number, in a row; whoever prints more of them is not waited for
_STEP_IN_NAME = re.compile(r"(?:step|iter)[-_=]?(\d{1,12})", re.IGNORECASE)
_OTHER_IN_NAME = re.compile(
    r"(?:epoch|checkpoint|ckpt)[-_=]?(\d{1,12})(?:_(\d{1,12})(?!\d|\.\d))?|(?<![a-z0-9])(?:ep|ba)(\d{1,12})(?![a-z0-9])",
    re.IGNORECASE,
)
_NO_COUNT = re.compile(
    r"(?<![a-z0-9])(?:rank|fold|seed|gpu|shard|worker|node|layer|member|trial|run|exp|version|expert|part|v)[-_=]?\d+",
    re.IGNORECASE,
)
"""Numbers that count something else."""
_NUMBER = re.compile(r"(?<![a-z0-9])(?<!\d\.)(\d{1,12})(?![a-z0-9])(?!\.\d)", re.IGNORECASE)
_SNAPSHOT_ITERATION = re.compile(r"snapshot_iter_(\d{1,12})$")
_NO_STEP = re.compile(
    r"events\.out\.tfevents\.|__\d+_\d+\.distcp|mp_rank_\d|zero_pp_rank_\d|random_states_\d|rng_state_\d",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?:19|20)\d\d-?[01]\d-?[0-3]\d(?:[-_T]?[0-2]\d[-_:]?[0-5]\d(?:[-_:]?[0-5]\d)?)?")
_MODEL = re.compile(
    r"(?:gpt|bert|llama|qwen|vit|resnet|t5|opt|phi|mistral|gemma|clip|yolo|vgg|efficientnet|densenet|swin)(?![a-z])[-_.]?",
    re.IGNORECASE,
)
"""Beginnings of names in which a number is a model's version or size."""
_LONGEST_LINE = 4096
LATE_SECONDS = 0.6
"""Real seconds by which the log is read later than it is written, at most: it is read four times a second."""


class Steps:
    """The steps that a log named, and when; times in seconds since 1970, as files have them."""

    _MOST = 2000

    def __init__(self) -> None:
        self._times: List[float] = []
        self._named: List[int] = []

    def name(self, at: float, step: Optional[int]) -> None:
        """The log's newest step is this one, seen at `at`."""
        if step is None or (self._named and self._named[-1] == step):
            return
        self._times.append(at)
        self._named.append(step)
        if len(self._times) > self._MOST:  # every second one of the older half goes
            half = self._MOST // 2
            del self._times[:half:2], self._named[:half:2]

    @property
    def changed_at(self) -> Optional[float]:
        """When another step was last named; None while none was."""
        return self._times[-1] if self._times else None

    def at(self, when: float) -> Optional[int]:
        """The newest step at a time; the first one for a time shortly before it."""
        place = bisect.bisect_right(self._times, when + LATE_SECONDS)
        return self._named[place - 1] if place else None


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
    iteration = _SNAPSHOT_ITERATION.search(name)  # LightGBM's own: model.txt.snapshot_iter_10
    if iteration:
        return int(iteration.group(1))
    if _NO_STEP.match(name):
        return None
    stem = name.rsplit(".", 1)[0] if "." in name[1:] else name
    found = _STEP_IN_NAME.findall(stem)
    if found:
        return int(found[-1])
    others = _OTHER_IN_NAME.findall(stem)
    if others:  # fairseq's checkpoint_EPOCH_STEP, Composer's epEPOCH-baBATCH
        epoch, step, batch = others[-1]
        return int(step or batch or epoch)
    plain = _NO_COUNT.sub("", _DATE.sub("", stem))
    found = _NUMBER.findall(plain)
    return int(found[-1]) if found and _MODEL.match(stem) is None else None
