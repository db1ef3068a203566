"""A sandbox state in a scratch folder, and machines in it, in each isolation that this host allows."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runctl.sandbox.imds import MachineFacts, Role
from runctl.sandbox.isolation.namespaces import refusal
from runctl.sandbox.machine import Machine
from runctl.sandbox.timing import CloudClock, Schedule

FACTS = MachineFacts(
    instance_id="i-0",
    instance_type="g5.xlarge",
    image_id="ami-0123456789abcdef0",
    zone="us-east-1b",
    region="us-east-1",
    account="123456789012",
    lifecycle="spot",
    private_ip="10.1.2.3",
    architecture="x86_64",
    user_data=b"",
    role=Role("trainer", "arn:aws:iam::123456789012:instance-profile/trainer", "ASIAX", "secret", "token"),
    tags={"Name": "one", "runctl:job": "digits"},
    http_tokens="required",
    http_endpoint="enabled",
    tags_in_metadata=True,
)


class Sandbox:
    """What the control plane would hold: clock, schedule and machines in one state folder."""

    def __init__(self, state: Path, isolation: str, speed: float = 1.0) -> None:
        self.state = state
        self.isolation = isolation
        self.clock = CloudClock(state / "clock", speed)
        self.schedule = Schedule(self.clock)
        self.machines: dict[str, Machine] = {}
        self.facts: dict[str, MachineFacts] = {}
        self.started: list[subprocess.Popen[bytes]] = []
        self.powered: list[tuple[str, str]] = []

    def machine(self, name: str = "i-0aa", **changes: object) -> Machine:
        self.facts[name] = dataclasses.replace(FACTS, instance_id=name, **changes)
        self.machines[name] = Machine(
            lambda: self.facts[name],
            self.state / "machines" / name,
            clock=self.clock,
            schedule=self.schedule,
            environment={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            image=[Path(sys.prefix)],
            isolation=self.isolation,
            on_power_off=lambda machine, kind: self.powered.append((machine.id, kind)),
        )
        return self.machines[name]

    def booted(self, name: str = "i-0aa", **changes: object) -> Machine:
        machine = self.machine(name, **changes)
        machine.boot()
        return machine

    def start(self, machine: Machine, script: str) -> subprocess.Popen[bytes]:
        """A shell script left running in the machine."""
        process = machine.popen(["sh", "-c", script])
        self.started.append(process)
        return process

    @staticmethod
    def run(machine: Machine, script: str, *, cwd: str | None = None) -> tuple[int, str]:
        """A shell script in the machine: exit code, and both outputs."""
        process = machine.popen(
            ["sh", "-c", script], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = process.communicate(timeout=20)
        return process.returncode, output.decode()

    @staticmethod
    def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come true in time"
            time.sleep(0.01)

    def close(self) -> None:
        for machine in self.machines.values():
            machine.off(grace=0)
        self.schedule.close()
        for process in self.started:
            process.wait(10)


@pytest.fixture(params=["namespaces", "plain"])
def isolation(request: pytest.FixtureRequest) -> str:
    if request.param == "namespaces" and (why := refusal()):
        pytest.skip(f"no namespaces here: {why}")
    return request.param


@pytest.fixture
def sandbox(tmp_path: Path, isolation: str) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "state", isolation)
    yield sandbox
    sandbox.close()


@pytest.fixture
def plain_sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "state", "plain")
    yield sandbox
    sandbox.close()
