"""What a script says of itself step by step: numbers with names, and which samples it saw.

Lines are read as people write them: `step 20/400 | loss 0.13`, `{"step": 20, "loss": 0.13}`,
`{'loss': 0.13, 'epoch': 0.4}`, progress bars, and Keras's `Epoch 2/5` with its figures on the next line.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BEFORE = r"(?<![A-Za-z0-9_.])"
_STEP_NAMES = ("global_step", "step", "iteration", "iter", "it", "update", "batch_idx")
_STEP = re.compile(
    _BEFORE
    + r"(?:global[_ ]?step|step|iteration|iter|update)s?[\"']?\s*[:=#]?\s*[\[(]?\s*(\d{1,12})(?![\d.]*[\d])",
    re.IGNORECASE,
)
_EPOCH = re.compile(_BEFORE + r"epochs?[\"']?\s*[:=#]?\s*[\[(]?\s*(\d{1,9})(?!\.?\d)", re.IGNORECASE)
_BAR = re.compile(r"(?<![\d./])(\d{1,12})/\d{1,12}\s*\[")
_IDS_NAME = (
    r"(?:sample[_ ]?ids?|samples?|ids?|idx|ind(?:ices|ex)|batch(?:_ids)?|order|rows?|examples?|data|items?"
    r"|seen|keys?)"
)
_IDS = re.compile(_BEFORE + _IDS_NAME + r"[\"']?\s*[:=]?\s*[\[(]([^\])]*)[\])]", re.IGNORECASE)
_ID_LIST = re.compile(
    _BEFORE + _IDS_NAME + r"[\"']?\s*[:=]?\s*(-?\w+(?:\s*[,; ]\s*-?\d+){1,})", re.IGNORECASE
)
_IDS_KEY = re.compile(_IDS_NAME, re.IGNORECASE)
_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf)"
_VALUE = re.compile(
    r"(?<![A-Za-z0-9_])([A-Za-z_][A-Za-z0-9_./@-]*)[\"']?\s*(?:[:=]|is)?\s*[\"']?("
    + _NUMBER
    + r")(?![\w.]*\w*[A-Za-z_/])",
    re.IGNORECASE,
)
_NO_VALUE = re.compile(
    r"(?:^|[_./ -])(?:time|secs?|seconds|elapsed|eta|ms|speed|throughput|memory|mem|gpu|cpu|date|pid|port"
    r"|rss)(?:$|[_./ -])|per_sec|_per_s|samples_per|steps_per|it/s|runtime",
    re.IGNORECASE,
)
"""Names whose values tell of the machine and not of the training."""

_LEADING = re.compile(r"\s*[\[(]?(\d{1,12})[\])]?\s*[:|,]?\s+[A-Za-z]")
_OF_A_RESUME = re.compile(
    r"\b(?:resum|restor|load(?:ed|ing)|continu|recover|interrupt|sigterm)", re.IGNORECASE
)
_OF_A_SAVE = re.compile(r"\b(?:sav(?:ed|ing|e)|wrote|writing|checkpoint(?:ed|ing)?)\b", re.IGNORECASE)

Key = tuple[float | None, int | None]
"""Epoch and step, as far as a line names them."""


class Reading(msgspec.Struct, frozen=True):
    """What was said at one step: values by name, as numbers; ids of the samples in their order."""

    key: Key
    values: Mapping[str, float]
    ids: tuple[str, ...] = ()

    @property
    def number(self) -> float:
        """The step, or the epoch if no step is named."""
        epoch, step = self.key
        return step if step is not None else epoch if epoch is not None else 0


class _Line(msgspec.Struct, frozen=True):
    epoch: float | None
    step: int | None
    values: dict[str, float]
    ids: tuple[str, ...]


def readings(log: str) -> list[Reading]:
    """What a log says, one reading for each step in the order in which the steps were named."""
    found: dict[Key, tuple[dict[str, float], tuple[str, ...]]] = {}
    last: Key | None = None
    for line in _ESCAPES.sub("", log).replace("\r", "\n").split("\n"):
        said = _read(line)
        if said is None:
            continue
        if said.step is None and said.epoch is None:
            if last is not None and (said.values or said.ids):
                _add(found, last, said)
            continue
        last = key = (said.epoch, said.step)
        _add(found, key, said)
    all_found = [Reading(key, values, ids) for key, (values, ids) in found.items()]
    return [one for one in all_found if one.values or one.ids] or all_found


def _add(found: dict[Key, tuple[dict[str, float], tuple[str, ...]]], key: Key, said: _Line) -> None:
    values, ids = found.setdefault(key, ({}, ()))
    values.update(said.values)
    found[key] = (values, ids + said.ids)


def _read(line: str) -> _Line | None:
    text = line.strip()
    if not text or len(text) > 100_000 or _OF_A_RESUME.search(text):
        return None
    table = _mapping(text)
    if table is not None:
        return _of_mapping(table)
    ids: list[str] = []
    for pattern in (_IDS, _ID_LIST):
        if match := pattern.search(text):
            words = re.findall(r"-?\w+", match[1])
            if words and (pattern is _IDS or len(words) > 1):
                ids = words
                text = text[: match.start()] + " " + text[match.end() :]
                break
    step = _STEP.search(text) or _BAR.search(text) or _LEADING.match(text)
    epoch = _EPOCH.search(text)
    values = {
        name.lower(): float(number)
        for name, number in _VALUE.findall(text)
        if _is_value(name) and not _NO_VALUE.search(name)
    }
    if not values and not ids and ((step is None and epoch is None) or _OF_A_SAVE.search(text)):
        return None
    return _Line(float(epoch[1]) if epoch else None, int(step[1]) if step else None, values, tuple(ids))


def _is_value(name: str) -> bool:
    return name.lower() not in {*_STEP_NAMES, "epoch", "epochs", "steps", "of", "e", "rank", "seed"}


def _mapping(text: str) -> Mapping[str, Any] | None:
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    inner = text[start : end + 1]
    try:
        value = json.loads(inner)
    except ValueError:
        try:
            value = ast.literal_eval(inner)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, dict) else None  # pyright: ignore


def _of_mapping(table: Mapping[str, Any]) -> _Line | None:
    step: int | None = None
    epoch: float | None = None
    values: dict[str, float] = {}
    ids: list[str] = []
    for key, value in table.items():
        name = str(key).lower()
        number = _number(value)
        if name in _STEP_NAMES and number is not None:
            step = int(number)
        elif name == "epoch" and number is not None:
            epoch = number
        elif number is not None and not _NO_VALUE.search(name):
            values[name] = number
        elif isinstance(value, (list, tuple)) and _IDS_KEY.fullmatch(name):
            ids = [str(item) for item in value]
    return _Line(epoch, step, values, tuple(ids))


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def alike(one: float, other: float, tolerance: float = 1e-6) -> bool:
    """Whether two numbers are the same but for rounding; `tolerance` is relative."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    if one == other:
        return True
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)


def by_key(found: Iterable[Reading]) -> dict[Key, Reading]:
    return {one.key: one for one in found}
