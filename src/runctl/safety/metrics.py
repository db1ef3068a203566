"""What a script said of itself by step: the metric by which the best checkpoint is known. Pure.

What people write is read: a Trainer's `trainer_state.json`, lines of JSON, tables with a head, and lines of a
log such as `step 120 val_loss=0.25`.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_STEPS = ("global_step", "step", "iteration", "iter", "epoch")
"""What counts, in this order: a table may have a step and an epoch."""
_NUMBER = r"-?[0-9]+(?:[.][0-9]*)?(?:e[-+]?[0-9]+)?"


def values(texts: Iterable[str], metric: str) -> dict[int, float]:
    """The metric by step; of two values for one step the later one counts."""
    found: dict[int, float] = {}
    for text in texts:
        found.update(_of_state(text, metric) or _of_table(text, metric) or _of_lines(text, metric))
    return found


def at(measured: Mapping[int, float], step: int | None, after: int | None) -> float | None:
    """The newest value up to a checkpoint's step and after the one before it; None if there is none."""
    if step is None:
        return None
    fit = [one for one in measured if one <= step and (after is None or one > after)]
    return measured[max(fit)] if fit else None


def _of_state(text: str, metric: str) -> dict[int, float]:
    """A Trainer's state: `log_history` has a row for each time that something was logged."""
    if not text.lstrip().startswith("{") or '"log_history"' not in text:
        return {}
    try:
        rows = json.loads(text)["log_history"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return _of_rows(rows if isinstance(rows, list) else [], metric)


def _of_rows(rows: Iterable[Any], metric: str) -> dict[int, float]:
    found: dict[int, float] = {}
    for row in rows:
        if not isinstance(row, dict):
            continue
        named: dict[str, Any] = row
        step = next((_number(named[name]) for name in _STEPS if _number(named.get(name)) is not None), None)
        value = _number(named.get(metric))
        if step is not None and value is not None:
            found[int(step)] = value
    return found


def _of_table(text: str, metric: str) -> dict[int, float]:
    head, _, _ = text.partition("\n")
    for mark in (",", "\t", ";"):
        columns = [column.strip().strip('"') for column in head.split(mark)]
        if metric in columns and any(name in columns for name in _STEPS):
            lines = text.splitlines()[1:]
            try:
                rows = [dict(zip(columns, row, strict=False)) for row in csv.reader(lines, delimiter=mark)]
            except csv.Error:
                return {}
            return _of_rows(rows, metric)
    return {}


def _of_lines(text: str, metric: str) -> dict[int, float]:
    found: dict[int, float] = {}
    said = re.compile(rf"(?<![\w.-]){re.escape(metric)}[\"']?\s*[:= ]\s*({_NUMBER})", re.IGNORECASE)
    step_of = [re.compile(rf"(?<![\w.-]){name}[\"']?\s*[:=# ]\s*([0-9]+)", re.IGNORECASE) for name in _STEPS]
    step: int | None = None
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                found.update(_of_rows([json.loads(line)], metric))
                continue
            except (ValueError, RecursionError):
                pass
        named = next((match for one in step_of if (match := one.search(line))), None)
        step = int(named[1]) if named else step
        value = said.search(line)
        if value and step is not None and (number := _number(value[1])) is not None:
            found[step] = number
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
