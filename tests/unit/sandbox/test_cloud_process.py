"""The sandbox as a process: up, status, down, crashes, and the commands that steer it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from runctl.clouds import SandboxRecord
from runctl.errors import ValidationError
from runctl.processes import is_alive
from runctl.sandbox import launcher
from runctl.sandbox.server import other_s3_keys

if TYPE_CHECKING:
    from s3_server import S3Server

    from conftest import LiveSandbox

Command = Callable[..., dict[str, Any]]


# Its tests tell one story of one cloud: one worker runs them all, in order.
pytestmark = pytest.mark.xdist_group("cloud-process")


@pytest.fixture(scope="module")
def cloud(
    tmp_path_factory: pytest.TempPathFactory,
    start_sandbox: Callable[..., contextlib.AbstractContextManager[LiveSandbox]],
) -> Iterator[LiveSandbox]:
    """A sandbox whose clock and faults are this module's."""
    with start_sandbox(tmp_path_factory.mktemp("home")) as live:
        yield live


def text(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runctl", *arguments],
        env={**os.environ, "RUNCTL_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_up_twice_is_up_once(cloud: LiveSandbox, runctl_command: Command) -> None:
    again = runctl_command(cloud.home, "sandbox", "up")
    assert again["endpoint"] == cloud.record.endpoint
    assert again["pid"] == cloud.record.pid


def test_its_record_is_for_its_owner_alone(cloud: LiveSandbox) -> None:
    mode = (cloud.home / "sandbox/cloud.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert cloud.record.endpoint.startswith("http://127.0.0.1:")


def test_its_controls_want_its_token(cloud: LiveSandbox) -> None:
    for headers in ({}, {"X-Runctl-Control": "wrong"}):
        request = urllib.request.Request(
            f"{cloud.record.endpoint}/_sandbox/status", data=b"{}", headers=headers, method="POST"
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        refused.value.close()
        assert refused.value.code == 403


def test_status_shows_machines_disks_faults_and_money(cloud: LiveSandbox, runctl_command: Command) -> None:
    machine = cloud.running(
        InstanceMarketOptions={"MarketType": "spot"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "runctl:job", "Value": "job-7"}]}],
    )
    runctl_command(
        cloud.home,
        *("sandbox", "fault", "add", "--service", "ec2", "--operation", "CreateVolume"),
        *("--kind", "throttle", "--rate", "0.3", "--count", "5"),
    )
    found = runctl_command(cloud.home, "sandbox", "status")
    [shown] = found["machines"]
    assert {key: shown[key] for key in ("id", "type", "zone", "market", "state", "job", "ssm")} == {
        "id": machine,
        "type": "c6i.large",
        "zone": "us-east-1a",
        "market": "spot",
        "state": "running",
        "job": "job-7",
        "ssm": True,
    }
    assert shown["age_seconds"] > 10
    assert [(disk["size_gib"], disk["instance"]) for disk in found["disks"]] == [(8, machine)]
    assert float(found["spent"]) > 0
    seen = text(cloud.home, "sandbox", "status")
    assert seen.returncode == 0, seen.stderr
    for word in (machine, "job-7", "8 GiB", "throttle ec2.CreateVolume", cloud.record.endpoint, "simulated"):
        assert word in seen.stdout
    faults = json.loads(text(cloud.home, "sandbox", "fault", "list", "--output", "json").stdout)
    assert [(fault["kind"], fault["count"]) for fault in faults] == [("throttle", 5)]
    runctl_command(cloud.home, "sandbox", "fault", "clear")
    assert cloud.control.status()["faults"] == []


def test_interrupt_and_clock_are_commands(cloud: LiveSandbox, runctl_command: Command) -> None:
    machine = cloud.running(InstanceMarketOptions={"MarketType": "spot"})
    runctl_command(cloud.home, "sandbox", "clock", "--speed", "80")
    assert cloud.control.status()["speed"] == 80
    tried = runctl_command(cloud.home, "sandbox", "interrupt", machine, "--notice", "5", "--dry-run")
    assert tried == {"instance": machine, "dry_run": True}
    assert (
        cloud.client("ec2").describe_spot_instance_requests(
            Filters=[{"Name": "instance-id", "Values": [machine]}]
        )["SpotInstanceRequests"][0]["Status"]["Code"]
        == "fulfilled"
    )
    would = runctl_command(cloud.home, "sandbox", "down", "--dry-run")
    assert would["is_up"]
    assert machine in would["machines"]
    runctl_command(cloud.home, "sandbox", "interrupt", machine, "--notice", "5")
    cloud.until(lambda: cloud.state(machine) == "terminated")
    wrong = text(cloud.home, "sandbox", "interrupt", machine)
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
    assert "cannot be interrupted" in wrong.stderr
    slow = text(cloud.home, "sandbox", "clock", "--speed", "0")
    assert (slow.returncode, "Traceback" in slow.stderr) == (1, False)


def test_another_server_of_the_same_home_gives_way(cloud: LiveSandbox) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "runctl.sandbox.server"],
        env={**os.environ, "RUNCTL_HOME": str(cloud.home)},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert second.returncode == 3
    assert cloud.control.status()["endpoint"] == cloud.record.endpoint


def test_up_beside_one_that_goes_down_waits_for_it_and_is_not_undone_by_who_looks(
    tmp_path: Path, cloud: LiveSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The home is taken and has no record: then it is free, and others ask all the time whether one is up."""
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path))
    (tmp_path / "sandbox").mkdir()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            launcher.running()

    with ThreadPoolExecutor(3) as workers, (tmp_path / "sandbox/lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        up = workers.submit(launcher.up)
        try:
            mark = f"RUNCTL_HOME={tmp_path}".encode()
            cloud.until(lambda: servers_at(mark, tmp_path / "sandbox/lock"))
            fcntl.lockf(lock, fcntl.LOCK_UN)
            for _ in range(2):
                workers.submit(look)
            record = up.result()
        finally:
            over.set()
    launcher.down(record)
    assert not is_alive(record.pid)


def servers_at(mark: bytes, lock: Path) -> list[int]:
    """Other processes with this in their environment that have come to their lock."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            held = {str(one.readlink()) for one in (folder / "fd").iterdir()}
            if mark in (folder / "environ").read_bytes().split(b"\0") and str(lock) in held:
                found.append(int(folder.name))
    return found


def test_a_crash_leaves_nothing_running_and_the_next_commands_say_so(
    tmp_path: Path,
    runctl_command: Command,
    start_sandbox: Callable[..., contextlib.AbstractContextManager[LiveSandbox]],
) -> None:
    with start_sandbox(tmp_path) as live:
        machine = live.running()
        live.command(machine, "setsid sleep 600 >/dev/null 2>&1 </dev/null &")
        assert len(live.processes()) >= 2
        os.kill(live.record.pid, signal.SIGKILL)
        live.until(lambda: not is_alive(live.record.pid))
        live.until(lambda: live.processes() == [])
        told = text(tmp_path, "sandbox", "status")
        assert told.returncode == 3
        assert "is gone" in told.stderr
        assert "runctl sandbox up" in told.stderr
        runctl_command(tmp_path, "sandbox", "up")
        again = msgspec.json.decode((tmp_path / "sandbox/cloud.json").read_bytes(), type=SandboxRecord)
        assert again.pid != live.record.pid
        assert runctl_command(tmp_path, "sandbox", "status")["machines"] == []
        assert runctl_command(tmp_path, "sandbox", "down") == {"was_up": True, "jobs": []}
    assert not is_alive(again.pid)


def test_down_ends_everything_and_throws_its_data_away(
    tmp_path: Path,
    runctl_command: Command,
    start_sandbox: Callable[..., contextlib.AbstractContextManager[LiveSandbox]],
) -> None:
    with start_sandbox(tmp_path) as live:
        machines = [live.launch() for _ in range(3)]
        for machine in machines:
            live.until(lambda machine=machine: live.is_online(machine), 90)
            live.command(machine, "setsid sh -c 'trap \"\" TERM; sleep 600' >/dev/null 2>&1 </dev/null &")
        assert runctl_command(tmp_path, "sandbox", "down") == {"was_up": True, "jobs": []}
        assert live.processes() == []
        assert not (tmp_path / "sandbox/cloud.json").exists()
        assert not (tmp_path / "sandbox/state").exists()
        assert runctl_command(tmp_path, "sandbox", "down") == {"was_up": False, "jobs": []}


def test_a_real_s3_server_and_another_limit_may_take_the_place_of_its_own(
    tmp_path: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    start_sandbox: Callable[..., contextlib.AbstractContextManager[LiveSandbox]],
) -> None:
    """With keys of its own, which it verifies: for our calls, for machines and for whole jobs."""
    monkeypatch.setenv("RUNCTL_SANDBOX_S3_ACCESS_KEY", s3_server.access_key)
    monkeypatch.setenv("RUNCTL_SANDBOX_S3_SECRET_KEY", s3_server.secret_key)
    bucket = s3_server.new_bucket()
    held = s3_server.client()
    with start_sandbox(tmp_path, "--s3", s3_server.endpoint, "--vcpu-limit", "4") as live:
        assert live.record.s3_endpoint == s3_server.endpoint != live.record.endpoint
        machine = live.running()
        assert live.refusal(live.launch, InstanceType="c6i.xlarge") == "VcpuLimitExceeded"
        script = f"import boto3; boto3.client('s3').put_object(Bucket='{bucket}', Key='k', Body=b'inside')"
        sent = live.client("ssm").send_command(
            InstanceIds=[machine],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": [f'python3 -c "{script}" && echo done']},
            OutputS3BucketName=bucket,
        )["Command"]["CommandId"]
        live.until(lambda: held.list_objects_v2(Bucket=bucket)["KeyCount"] == 2)
        assert held.get_object(Bucket=bucket, Key="k")["Body"].read() == b"inside"
        keys = [row["Key"] for row in held.list_objects_v2(Bucket=bucket)["Contents"]]
        assert any(key.startswith(sent) for key in keys)
        live.client("ec2").terminate_instances(InstanceIds=[machine])
        live.until(lambda: live.state(machine) == "terminated")
        project = tmp_path / "project"
        project.mkdir()
        (project / "train.py").write_text(
            "import os, pathlib\npathlib.Path(os.environ['RUNCTL_OUTPUT_DIR'], 'a').write_text('made')\n"
        )
        here = tmp_path / "out"
        words = ("--on", "sandbox", "--instance-type", "c6i.xlarge", "--output", str(here))
        done = text(tmp_path, "train", str(project / "train.py"), *words)
        assert done.returncode == 0, done.stderr
        assert (here / "a").read_text() == "made"
    held.close()


def test_half_of_the_keys_of_another_s3_server_are_refused() -> None:
    with pytest.raises(ValidationError, match="not whole"):
        other_s3_keys({"RUNCTL_SANDBOX_S3_ACCESS_KEY": "a"})
    assert other_s3_keys({}) is None
