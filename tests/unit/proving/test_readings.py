"""Lines as scripts and frameworks print them."""

from __future__ import annotations

import pytest

from runctl.proving.readings import Reading, alike, readings


@pytest.mark.parametrize(
    ("line", "key", "values", "ids"),
    [
        ("step 20/400 | loss 0.1330 acc: 0.93 lr 1e-3 time 0.3s", (None, 20),
         {"loss": 0.133, "acc": 0.93, "lr": 0.001}, ()),
        ('{"step": 21, "loss": 0.5, "ids": [3, 4]}', (None, 21), {"loss": 0.5}, ("3", "4")),
        ("{'loss': 0.3, 'learning_rate': 5e-05, 'epoch': 0.04}", (0.04, None),
         {"loss": 0.3, "learning_rate": 5e-5}, ()),
        ("step 22 ids=[1, 2, 3] loss=0.2", (None, 22), {"loss": 0.2}, ("1", "2", "3")),
        ("step 23 samples 4,5,6 loss=0.25", (None, 23), {"loss": 0.25}, ("4", "5", "6")),
        ("[epoch 3 step 4] loss: 0.31", (3.0, 4), {"loss": 0.31}, ()),
        ("epoch 5: train_loss=0.3 val_acc=0.9", (5.0, None), {"train_loss": 0.3, "val_acc": 0.9}, ()),
        ("  5%|#5   | 24/400 [00:01<00:19, 19.5it/s, loss=0.5]", (None, 24), {"loss": 0.5}, ()),
        ("Iteration 7: order [5 3 1], loss 1.5e-3", (None, 7), {"loss": 0.0015}, ("5", "3", "1")),
        ("  12  loss=1.5e-01  lr=0.05", (None, 12), {"loss": 0.15, "lr": 0.05}, ()),
        ("\x1b[32mstep 3\x1b[0m loss nan", (None, 3), {"loss": pytest.approx(float("nan"), nan_ok=True)}, ()),
    ],
)  # fmt: skip
def test_a_line_is_read_as_people_write_it(
    line: str, key: tuple[float | None, int | None], values: dict[str, float], ids: tuple[str, ...]
) -> None:
    (one,) = readings(line)
    assert (one.key, dict(one.values), one.ids) == (key, values, ids)


def test_figures_on_the_next_line_belong_to_the_step_before() -> None:
    log = "Epoch 2/5\n 10/10 - accuracy: 0.91 - loss: 0.33 - val_loss: 0.2\nEpoch 3/5\n 10/10 - loss: 0.3\n"
    second, third = readings(log)
    assert second.key == (2.0, None)
    assert second.values == {"accuracy": 0.91, "loss": 0.33, "val_loss": 0.2}
    assert third.values == {"loss": 0.3}


def test_what_is_said_of_saves_and_resumes_is_no_step_of_the_work() -> None:
    log = "resumed from step 40, loss 0.2\nloaded step 40\nstep 41 loss 0.19\nsaved checkpoint step 41\n"
    assert readings(log) == [Reading((None, 41), {"loss": 0.19})]


def test_steps_alone_are_read_if_nothing_else_is_said() -> None:
    assert [one.key for one in readings("step 1\nstep 2\n")] == [(None, 1), (None, 2)]


def test_numbers_are_alike_but_for_rounding() -> None:
    assert alike(0.1, 0.1 + 1e-9)
    assert not alike(0.1, 0.1002)
    assert alike(float("nan"), float("nan"))
    assert not alike(float("nan"), 1.0)
