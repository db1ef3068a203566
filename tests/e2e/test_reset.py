"""A machine that crashes and boots again: /run is empty, user data does not run twice, and nobody watches."""

from __future__ import annotations

from typing import Any

import pytest

ITSELF = "Client.InstanceInitiatedShutdown"
STEPS = 40
INTERRUPTED = 130


def test_a_reset_machine_tells_of_it_and_ends_and_the_job_goes_on_elsewhere(lab: Any) -> None:
    command = lab.train("--steps", str(STEPS))
    lab.stepped(3)
    lab.committed(1)
    first = lab.first_machine()
    lab.control.reset(first)
    lab.finish(command)
    report = lab.report()
    assert (report["state"], len(report["attempts"])) == ("succeeded", 2)
    assert report["attempts"][0]["cause"] == "shutdown"
    assert report["attempts"][1]["resumed_step"] >= 1
    assert lab.cause(first) == ITSELF
    assert lab.most_at_once() == 1
    assert lab.output() == lab.walked(STEPS)


def test_a_reset_machine_ends_itself_with_nobody_there(lab: Any) -> None:
    lab.finish(lab.train("--steps", "10000", options=("--detach",)))
    (machine,) = lab.machines()
    lab.committed(1)
    lab.control.reset(machine)
    lab.until(lambda: lab.ended(machine), "the machine ends itself")
    assert lab.cause(machine) == ITSELF


@pytest.mark.slow
def test_a_machine_whose_boot_script_is_gone_is_ended_from_outside(lab: Any) -> None:
    """Nothing on it keeps what it owes: no timer, no agent. The one that supervises does."""
    lab.control.set_speed(120)
    command = lab.train("--steps", "100000", options=("--max-hours", "1"))
    lab.stepped(3)
    first = lab.first_machine()
    scripts = lab.cloud.home / "sandbox" / "state" / "machines" / first / "per-boot"
    for script in scripts.iterdir():
        script.unlink()
    lab.control.reset(first)
    lab.until(lambda: "longer than its lease" in lab.said(), "it is seen to be silent", seconds=120)
    lab.until(lambda: len(lab.machines()) == 2, "the job goes on elsewhere")
    assert lab.ended(first)
    lab.run("jobs", "stop", "last")
    lab.finish(command, INTERRUPTED)
    assert lab.report()["state"] == "stopped"
    assert lab.live() == []
