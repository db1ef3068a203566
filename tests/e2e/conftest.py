"""The product as users have it: the command as a process, a ledger and project of one's own, a live cloud."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

HERE = Path(__file__).parent
DIGITS = HERE.parents[1] / "examples" / "digits"
INSTANCE_TYPE = "g5.xlarge"
SPEED = 40.0
LIVE = {"pending", "running"}


@dataclass
class Lab:
    """One test's own home, ledger and project; the cloud is shared, by one test at a time."""

    home: Path
    project: Path
    cloud: Any  # tests/conftest.py: LiveSandbox
    environment: dict[str, str] = field(default_factory=dict[str, str])
    _commands: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def control(self) -> Any:
        return self.cloud.control

    # The command

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The command in a session of its own; what it says goes to `said()`."""
        number = len(self._commands)
        with (self.home / f"command-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "runctl", *arguments],
                cwd=self.project,
                env={**os.environ, "RUNCTL_HOME": str(self.home), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._commands.append(process)
        return process

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """A command to its end, which must be with this exit code; stdout and stderr apart."""
        done = subprocess.run(
            [sys.executable, "-m", "runctl", *arguments],
            cwd=self.project,
            env={**os.environ, "RUNCTL_HOME": str(self.home), **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{self.said()}"
        return done

    def said(self) -> str:
        """All that every command of this test wrote."""
        logs = sorted(self.home.glob("command-*.log"))
        return "\n".join(log.read_text(errors="replace") for log in logs)

    def finish(self, process: subprocess.Popen[bytes], code: int = 0, seconds: float = 120.0) -> None:
        """Wait for a command that must end with this exit code."""
        try:
            found = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the command did not end:\n{self.said()}\n{self.control.status()}")
        assert found == code, self.said()

    def train(
        self,
        *arguments: str,
        script: str = "walk.py",
        options: tuple[str, ...] = (),
        spot: bool = True,
        kind: str = INSTANCE_TYPE,
    ) -> Any:
        """Start a job; `arguments` are the script's."""
        place = ("--on", "sandbox", "--instance-type", kind, *(["--spot"] if spot else []))
        return self.start("train", script, *place, *options, "--", *arguments)

    def wait(self, code: int = 0, seconds: float = 120.0) -> None:
        self.finish(self.start("jobs", "wait", "last"), code, seconds)

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        """SIGKILL for the command and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)

    # What came of it

    def show(self) -> dict[str, Any]:
        """`runctl jobs show last`."""
        done = subprocess.run(
            [sys.executable, "-m", "runctl", "jobs", "show", "last", "--output", "json"],
            env={**os.environ, "RUNCTL_HOME": str(self.home)},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def report(self) -> dict[str, Any]:
        return self.show()["report"]

    def output(self, name: str = "result.txt") -> bytes:
        """An output file of the job, brought home."""
        folder = self.home / "fetched"
        self.run("jobs", "fetch", "last", str(folder), "--tree", "outputs")
        return (folder / name).read_bytes()

    # The ledger and the cloud, read beside the command

    def job(self) -> tuple[str, str] | None:
        """Id and state of the one job in this ledger, None before it is written."""
        path = self.home / "ledger.sqlite3"
        if not path.exists():
            return None
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT id, state FROM jobs").fetchall()
        except sqlite3.OperationalError:
            return None  # it is being made
        finally:
            connection.close()
        assert len(rows) <= 1, rows
        return (str(rows[0][0]), str(rows[0][1])) if rows else None

    def history(self) -> list[dict[str, Any]]:
        """Every change of state of the job's machines."""
        job = self.job()
        return [] if job is None else [row for row in self.control.history() if row["job"] == job[0]]

    def machines(self) -> list[str]:
        """The job's machines in the order of their launch."""
        return list(dict.fromkeys(row["instance"] for row in self.history()))

    def live(self) -> list[str]:
        """The job's machines that are pending or running now."""
        last = {row["instance"]: row["state"] for row in self.history()}
        return [machine for machine, state in last.items() if state in LIVE]

    def most_at_once(self) -> int:
        """How many of the job's machines were ever pending or running together."""
        most, live = 0, set[str]()
        for row in self.history():
            (live.add if row["state"] in LIVE else live.discard)(row["instance"])
            most = max(most, len(live))
        return most

    def runs(self, machine: str) -> bool:
        return any(row["instance"] == machine and row["state"] == "running" for row in self.history())

    def ended(self, machine: str) -> bool:
        return any(row["instance"] == machine and row["state"] == "terminated" for row in self.history())

    def volumes(self) -> list[str]:
        """The job's disks that there are still."""
        job = self.job()
        tags = [{"Name": "tag:runctl:job", "Values": [job[0] if job else ""]}]
        found = self.cloud.client("ec2").describe_volumes(Filters=tags)
        return [volume["VolumeId"] for volume in found["Volumes"]]

    def cause(self, machine: str) -> str | None:
        """Why a machine ended, in EC2's word; None while it has not."""
        causes = (row["cause"] for row in self.history() if row["instance"] == machine)
        return next(filter(None, causes), None)

    def bill(self) -> Decimal:
        """The cloud's own bill of this job."""
        job = self.job()
        lines = self.control.bill()["lines"]
        return sum((Decimal(line["usd"]) for line in lines if job and line["job"] == job[0]), Decimal(0))

    def until(self, condition: Callable[[], T], what: str, seconds: float = 60.0) -> T:
        """The first true answer of `condition`; the deadline only ends a test that has failed already."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > end:
                pytest.fail(f"not in {seconds:g} s: {what}\n{self.said()}\n{self.history()}")
            time.sleep(0.02)
        return found

    @staticmethod
    def walked(steps: int) -> bytes:
        """What walk.py writes when nothing interrupts it, worked out apart from it."""
        state = "start"
        for step in range(1, steps + 1):
            state = hashlib.sha256(f"{state} {step}".encode()).hexdigest()
        return f"{steps} {state}\n".encode()

    def first_machine(self) -> str:
        """The job's first machine, once it runs."""
        found = self.until(self.machines, "a machine is launched")[0]
        self.until(lambda: self.runs(found), "the machine runs")
        return found

    def interrupt(self, machine: str, notice: float = 120.0) -> None:
        self.control.interrupt(machine, notice=notice)

    def stepped(self, step: int) -> None:
        """Wait until the command has shown that a step was done."""
        self.until(lambda: f"step {step}/" in self.said(), f"step {step} is shown")

    def committed(self, number: int, *, or_step: int | None = None) -> None:
        """Wait until the agent has come to its checkpoint of this number, by the bucket alone.

        It skips numbers whose file was gone before it was sent; on a slow host it comes to fewer, and a
        script that waits to be taken away makes no more: then the one of `or_step`, its last, will do.
        """
        found = self.cloud.client("s3")
        last = f"-step-{or_step:05}.zip" if or_step is not None else "none"

        def is_there() -> bool:
            job = self.job()
            prefix = f"runctl/jobs/{job[0] if job else ''}/checkpoints/"
            buckets = [bucket["Name"] for bucket in found.list_buckets()["Buckets"]]
            names = [
                item["Key"].removeprefix(prefix).removesuffix("/manifest.json")
                for bucket in buckets
                for item in found.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
                if item["Key"].endswith("/manifest.json")
            ]
            return any(int(name[:6]) >= number or name.endswith(last) for name in names)

        self.until(is_there, f"checkpoint {number} is safe")

    def close(self) -> None:
        """End what a failed test left; machines, too: the cloud is shared."""
        for process in self._commands:
            if process.poll() is None:
                self.kill(process)
        if live := self.live():
            self.cloud.client("ec2").terminate_instances(InstanceIds=live)


@pytest.fixture(scope="module")
def own_cloud(start_sandbox: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A module's own sandbox, which it may leave full and put faults into."""
    with start_sandbox(tmp_path_factory.mktemp("home")) as live:
        yield live


@pytest.fixture
def sandbox(sandbox_cloud: Any) -> Iterator[Any]:
    """The worker's live sandbox at this suite's speed, without faults; proven empty when the session ends."""
    sandbox_cloud.control.clear_faults()
    sandbox_cloud.control.set_speed(SPEED)
    yield sandbox_cloud
    sandbox_cloud.control.clear_faults()
    sandbox_cloud.control.set_speed(SPEED)


@pytest.fixture
def lab(sandbox: Any, tmp_path: Path) -> Iterator[Lab]:
    """A home whose ledger is new and whose cloud is the worker's, and a project with the tiny script."""
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    (home / "sandbox").symlink_to(sandbox.home / "sandbox", target_is_directory=True)
    project.mkdir()
    shutil.copy(HERE / "walk.py", project)
    lab = Lab(home, project, sandbox)
    yield lab
    lab.close()
