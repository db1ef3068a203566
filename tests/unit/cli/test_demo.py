"""`runctl demo` ends with 0 when all that it promises came true."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import pytest

from runctl.cli.demo import Outcome
from runctl.model import JobState

Run = Callable[..., CompletedProcess[str]]

KEPT = Outcome(
    state=JobState.SUCCEEDED,
    interruptions=1,
    verified=True,
    steps_lost=0,
    same_weights=True,
    machines_left=0,
    disks_left=0,
    resources_left=0,
    bill=Decimal("0.0220"),
    cost=Decimal("0.0221"),
)


def test_all_promises_are_kept() -> None:
    assert KEPT.broken == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"state": JobState.FAILED}, "the job failed"),
        ({"interruptions": 0}, "no machine was taken away"),
        ({"verified": False}, "no checkpoint was read back"),
        ({"steps_lost": 2}, "2 steps were lost"),
        ({"steps_lost": None}, "steps of unknown number were lost"),
        ({"same_weights": False}, "the weights differ"),
        ({"machines_left": 1}, "1 machines are left"),
        ({"disks_left": 1}, "1 disks are left"),
        ({"resources_left": 1}, "1 resources are open"),
        ({"cost": Decimal("0.032")}, "the cloud's bill is"),
        ({"cost": None}, "the cloud's bill is"),
    ],
)
def test_each_promise_counts(changes: dict[str, Any], told: str) -> None:
    [broken] = msgspec.structs.replace(KEPT, **changes).broken
    assert told in broken


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_keeps_its_promises_and_answers_scripts_with_one_object(run: Run, tmp_path: Path) -> None:
    done = run("demo", "--epochs", "120", "--output", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["broken"] == []
    assert msgspec.convert(told["demo"], Outcome, strict=False).broken == ()
    for line in ("epoch 120/120", "gets its spot notice", "was read back from S3", "identical, bit by bit"):
        assert line in done.stderr
    assert not (tmp_path / "home").exists()  # the user's own ledger is left alone
