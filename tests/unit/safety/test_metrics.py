"""What a script said of a metric is read by step, whatever it writes it with."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.safety import metrics

SAID = {1: 0.9, 20: 0.25, 300: -1.5}


def state() -> str:
    rows = [{"step": step, "val_loss": value, "epoch": 0.5} for step, value in SAID.items()]
    return json.dumps({"global_step": 300, "log_history": [{"loss": 2.0, "step": 5}, *rows]})


def table(mark: str) -> str:
    rows = [f"{step}{mark}0.1{mark}{value}{mark}9" for step, value in SAID.items()]
    return "\n".join([mark.join(("step", "loss", "val_loss", "epoch")), *rows, f"7{mark}0.1{mark}{mark}"])


TEXTS = {
    "trainer": state(),
    "comma": table(","),
    "tab": table("\t"),
    "json lines": "\n".join(json.dumps({"val_loss": value, "step": step}) for step, value in SAID.items()),
    "log": "\n".join(f"[12:00] step {step}/400 loss 3.5 val_loss={value}" for step, value in SAID.items()),
    "two lines": "\n".join(
        f"step: {step}\n  best_val_loss=7 val_loss: {value:e}" for step, value in SAID.items()
    ),
    "dicts": "\n".join(
        str({"val_loss": value, "global_step": step, "epoch": 1}) for step, value in SAID.items()
    ),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_it_is_found_by_step(text: str) -> None:
    assert metrics.values([text], "val_loss") == SAID


@pytest.mark.parametrize(
    "text", ["step 1 val_loss nan", "val_loss 1", "", "step,other\n1,2", '{"log_history": 3}']
)
def test_what_tells_nothing_is_nothing(text: str) -> None:
    assert metrics.values([text], "val_loss") == {}


@given(st.text(), st.text(min_size=1))
def test_no_text_is_too_odd(text: str, metric: str) -> None:
    metrics.values([text, "{" + text, "step," + metric + "\n" + text], metric)


@given(
    st.dictionaries(st.integers(0, 50), st.floats(-9, 9)), st.integers(0, 50), st.none() | st.integers(0, 50)
)
def test_of_a_checkpoint_the_newest_value_since_the_one_before_counts(
    said: dict[int, float], step: int, after: int | None
) -> None:
    fit = [one for one in range(51) if one in said and one <= step and (after is None or one > after)]
    assert metrics.at(said, step, after) == (said[fit[-1]] if fit else None)
    assert metrics.at(said, None, after) is None
