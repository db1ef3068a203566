"""Filling a volume from S3, as users do it: the command, a live cloud, real processes on its machines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from runctl.storage.entries import Entry, dataset_version

T = TypeVar("T")
ZONE = "us-east-1a"
OVER = {"shutting-down", "terminated"}


@dataclass
class Warmth:
    """One test's own ledger, bucket and volumes in the shared cloud."""

    home: Path
    cloud: Any  # tests/conftest.py: LiveSandbox
    bucket: str = field(default_factory=lambda: f"data-{uuid.uuid4().hex[:12]}")
    _commands: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def location(self) -> str:
        return f"s3://{self.bucket}/set"

    def put(self, key: str, data: bytes) -> None:
        self.cloud.client("s3").put_object(Bucket=self.bucket, Key=f"set/{key}", Body=data)

    def version(self) -> str:
        found = self.cloud.client("s3").list_objects_v2(Bucket=self.bucket, Prefix="set/")
        return dataset_version(
            Entry(item["Key"].removeprefix("set/"), item["Size"], 0, item["ETag"].strip('"'))
            for item in found["Contents"]
        )

    # The command

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        out = self.home / f"out-{len(self._commands)}"
        with out.open("wb") as stdout, out.with_suffix(".err").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "runctl", *arguments, "--on", "sandbox", "--output", "json"],
                env={**os.environ, "RUNCTL_HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self._commands.append(process)
        return process

    def said(self) -> str:
        """What the newest command wrote."""
        out = self.home / f"out-{len(self._commands) - 1}"
        return out.read_text() + out.with_suffix(".err").read_text()

    def run(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        process = self.start(*arguments)
        return self.finish(process, code)

    def finish(self, process: subprocess.Popen[bytes], code: int = 0) -> dict[str, Any]:
        """The answer of a command, or its error."""
        found = process.wait(timeout=120)
        assert found == code, self.said()
        out = self.home / f"out-{self._commands.index(process)}"
        text = out.read_text()
        if text:
            return json.loads(text)
        return json.loads(out.with_suffix(".err").read_text().splitlines()[-1])["error"]

    def warm(self, volume: str, *options: str, code: int = 0) -> dict[str, Any]:
        return self.run("aws", "ebs", "pre-warm", volume, self.location, *options, code=code)

    def recover(self, how: str) -> str:
        """Finish or undo what a dead process left; answers the outcome."""
        (left,) = self.unfinished()
        arguments = [
            sys.executable,
            "-m",
            "runctl",
            "tx",
            how,
            left,
            *(["--yes"] if how == "rollback" else []),
        ]
        environment = {**os.environ, "RUNCTL_HOME": str(self.home)}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[2].rstrip(":")  # "tx-... is finished: what it made"

    def unfinished(self) -> list[str]:
        connection = sqlite3.connect(f"file:{self.home / 'ledger.sqlite3'}?mode=ro", uri=True)
        with contextlib.closing(connection):
            return [row[0] for row in connection.execute("SELECT id FROM transactions WHERE outcome IS NULL")]

    def steps(self) -> dict[str, str | None]:
        """The steps of the newest operation with their outcomes."""
        path = self.home / "ledger.sqlite3"
        if not path.exists():
            return {}
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        newest = "SELECT id FROM transactions ORDER BY begun DESC LIMIT 1"
        with contextlib.closing(connection), contextlib.suppress(sqlite3.OperationalError):
            return dict(
                connection.execute(f"SELECT name, outcome FROM steps WHERE tx = ({newest})").fetchall()
            )
        return {}  # it is being made

    def staged(self) -> list[tuple[str, str]]:
        """What the ledger knows of volumes: their ids and versions."""
        connection = sqlite3.connect(f"file:{self.home / 'ledger.sqlite3'}?mode=ro", uri=True)
        with contextlib.closing(connection):
            return connection.execute("SELECT resource, version FROM staged ORDER BY number").fetchall()

    # The cloud

    def machines(self, volume: str) -> dict[str, str]:
        """The temporary machines of a volume, ended ones included, with their states."""
        name = [{"Name": "tag:Name", "Values": [f"runctl pre-warm {volume}"]}]
        found = self.cloud.client("ec2").describe_instances(Filters=name)["Reservations"]
        return {one["InstanceId"]: one["State"]["Name"] for group in found for one in group["Instances"]}

    def tags(self, volume: str) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in self.cloud.disk(volume).get("Tags", [])}

    def folder(self, volume: str) -> Path:
        """The files of a disk, seen from the host."""
        return Path(self.cloud.home).joinpath("sandbox/state/volumes", volume, "fs").resolve()

    def files(self, volume: str) -> dict[str, bytes]:
        root = self.folder(volume)
        found = (path for path in root.rglob("*") if path.is_file())
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in found
            if not path.is_relative_to(root / ".runctl")
        }

    def is_free(self, volume: str) -> bool:
        found = self.cloud.disk(volume)
        return found["State"] == "available" and not found["Attachments"]

    def until(self, condition: Callable[[], T], what: str, seconds: float = 60.0) -> T:
        end = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > end:
                pytest.fail(f"not in {seconds:g} s: {what}\n{self.said()}")
            time.sleep(0.02)
        return found

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)

    def close(self) -> None:
        for process in self._commands:
            if process.poll() is None:
                self.kill(process)


@pytest.fixture
def warmth(sandbox: Any, tmp_path: Path) -> Iterator[Warmth]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "sandbox").symlink_to(sandbox.home / "sandbox", target_is_directory=True)
    made = Warmth(home, sandbox)
    sandbox.client("s3").create_bucket(Bucket=made.bucket)
    for number in range(4):
        made.put(f"train/{number}.bin", bytes([number]) * 1000)
    made.put("ünï + %41.txt", b"a name")
    yield made
    made.close()


FILES = {f"train/{number}.bin": bytes([number]) * 1000 for number in range(4)} | {"ünï + %41.txt": b"a name"}


def test_a_volume_is_filled_then_warm_then_gets_what_changed(warmth: Warmth) -> None:
    volume = warmth.cloud.volume(ZONE)
    first = warmth.warm(volume)
    assert warmth.files(volume) == FILES
    assert (first["copied_files"], first["equal_files"], first["version"]) == (5, 0, warmth.version())
    assert warmth.tags(volume)["runctl:dataset"] == warmth.location
    assert warmth.tags(volume)["runctl:dataset-version"] == warmth.version()
    assert warmth.staged() == [(volume, warmth.version())]
    assert warmth.is_free(volume)
    assert set(warmth.machines(volume).values()) <= OVER
    assert len(warmth.machines(volume)) == 1

    again = warmth.warm(volume)
    assert (again["copied_files"], len(warmth.machines(volume))) == (0, 1)

    warmth.put("train/2.bin", b"another content")
    changed = warmth.warm(volume)
    assert (changed["copied_files"], changed["equal_files"]) == (1, 4)
    assert warmth.files(volume) == FILES | {"train/2.bin": b"another content"}
    assert warmth.tags(volume)["runctl:dataset-version"] == warmth.version() != first["version"]


def slow_down(warmth: Warmth, seconds: float = 2.0) -> None:
    """A dataset that takes a while: what is below `slow/` comes late."""
    for number in range(100):
        warmth.put(f"slow/{number:02}", bytes([number]) * 500)
    name = f"{warmth.bucket}/set/slow"
    warmth.cloud.control.add_fault("s3", "latency", operation="GetObject", instance=name, latency=seconds)


SLOW = {f"slow/{number:02}": bytes([number]) * 500 for number in range(100)}


def copying(warmth: Warmth, volume: str) -> tuple[subprocess.Popen[bytes], str]:
    """A command whose temporary machine copies: its process and the machine."""
    slow_down(warmth)
    command = warmth.start("aws", "ebs", "pre-warm", volume, warmth.location)
    warmth.until(lambda: "copy-1" in warmth.steps(), "the copying begins")
    warmth.until(lambda: '"copying' in warmth.said(), "the copying is shown")
    machine = next(name for name, state in warmth.machines(volume).items() if state not in OVER)
    return command, machine


@pytest.mark.parametrize(
    "blow",
    [
        "notice",
        pytest.param("terminate", marks=pytest.mark.slow),
    ],
)
def test_a_machine_that_is_taken_away_is_followed_by_another(warmth: Warmth, blow: str) -> None:
    volume = warmth.cloud.volume(ZONE)
    command, first = copying(warmth, volume)
    if blow == "notice":
        warmth.cloud.control.interrupt(first)
    else:
        warmth.cloud.client("ec2").terminate_instances(InstanceIds=[first])
    warmth.until(lambda: warmth.steps().get("copy-1"), "the loss is seen")
    warmth.cloud.control.clear_faults()
    done = warmth.finish(command)
    assert (done["copied_files"] + done["equal_files"], done["version"]) == (105, warmth.version())
    assert warmth.files(volume) == FILES | SLOW
    assert len(warmth.machines(volume)) == 2
    assert set(warmth.machines(volume).values()) <= OVER
    assert warmth.is_free(volume)
    assert warmth.unfinished() == []
    assert re.search(r"\$\d+\.\d{4} so far", warmth.said()), "what it costs is shown while it runs"


@pytest.mark.parametrize("how", ["resume", pytest.param("rollback", marks=pytest.mark.slow)])
def test_a_killed_command_is_finished_or_undone(warmth: Warmth, how: str) -> None:
    volume = warmth.cloud.volume(ZONE)
    command, machine = copying(warmth, volume)
    warmth.kill(command)
    warmth.cloud.control.clear_faults()
    warmth.run("aws", "ebs", "list")
    assert "left unfinished" in warmth.said()
    outcome = warmth.recover(how)
    assert outcome == {"resume": "finished", "rollback": "rolled-back"}[how]
    assert warmth.is_free(volume)
    assert warmth.machines(volume)[machine] in OVER
    assert set(warmth.machines(volume).values()) <= OVER
    if how == "resume":
        assert warmth.files(volume) == FILES | SLOW
        assert warmth.tags(volume)["runctl:dataset-version"] == warmth.version()
    else:
        assert "runctl:dataset-version" not in warmth.tags(volume)


def test_a_volume_that_looks_filled_and_was_left_in_the_middle_is_not_told_as_done(warmth: Warmth) -> None:
    """Killed while it marks the volume: the marks are there, and the journal has no end of it."""
    stage = ("data", "stage", warmth.location, "--zone", ZONE)
    marks = [{"Name": "tag:runctl:dataset-version", "Values": [warmth.version()]}]
    ec2 = warmth.cloud.client("ec2")
    warmth.cloud.control.add_fault("ec2", "lost-response", operation="CreateTags")
    command = warmth.start(*stage)
    (marked,) = warmth.until(lambda: ec2.describe_volumes(Filters=marks)["Volumes"], "it is marked")
    warmth.kill(command)
    warmth.cloud.control.clear_faults()
    assert warmth.steps()["mark"] is None
    volume = marked["VolumeId"]
    for words in (stage, ("aws", "ebs", "pre-warm", volume, warmth.location)):
        assert warmth.run(*words, code=1)["next"] == f"runctl tx resume {warmth.unfinished()[0]}"
    assert warmth.recover("resume") == "finished"
    assert warmth.unfinished() == []
    again = warmth.run(*stage)
    assert (again["volume"], again["copied_files"]) == (volume, 0)


@pytest.mark.slow
def test_a_machine_that_nobody_looks_after_ends_itself_and_another_finishes(warmth: Warmth) -> None:
    volume = warmth.cloud.volume(ZONE)
    command, machine = copying(warmth, volume)
    warmth.kill(command)
    warmth.cloud.control.clear_faults()
    warmth.until(lambda: warmth.machines(volume)[machine] == "terminated", "the lease ends it")
    assert warmth.recover("resume") == "finished"
    assert warmth.files(volume) == FILES | SLOW
    assert len(warmth.machines(volume)) == 2
    assert set(warmth.machines(volume).values()) <= OVER
    assert warmth.is_free(volume)


@pytest.mark.slow
def test_a_foreign_file_system_is_refused_by_a_temporary_machine_too(warmth: Warmth) -> None:
    volume = warmth.cloud.volume(ZONE)
    disk = warmth.folder(volume).parent
    (disk / "formatted").write_text("ntfs\n")
    (disk / "fs/family.jpg").write_bytes(b"a picture")
    error = warmth.warm(volume, code=1)
    assert "ntfs" in error["what"]
    assert warmth.files(volume) == {"family.jpg": b"a picture"}
    assert (disk / "formatted").read_text() == "ntfs\n"
    assert set(warmth.machines(volume).values()) <= OVER
    assert len(warmth.machines(volume)) == 1
    assert warmth.is_free(volume)
    assert warmth.unfinished() == []
    assert "runctl:dataset" not in warmth.tags(volume)


@pytest.mark.slow
def test_ctrl_c_ends_the_copying_and_removes_the_machine(warmth: Warmth) -> None:
    volume = warmth.cloud.volume(ZONE)
    command, machine = copying(warmth, volume)
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=60) == 130, warmth.said()
    assert warmth.unfinished() == []
    assert warmth.machines(volume)[machine] in OVER
    assert warmth.is_free(volume)
    assert "runctl:dataset-version" not in warmth.tags(volume)


def test_a_machine_of_the_users_is_used_and_left_alone(warmth: Warmth) -> None:
    """A file system that is not ours is refused there, too, and stays as it is."""
    machine = warmth.cloud.running(Placement={"AvailabilityZone": ZONE})
    foreign, blank = warmth.cloud.volume(ZONE), warmth.cloud.volume(ZONE)
    disk = warmth.folder(foreign).parent
    (disk / "formatted").write_text("ntfs\n")
    (disk / "fs/family.jpg").write_bytes(b"a picture")

    error = warmth.warm(foreign, "--instance", machine, code=1)
    assert "ntfs" in error["what"]
    assert warmth.files(foreign) == {"family.jpg": b"a picture"}
    assert (disk / "formatted").read_text() == "ntfs\n"
    assert warmth.is_free(foreign)

    warmth.put("two//slashes", b"hostile")
    warmth.put("tab\there", b"hostile")
    done = warmth.warm(blank, "--instance", machine, code=1)
    assert {name for name, _ in done["left_out"]} == {"two//slashes", "tab\there"}
    assert (done["copied_files"], done["usd"], done["version"]) == (5, None, warmth.version())
    again = warmth.warm(blank, code=1)
    assert (again["left_out_files"], again["copied_files"], again["equal_files"]) == (2, 0, 5)
    assert warmth.files(blank) == FILES
    assert warmth.is_free(blank)
    assert warmth.cloud.state(machine) == "running"
    assert warmth.machines(foreign) == warmth.machines(blank) == {}
    warmth.cloud.client("ec2").terminate_instances(InstanceIds=[machine])


def test_a_machine_of_another_zone_is_refused_with_the_way_to_get_there(warmth: Warmth) -> None:
    machine = warmth.cloud.launch(Placement={"AvailabilityZone": "us-east-1b"})
    volume = warmth.cloud.volume(ZONE)
    error = warmth.warm(volume, "--instance", machine, code=1)
    assert "us-east-1b" in error["what"]
    assert f"runctl aws ebs restore {volume} --availability-zone us-east-1b" in error["next"]
    assert warmth.steps() == {}
    warmth.cloud.client("ec2").terminate_instances(InstanceIds=[machine])


@pytest.mark.slow
def test_a_volume_that_was_half_changed_says_so(warmth: Warmth) -> None:
    """Its tags name no version from before the first byte changes until all have."""
    volume = warmth.cloud.volume(ZONE)
    warmth.warm(volume)
    command, _ = copying(warmth, volume)
    warmth.kill(command)
    assert warmth.tags(volume)["runctl:dataset-version"] == ""
    warmth.cloud.control.clear_faults()
    assert warmth.recover("rollback") == "rolled-back"
    assert warmth.tags(volume)["runctl:dataset-version"] == ""
    assert warmth.warm(volume)["version"] == warmth.version()
    assert warmth.tags(volume)["runctl:dataset-version"] == warmth.version()


@pytest.mark.slow
def test_a_volume_that_is_mounted_on_a_machine_stays_so(warmth: Warmth) -> None:
    machine = warmth.cloud.running(Placement={"AvailabilityZone": ZONE})
    volume = warmth.cloud.volume(ZONE)
    warmth.run("aws", "ebs", "attach", volume, machine, "--mount", "/data")
    error = warmth.warm(volume, code=1)
    assert f"--instance {machine}" in error["next"]
    assert warmth.warm(volume, "--instance", machine)["copied_files"] == 5
    found = warmth.cloud.command(machine, "cat $RUNCTL_ROOT/data/train/1.bin | wc -c")
    assert found["StandardOutputContent"].strip() == "1000"
    assert [one["InstanceId"] for one in warmth.cloud.disk(volume)["Attachments"]] == [machine]
    left = warmth.cloud.command(machine, "ls $HOME/.runctl/stage")
    assert left["StandardOutputContent"].strip() == ""
    warmth.cloud.client("ec2").terminate_instances(InstanceIds=[machine])


@pytest.mark.slow
def test_a_snapshot_serves_other_zones(warmth: Warmth) -> None:
    plan = warmth.run("data", "stage", warmth.location, "--zone", ZONE, "--dry-run")
    assert (plan["dataset"]["files"], plan["offers"][0]["zone"]) == (5, ZONE)
    assert warmth.steps() == {}
    made = warmth.run("data", "stage", warmth.location, "--zone", ZONE, "--snapshot")
    (snapshot,) = warmth.cloud.client("ec2").describe_snapshots(SnapshotIds=[made["snapshot"]])["Snapshots"]
    tags = {tag["Key"]: tag["Value"] for tag in snapshot["Tags"]}
    assert (tags["runctl:dataset-version"], tags["runctl:dataset-extra"]) == (warmth.version(), "0")
    assert warmth.files(made["volume"]) == FILES
    there = warmth.run("data", "stage", warmth.location, "--zone", "us-east-1b")
    assert (there["copied_files"], there["zone"]) == (0, "us-east-1b")
    assert warmth.files(there["volume"]) == FILES
    assert warmth.tags(there["volume"])["runctl:dataset-version"] == warmth.version()
    assert warmth.run("data", "stage", warmth.location, "--zone", "us-east-1b")["volume"] == there["volume"]


@pytest.mark.slow
def test_a_new_volume_is_created_full_or_not_at_all(warmth: Warmth) -> None:
    made = warmth.run("aws", "ebs", "create", "--pre-warm", warmth.location, "--name", warmth.bucket)
    assert warmth.files(made["volume"]) == FILES
    # A warm volume needs no machine for its snapshot, and one snapshot of a version is enough.
    taken = warmth.warm(made["volume"], "--snapshot")["snapshot"]
    assert taken.startswith("snap-")
    assert warmth.steps().keys() == {"snapshot", "complete"}
    assert warmth.warm(made["volume"], "--snapshot")["snapshot"] == taken
    error = warmth.run(
        "aws", "ebs", "create", "--size", "1", "--pre-warm", f"s3://{warmth.bucket}/no", code=1
    )
    assert error["kind"] == "NotFound"


@pytest.mark.slow
def test_a_new_volume_that_cannot_be_filled_is_not_kept(warmth: Warmth) -> None:
    """The dataset changes for ever: the machine gives up, and nothing is left."""
    warmth.cloud.control.add_fault("s3", "error", operation="GetObject", instance="/set/train/2", status=403)
    error = warmth.run("aws", "ebs", "create", "--pre-warm", warmth.location, "--name", warmth.bucket, code=2)
    assert "train/2" in error["why"]
    named = [{"Name": "tag:Name", "Values": [warmth.bucket]}]
    assert warmth.cloud.client("ec2").describe_volumes(Filters=named)["Volumes"] == []
    assert warmth.unfinished() == []
