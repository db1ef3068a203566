"""A laptop whose clock is wrong takes no machine for silent: machines and stores have the right time."""

from __future__ import annotations

from typing import Any

import pytest

STEPS = 20
WRONG = "import time\nright = time.time\ntime.time = lambda: right() + SECONDS\n"


@pytest.mark.parametrize("minutes", [10, -10])
def test_a_laptop_whose_clock_is_wrong_sees_its_job_through(lab: Any, minutes: int) -> None:
    folder = lab.home / "wrong"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WRONG.replace("SECONDS", str(minutes * 60)))
    lab.environment["PYTHONPATH"] = str(folder)
    lab.control.set_speed(12)
    lab.finish(lab.train("--steps", str(STEPS)))
    assert "no heartbeat" not in lab.said()
    assert "this computer's clock is" in lab.said()
    report = lab.report()
    assert (report["state"], len(report["attempts"])) == ("succeeded", 1)
