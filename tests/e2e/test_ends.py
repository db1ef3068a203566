"""Whatever lies in its folders, each thing that ends a job ends its machine in time; the rest is kept.

`make test-ends` runs every combination and prints a table of what came of each.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_dead_man import ITSELF, agents_of

from conftest import HERE, Lab

ENDS = ("itself", "stop", "budget", "hours", "notice", "lease")
KINDS = ("oddities", "names", "unreadable", "grows", "churns", "full")
NAMED = {
    "oddities": {"pipe", "step_9999.pt", "socket", "loop1", "loop2", "endless.pt"},
    "unreadable": {"secret.txt", "closed"},
}
"""What is named as not kept, in each folder. A link that leads nowhere inside is kept, as a link."""
ODD_NAMES = 10
"""Files of the kind `names` in each folder."""
CODES = {"itself": 0, "stop": 130, "budget": 5, "hours": 5}
SPEED = 60.0
BOUND = 60 * 60.0
"""The cloud's seconds from what asks for the end to the machine's: grace, uploads, and a slow host."""

TABLE: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    print("\n" + "\n".join(TABLE))


@pytest.fixture
def messy(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Iterator[Lab]:
    own_cloud = request.getfixturevalue("small_disks" if kind == "full" else "own_cloud")
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    (home / "sandbox").symlink_to(own_cloud.home / "sandbox", target_is_directory=True)
    project.mkdir()
    shutil.copy(HERE / "messy.py", project)
    own_cloud.control.clear_faults()
    own_cloud.control.set_speed(SPEED)
    lab = Lab(home, project, own_cloud)
    lab.environment["RUNCTL_AWS_LEASE_MINUTES"] = "4"
    yield lab
    lab.close()
    own_cloud.control.clear_faults()


@pytest.fixture(scope="module")
def small_disks(start_sandbox: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A sandbox whose machines have 24 MiB of disk all together."""
    with start_sandbox(tmp_path_factory.mktemp("small")) as live:
        machines = live.home / "sandbox" / "state" / "machines"
        machines.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=24m", "runctl-test", str(machines)]
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
        try:
            yield live
        finally:
            subprocess.run(["umount", "-l", str(machines)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_end_comes_in_time_whatever_lies_in_the_folders(messy: Lab, kind: str, end: str) -> None:
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip("root reads everything")
    seconds, kept, left = end_of(messy, kind, end)
    TABLE.append(
        f"{kind:<10} {end:<7} {seconds:6.0f} s of the cloud's  {len(kept):>3} files kept  "
        f"{len(left):>2} named: {', '.join(sorted(set(left.values())))[:90]}"
    )
    print(TABLE[-1], flush=True)


def end_of(lab: Lab, kind: str, end: str) -> tuple[float, set[str], dict[str, str]]:
    """Start a job, let it be ended, and look at what came of it."""
    options: list[str] = ["--max-attempts", "1"]
    options += {"budget": ["--budget", "0.2"], "hours": ["--max-hours", "0.25"], "lease": ["--detach"]}.get(
        end, []
    )
    steps = ["60"] if end == "itself" else []
    command = lab.train(
        kind,
        *steps,
        script="messy.py",
        options=tuple(options),
        spot=end == "notice",
    )
    machine = lab.first_machine()
    if end == "lease":
        lab.finish(command)
    bucket = Bucket(lab)
    lab.until(bucket.manifests, "something is committed")
    asked = trigger(lab, machine, end)
    lab.until(lambda: lab.ended(machine), "the machine ends", seconds=180)
    (ended,) = [
        row["at"] for row in lab.history() if row["instance"] == machine and row["state"] == "terminated"
    ]
    if end in CODES:
        lab.finish(command, CODES[end])
    newest, state = bucket.newest(), bucket.state()
    kept = {f"{one['tree']}/{one['path']}" for one in newest["entries"] if "sha256" in one}
    left = {one["path"]: one["reason"] for one in state["left_out"]}
    if end == "lease":
        assert lab.cause(machine) == ITSELF
    else:
        assert ended - asked < BOUND, bucket.text("attempt-1/events.jsonl")
        assert state["phase"] == "ended"
        trees = ("checkpoints", "outputs", "work")
        if kind != "full":  # there is no room for another checkpoint
            assert newest["step"] == state["step"] + 1  # what the script saved when it was told
            assert {f"{tree}/metrics.csv" for tree in trees} <= kept
        for name in NAMED.get(kind, ()):
            assert {f"{tree}/{name}" for tree in trees} <= set(left), left
        if kind == "names":
            assert {tree: sum(path.startswith(tree) for path in kept) for tree in trees}[
                "outputs"
            ] == ODD_NAMES + 1
            assert left == {}
        for path in left:
            assert end == "notice" or path in lab.said()
    return ended - asked, kept, left


def trigger(lab: Lab, machine: str, end: str) -> float:
    """Let the end be asked for, or wait for it; when that was, in the cloud's seconds."""
    if end == "stop":
        lab.start("jobs", "stop", "last")
    if end == "notice":
        lab.interrupt(machine)
    if end == "lease":
        for pid in lab.until(lambda: agents_of(lab), "the agent runs"):
            os.kill(pid, signal.SIGKILL)
    if end in {"budget", "hours", "itself"}:
        lab.until(lambda: Bucket(lab).state()["phase"] != "running" or lab.ended(machine), "it is over")
    return lab.cloud.cloud().clock.now().timestamp()


class Bucket:
    """The job's part of the bucket."""

    def __init__(self, lab: Lab) -> None:
        self.s3 = lab.cloud.client("s3")
        job = lab.job()
        self.prefix = f"runctl/jobs/{job[0] if job else ''}/"
        names = [row["Name"] for row in self.s3.list_buckets()["Buckets"]]
        self.name = next(name for name in names if self.keys(name))

    def keys(self, name: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=self.prefix)
        return [row["Key"] for page in pages for row in page.get("Contents", [])]

    def manifests(self) -> list[str]:
        return sorted(key for key in self.keys(self.name) if key.endswith("/manifest.json"))

    def newest(self) -> dict[str, Any]:
        return self._read(self.manifests()[-1])

    def state(self) -> dict[str, Any]:
        return self._read(f"{self.prefix}attempt-1/state.json")

    def text(self, name: str) -> str:
        return self.s3.get_object(Bucket=self.name, Key=self.prefix + name)["Body"].read().decode()

    def _read(self, key: str) -> dict[str, Any]:
        return json.load(self.s3.get_object(Bucket=self.name, Key=key)["Body"])
