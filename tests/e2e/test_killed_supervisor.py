"""The laptop may vanish at any moment: whoever waits next finishes the job, and the sums are right."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

STEPS = 25
DEAR = "p4d.24xlarge"
"""At 7 USD/h on spot, so that a few seconds that are counted wrongly are more than a cent."""
CENT = Decimal("0.01")
SHARE = Decimal("0.04")

Command = subprocess.Popen[bytes]


def at_start(lab: Any, _: Command) -> None:
    """While Python starts."""


def planning(lab: Any, _: Command) -> None:
    lab.until(lambda: "plan for" in lab.said(), "the plan")


def written(lab: Any, _: Command) -> None:
    lab.until(lab.job, "the job is in the ledger")


def launching(lab: Any, _: Command) -> None:
    """RunInstances is on its way, and carried out after its caller's death."""
    lab.control.add_fault("ec2", "latency", operation="RunInstances", latency=45.0, count=1)
    lab.until(lambda: lab.control.status()["faults"][0]["hits"], "the call has arrived")
    assert lab.machines() == []


def answer_lost(lab: Any, _: Command) -> None:
    """RunInstances was carried out and nobody was told."""
    lab.control.add_fault("ec2", "lost-response", operation="RunInstances", count=1)
    lab.until(lab.machines, "a machine is launched")


def booting(lab: Any, _: Command) -> None:
    lab.until(lab.machines, "a machine is launched")


def running(lab: Any, _: Command) -> None:
    lab.stepped(3)


def noticed(lab: Any, _: Command) -> None:
    lab.committed(3, or_step=STEPS - 3)
    lab.interrupt(lab.first_machine())


def taken(lab: Any, _: Command) -> None:
    machine = lab.first_machine()
    lab.committed(2, or_step=STEPS - 3)
    lab.interrupt(machine)
    lab.until(lambda: lab.ended(machine), "it is taken")


def recovered(lab: Any, _: Command) -> None:
    lab.committed(1)
    lab.interrupt(lab.first_machine())
    lab.until(lambda: lab.machines()[1:], "the second machine")


MOMENTS: dict[str, tuple[Callable[[Any, Command], None], float]] = {
    # Where the walk stands, and within how many seconds after that the command dies.
    "start": (at_start, 1.0),
    "planning": (planning, 0.5),
    "job-written": (written, 0.3),
    "launch-in-flight": (launching, 0.5),
    "launch-answer-lost": (answer_lost, 1.0),
    "booting": (booting, 0.5),
    "running": (running, 1.0),
    "noticed": (noticed, 1.0),
    "taken": (taken, 1.0),
    "recovered": (recovered, 1.0),
}


OFTEN = {"planning", "launch-in-flight", "launch-answer-lost", "taken"}
"""In every run; the others with -m slow."""


@pytest.mark.parametrize(
    "moment", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in MOMENTS]
)
def test_a_killed_command_leaves_a_job_that_the_next_one_finishes(lab: Any, moment: str) -> None:
    reach, spread = MOMENTS[moment]
    before = jobs_in_buckets(lab)
    seed = os.environ.get("RUNCTL_TEST_SEED") or str(random.randrange(10**6))
    print(f"again at the same moments: RUNCTL_TEST_SEED={seed}")  # shown where the test fails
    chance = random.Random(f"{seed}/{moment}")
    command = lab.train("--steps", str(STEPS), "--interruptions", "1", kind=DEAR)
    reach(lab, command)
    time.sleep(chance.uniform(0, spread))
    assert command.poll() is None, lab.said()
    lab.kill(command)

    job = lab.job()
    assert jobs_in_buckets(lab) - before <= {job[0] if job else ""}
    if job is None:  # so early that there is no job: then there is no machine of it either
        assert not any(row["state"] in {"pending", "running"} for row in lab.control.status()["machines"])
        waiting = lab.train("--steps", str(STEPS), "--interruptions", "1", kind=DEAR)
    else:
        waiting = lab.start("jobs", "wait", "last")
    lab.control.clear_faults("latency")
    if moment not in {"noticed", "taken", "recovered"}:
        machine = lab.first_machine()
        if moment != "booting":  # that one has its notice before its script began
            lab.committed(chance.randint(1, 4), or_step=STEPS - 3)
        lab.interrupt(machine)
    lab.finish(waiting)

    report = lab.report()
    assert (report["state"], report["interruptions"], report["steps_lost"]) == ("succeeded", 1, 0), lab.said()
    assert lab.output() == lab.walked(STEPS)
    assert lab.most_at_once() == 1
    assert len(lab.machines()) == 2
    lab.until(lambda: all(lab.ended(machine) for machine in lab.machines()), "no machine is left")
    lab.until(lambda: not lab.volumes(), "no disk is left")
    cost, bill = Decimal(report["cost"]), lab.bill()
    assert abs(cost - bill) < min(CENT, SHARE * bill), (cost, bill)
    assert jobs_in_buckets(lab) - before == {report["id"]}


def jobs_in_buckets(lab: Any) -> set[str]:
    """Every job of which something lies in a bucket."""
    s3 = lab.cloud.client("s3")
    return {
        item["Key"].split("/")[2]
        for bucket in s3.list_buckets()["Buckets"]
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"], Prefix="runctl/jobs/")
        for item in page.get("Contents", [])
    }
