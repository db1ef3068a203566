"""A machine whose start fails at any step, or whose agent or owner is gone, ends itself; nobody watches."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

LEASE_MINUTES = "2"
"""For a machine whose agent never begins."""
LONG_LEASE_MINUTES = "30"
"""For one whose agent must begin before anything ends it, however busy the host is."""
SOON = 400.0
"""The clock's speed that brings the end of a long lease."""
ITSELF = "Client.InstanceInitiatedShutdown"
HELD = 45.0
"""Seconds after which a held launch goes on by itself, before its caller asks again."""

JOB_FAILED = 4
INTERRUPTED = 130


@pytest.fixture
def short_lease(lab: Any) -> Any:
    """Code that no other test sent: what is done to it in the bucket is done to no one else."""
    (lab.project / "mark.txt").write_text(uuid.uuid4().hex)
    lab.environment["RUNCTL_AWS_LEASE_MINUTES"] = LEASE_MINUTES
    return lab


@pytest.fixture
def long_lease(short_lease: Any) -> Any:
    short_lease.environment["RUNCTL_AWS_LEASE_MINUTES"] = LONG_LEASE_MINUTES
    return short_lease


class Bucket:
    """The job's part of the bucket, to be damaged."""

    def __init__(self, lab: Any) -> None:
        self.s3 = lab.cloud.client("s3")
        self.job = lab.job()[0]
        names = [row["Name"] for row in self.s3.list_buckets()["Buckets"]]
        self.name = next(name for name in names if self.keys(name, f"runctl/jobs/{self.job}/"))

    def keys(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        return self.s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])

    def newest(self, prefix: str) -> str:
        return max(self.keys(self.name, prefix), key=lambda row: row["LastModified"])["Key"]

    def agents(self) -> list[str]:
        return [row["Key"] for row in self.keys(self.name, "runctl/agents/")]

    def bundle(self) -> str:
        body = self.s3.get_object(Bucket=self.name, Key=f"runctl/jobs/{self.job}/spec.json")["Body"]
        return json.load(body)["code"]["key"]

    def delete(self, key: str) -> None:
        self.s3.delete_object(Bucket=self.name, Key=key)

    def spoil(self, key: str) -> None:
        self.s3.put_object(Bucket=self.name, Key=key, Body=b"this is not what was sent")


def agent_away(lab: Any, _: Bucket) -> None:
    lab.control.add_fault("s3", "error", operation="GetObject", instance="runctl/agents", status=503)


def agent_spoilt(_: Any, bucket: Bucket) -> None:
    for key in bucket.agents():
        bucket.spoil(key)


def spec_missing(_: Any, bucket: Bucket) -> None:
    bucket.delete(f"runctl/jobs/{bucket.job}/attempt-1/spec.json")


def spec_changed(_: Any, bucket: Bucket) -> None:
    """One byte more, which changes nothing of what it says."""
    key = f"runctl/jobs/{bucket.job}/attempt-1/spec.json"
    said = bucket.s3.get_object(Bucket=bucket.name, Key=key)["Body"].read()
    bucket.s3.put_object(Bucket=bucket.name, Key=key, Body=said + b" ")


def bundle_missing(_: Any, bucket: Bucket) -> None:
    bucket.delete(bucket.bundle())


def bundle_spoilt(_: Any, bucket: Bucket) -> None:
    bucket.spoil(bucket.bundle())


@contextlib.contextmanager
def launch_held(lab: Any) -> Iterator[None]:
    """All is in the bucket and the machine is asked for; it is not there yet within this block."""
    lab.control.add_fault("ec2", "latency", operation="RunInstances", latency=HELD, count=1)
    command = lab.train("--steps", "5", options=("--detach", "--max-attempts", "1"))
    lab.until(lambda: lab.control.status()["faults"][-1]["hits"], "the machine is asked for")
    yield
    assert lab.machines() == []
    lab.control.clear_faults("latency")
    lab.finish(command)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (agent_away, "no heartbeat"),
        (agent_spoilt, "no heartbeat"),
        (spec_missing, "spec: it could not be fetched: there is none"),
        (spec_changed, "spec: attempt-1/spec.json in the bucket is not what was launched"),
        (bundle_missing, "bundle: there is no"),
        (bundle_spoilt, "bundle: the code bundle is not what was sent"),
    ],
)
def test_what_the_start_needs_is_gone(short_lease: Any, damage: Callable[..., None], told: str) -> None:
    lab = short_lease
    if told != "no heartbeat":
        lab.environment["RUNCTL_AWS_LEASE_MINUTES"] = LONG_LEASE_MINUTES
    with launch_held(lab):
        bucket = Bucket(lab)
        agents = bucket.agents()
        damage(lab, bucket)
    ends_itself(lab)
    if damage is agent_spoilt:
        for key in agents:
            bucket.delete(key)  # others need it: it is sent again
    lab.control.clear_faults()
    failed_at_once(lab, told)


def test_an_environment_that_cannot_be(long_lease: Any) -> None:
    lab = long_lease
    header = (
        '# /// script\n# dependencies = ["nothing @ file:///nowhere/nothing-1.0-py3-none-any.whl"]\n# ///\n'
    )
    script = lab.project / "walk.py"
    script.write_text(header + script.read_text())
    lab.finish(lab.train(options=("--detach",)))
    ends_itself(lab)
    failed_at_once(lab, "environment: ")


def test_a_script_that_cannot_be_started(long_lease: Any) -> None:
    lab = long_lease
    script = lab.project / "walk"
    script.write_text("#!/nowhere/interpreter\n")
    script.chmod(0o755)
    lab.finish(lab.train(script="walk", options=("--detach",)))
    ends_itself(lab)
    failed_at_once(lab, "./walk cannot start: its first line names '/nowhere/interpreter'")


@pytest.mark.slow
def test_a_checkpoint_that_was_asked_for_and_cannot_be_read(long_lease: Any) -> None:
    """It was whole when the command looked, and is not when the machine does."""
    lab = long_lease
    command = lab.train("--steps", "10000", options=("--max-attempts", "5"))
    lab.committed(3)
    lab.finish(lab.start("jobs", "stop", "last"))
    lab.finish(command, code=INTERRUPTED)
    bucket = Bucket(lab)
    root = f"runctl/jobs/{bucket.job}/checkpoints/"
    manifest = max(
        row["Key"] for row in bucket.keys(bucket.name, root) if row["Key"].endswith("/manifest.json")
    )
    name = manifest.removeprefix(root).removesuffix("/manifest.json")
    first = lab.machines()
    lab.control.add_fault("ec2", "latency", operation="RunInstances", latency=HELD, count=1)
    again = lab.start("jobs", "resume", "last", "--from", name, "--detach")
    lab.until(lambda: lab.control.status()["faults"][-1]["hits"], "the machine is asked for")
    for row in bucket.keys(bucket.name, f"{root}{name}/checkpoints/"):
        bucket.spoil(row["Key"])
    lab.control.clear_faults("latency")
    lab.finish(again)
    lab.until(lambda: len(lab.machines()) == len(first) + 1, "it is launched")
    machine = lab.machines()[-1]
    lab.until(lambda: lab.ended(machine), "the machine ends itself")
    assert lab.cause(machine) == ITSELF
    lab.wait(code=JOB_FAILED)
    assert f"checkpoint: {name} cannot be resumed from" in lab.said()
    assert len(lab.machines()) == len(first) + 1


def test_data_that_is_not_there(long_lease: Any) -> None:
    lab = long_lease
    client = lab.cloud.client("s3")
    empty = lab.cloud.name("empty")
    client.create_bucket(Bucket=empty)
    lab.finish(lab.train(options=("--detach", "--data", f"s3://{empty}/nothing/")))
    ends_itself(lab)
    failed_at_once(lab, f"data: there is nothing at s3://{empty}/nothing/")


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_an_agent_that_is_gone_puts_nothing_off(long_lease: Any, blow: signal.Signals) -> None:
    """Killed, or alive and hanging: the script may go on, the machine may not."""
    lab = long_lease
    lab.finish(lab.train("--steps", "10000", options=("--detach",)))
    for pid in lab.until(lambda: agents_of(lab), "the agent runs"):
        os.kill(pid, blow)
    lab.control.set_speed(SOON)
    ends_itself(lab)
    assert agents_of(lab) == []


def test_a_laptop_that_vanishes_after_the_launch(short_lease: Any) -> None:
    """Nobody ever comes back: the agent alone keeps the machine for the work, and not for longer."""
    lab = short_lease
    lab.control.set_speed(4)  # until the agent is there to put its lease off
    steps = 100  # longer than the lease
    command = lab.train("--steps", str(steps))
    lab.until(lab.machines, "a machine is launched")
    lab.kill(command)
    lab.until(lambda: agents_of(lab), "the agent runs")
    lab.control.set_speed(20)
    ends_itself(lab)
    assert lab.output() == lab.walked(steps)

    lab.wait()
    report = lab.report()
    assert (report["state"], len(report["attempts"]), len(lab.machines())) == ("succeeded", 1, 1)


def ends_itself(lab: Any) -> None:
    """One machine, that nobody ended, is gone with all that ran on it."""
    (machine,) = lab.machines()
    lab.until(lambda: lab.ended(machine), "the machine ends itself", seconds=120)
    assert lab.cause(machine) == ITSELF
    assert lab.runs(machine)


def failed_at_once(lab: Any, told: str) -> None:
    """Whoever looks at last is told what was wrong, and pays for no second machine."""
    lab.wait(code=JOB_FAILED)
    report = lab.report()
    assert report["state"] == "failed"
    assert told in lab.said()
    assert len(lab.machines()) == 1


def agents_of(lab: Any) -> list[int]:
    """The processes of the job's agent on its machine, as the host sees them."""
    mark = f"/jobs/{lab.job()[0]}/attempt-1/agent.py".encode()
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"boot" in words and any(word.endswith(mark) for word in words):
                found.append(int(folder.name))
    return found
