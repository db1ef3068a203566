"""A machine is taken away in the middle of a run, and the run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
STEPS = 40
EVERY = 5


def test_a_notice_at_any_moment_loses_no_step(lab: Any) -> None:
    moment = random.Random(7).randrange(3, STEPS - 10)
    command = lab.train("--steps", str(STEPS), "--interruptions", "1")
    lab.stepped(moment)
    lab.interrupt(lab.first_machine())
    lab.finish(command)

    report = lab.report()
    first, second = report["attempts"]
    assert (report["state"], report["interruptions"], report["steps_lost"]) == ("succeeded", 1, 0)
    assert (first["cause"], second["cause"]) == ("notice", "finished")
    assert moment <= first["last_step"] < STEPS
    assert first["last_step"] == first["committed_step"] == second["resumed_step"]
    assert 0 <= first["seconds_to_safety"] < 60
    assert lab.output() == lab.walked(STEPS)
    assert lab.cause(lab.machines()[0]) == "Server.SpotInstanceTermination"
    assert [lab.live(), lab.most_at_once(), len(lab.machines())] == [[], 1, 2]
    assert Decimal(report["saved"]) > 0


def test_two_interruptions_are_survived_as_one(lab: Any) -> None:
    command = lab.train("--steps", str(STEPS), "--interruptions", "2")
    for number, moment in ((0, 5), (1, 20)):
        lab.stepped(moment)
        machine = lab.until(lambda number=number: lab.machines()[number:], "the next machine")[0]
        lab.until(lambda machine=machine: lab.runs(machine), "it runs")
        lab.interrupt(machine)
        lab.until(lambda machine=machine: lab.ended(machine), "it is taken")
    lab.finish(command)

    report = lab.report()
    assert (report["interruptions"], report["steps_lost"], len(report["attempts"])) == (2, 0, 3)
    assert lab.output() == lab.walked(STEPS)
    assert lab.most_at_once() == 1


def test_a_script_that_ignores_sigterm_loses_an_interval_at_most(lab: Any) -> None:
    command = lab.train("--steps", "60", "--every", str(EVERY), "--deaf", "--interruptions", "1")
    lab.stepped(7)
    lab.interrupt(lab.first_machine())
    lab.finish(command)

    report = lab.report()
    first, second = report["attempts"]
    assert report["state"] == "succeeded"
    assert first["cause"] == "notice"
    assert 0 <= report["steps_lost"] <= EVERY
    assert second["resumed_step"] % EVERY == 0
    assert second["resumed_step"] >= first["last_step"] - EVERY
    assert lab.output() == lab.walked(60)


@pytest.mark.parametrize(
    ("blow", "speed"),
    [
        ("terminate", 5),
        ("stop", 40),
        pytest.param("terminate", 40, marks=pytest.mark.slow),
        pytest.param("stop", 5, marks=pytest.mark.slow),
    ],
)
def test_a_machine_that_goes_without_notice_is_replaced(lab: Any, blow: str, speed: float) -> None:
    """Somebody ends or stops the machine behind everybody's back: at 5, its agent hears of it."""
    lab.control.set_speed(speed)
    # One that was stopped is no more use and would go on costing; EC2 stops no spot machine.
    command = lab.train("--steps", str(STEPS), "--interruptions", "1", spot=blow == "terminate")
    lab.stepped(12)
    first = lab.first_machine()
    ec2 = lab.cloud.client("ec2")
    (ec2.terminate_instances if blow == "terminate" else ec2.stop_instances)(InstanceIds=[first])
    lab.until(lambda: first not in lab.live(), "it does not run any more")
    lab.control.set_speed(40)
    lab.finish(command)

    report = lab.report()
    assert report["state"] == "succeeded"
    first, second = report["attempts"]
    assert second["cause"] == "finished"
    assert second["resumed_step"] > 0
    assert first["last_step"] >= 12
    assert report["interruptions"] == 1
    assert report["steps_lost"] is not None
    assert lab.output() == lab.walked(STEPS)
    lab.until(lambda: all(lab.ended(machine) for machine in lab.machines()), "no machine is left")
    assert lab.most_at_once() == 1
    assert abs(Decimal(report["cost"]) - lab.bill()) < Decimal("0.01")


@pytest.mark.timeout(300)
def test_a_real_model_ends_with_the_same_weights(lab: Any, tmp_path: Path) -> None:
    shutil.copytree(
        DIGITS, lab.project, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".runctl", "__pycache__")
    )
    epochs = "60"
    here = tmp_path / "here"
    alone = subprocess.run(
        [sys.executable, "train.py", "--epochs", epochs],
        cwd=lab.project,
        env={**os.environ, "RUNCTL_CHECKPOINT_DIR": str(here / "c"), "RUNCTL_OUTPUT_DIR": str(here / "o")},
        capture_output=True,
        check=True,
        text=True,
    )
    wanted = json.loads((here / "o/result.json").read_text())

    command = lab.train("--epochs", epochs, script="train.py")
    lab.until(lambda: "epoch 8/" in lab.said(), "epoch 8 is shown", 120)
    lab.interrupt(lab.first_machine())
    lab.finish(command, seconds=200)

    report = lab.report()
    assert (report["interruptions"], report["steps_lost"]) == (1, 0)
    assert json.loads(lab.output("result.json")) == wanted
    accuracy = re.search(r"held-out fifth: .*", alone.stdout)
    assert accuracy
    assert accuracy[0] in lab.said()
    assert wanted["accuracy"] > 0.9
