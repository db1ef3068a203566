"""The cloud may lie and heartbeats may be lost: one alone neither kills nor relaunches a healthy job."""

from __future__ import annotations

from typing import Any

import pytest

STEPS = 60
ITSELF = "Client.InstanceInitiatedShutdown"
HEARTBEAT_LIMIT = 60.0
LIE = {"service": "ec2", "operation": "DescribeInstances"}
STATE = "attempt-1/state.json"

FAULTS: dict[str, tuple[dict[str, Any], str | None]] = {
    # What is wrong, and the words by which the command says that it saw it.
    "cloud-says-terminated": ({**LIE, "kind": "wrong-state", "state": "terminated"}, "machine is gone"),
    "cloud-says-shutting-down": ({**LIE, "kind": "wrong-state", "state": "shutting-down"}, "machine is gone"),
    "cloud-says-stopped": ({**LIE, "kind": "wrong-state", "state": "stopped"}, "machine is stopped"),
    "cloud-knows-no-machine": ({**LIE, "kind": "missing"}, "machine is gone"),
    "cloud-refuses": (
        {**LIE, "kind": "error", "code": "InvalidParameterValue", "status": 400},
        "the cloud does not answer",
    ),
    "laptop-cannot-read": (
        {"service": "s3", "kind": "error", "operation": "GetObject", "instance": STATE, "status": 403},
        "the store does not answer",
    ),
    "machine-cannot-write": (
        {"service": "s3", "kind": "error", "operation": "PutObject", "instance": STATE, "status": 503},
        "no heartbeat for",
    ),
}


OFTEN = {"cloud-says-terminated", "laptop-cannot-read", "machine-cannot-write"}
"""In every run; the others with -m slow."""


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_one_source_alone_is_but_a_doubt(lab: Any, name: str) -> None:
    fault, doubt = FAULTS[name]
    # Slower than the other tests, so that a host that stumbles does not add a silence to a lie.
    lab.control.set_speed(12)
    command = lab.train("--steps", str(STEPS))
    lab.stepped(3)
    about = {"instance": lab.first_machine()} if fault["service"] == "ec2" else {}
    lab.control.add_fault(**fault, **about)
    if doubt:
        lab.until(lambda: doubt in lab.said(), f"the command says {doubt!r}")
    stays(lab, 1.2 * HEARTBEAT_LIMIT)
    assert lab.control.status()["faults"][0]["hits"] > 0
    lab.control.clear_faults()
    lab.finish(command)
    unharmed(lab)


def test_a_bucket_that_is_away_for_all_is_waited_for(lab: Any) -> None:
    lab.control.set_speed(12)
    command = lab.train("--steps", str(STEPS))
    lab.stepped(3)
    lab.control.add_fault("s3", "error", status=503)
    stays(lab, HEARTBEAT_LIMIT)
    lab.control.clear_faults()
    lab.finish(command)
    unharmed(lab)


def stays(lab: Any, seconds: float) -> None:
    """Let so many seconds of the cloud's time go by."""
    end = lab.control.status()["now"] + seconds
    lab.until(lambda: lab.control.status()["now"] >= end, "the cloud's time goes by")


def unharmed(lab: Any) -> None:
    """One attempt on one machine, which ended when its work was done."""
    report = lab.report()
    assert (report["state"], report["interruptions"], report["steps_lost"]) == ("succeeded", 0, 0)
    assert len(report["attempts"]) == 1
    assert len(lab.machines()) == 1
    assert lab.cause(lab.machines()[0]) == ITSELF
    assert lab.output() == lab.walked(STEPS)
