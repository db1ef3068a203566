"""One sandbox cloud for a whole test session: the real process, started and ended by the real commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import crash_table
import kills
import msgspec
import pytest
import s3_server as real_s3
from hypothesis import HealthCheck, settings

from runctl.clock import FileClock
from runctl.clouds import Cloud, SandboxRecord
from runctl.processes import is_alive
from runctl.sandbox.control import Control

T = TypeVar("T")
SPEED = 40.0
PLAIN_IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"

# Hundreds of commands and servers are started: none compiles again what another has compiled already.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A property holds however slow the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure() -> None:
    """A suite that a script starts in the background ignores Ctrl-C, and so would the commands it tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class LiveSandbox:
    """A sandbox that is up.

    Tests share it: each makes its own machines, disks and buckets under its own names, and clears its faults.
    """

    home: Path
    record: SandboxRecord
    control: Control
    _clients: dict[str, Any] = field(default_factory=dict[str, Any])

    def cloud(self) -> Cloud:
        """This cloud as the library knows it."""
        record = self.record
        return Cloud(
            name="sandbox",
            key=f"sandbox:{record.id}",
            clock=FileClock(Path(record.clock)),
            region=record.region,
            endpoint=record.endpoint,
            s3_endpoint=record.s3_endpoint,
            access_key=record.access_key,
            secret_key=record.secret_key,
        )

    def client(self, service: str, **config: Any) -> Any:
        """A boto3 client of this cloud that does not retry, unless `config` says so."""
        import boto3
        from botocore.config import Config

        key = f"{service}/{sorted(config.items())!r}"
        if key not in self._clients:
            settings = {
                "retries": {"total_max_attempts": 1},
                "s3": {"addressing_style": "path"},
                "read_timeout": 20,
                **config,
            }
            self._clients[key] = boto3.client(
                service,
                region_name=self.record.region,
                endpoint_url=self.record.s3_endpoint if service == "s3" else self.record.endpoint,
                aws_access_key_id=self.record.access_key,
                aws_secret_access_key=self.record.secret_key,
                config=Config(**settings),
            )
        return self._clients[key]

    def image(self, parameter: str = PLAIN_IMAGE) -> str:
        return self.client("ssm").get_parameter(Name=parameter)["Parameter"]["Value"]

    def launch(self, **changes: Any) -> str:
        """Start one machine and return its id, pending still."""
        asked: dict[str, Any] = {
            "ImageId": self.image(),
            "InstanceType": "c6i.large",
            "MinCount": 1,
            "MaxCount": 1,
            "IamInstanceProfile": {"Name": "runctl-instance"},
            **changes,
        }
        return self.client("ec2").run_instances(**asked)["Instances"][0]["InstanceId"]

    def instance(self, instance_id: str) -> dict[str, Any]:
        """What DescribeInstances says, by filter: empty while or when it is not shown."""
        found = self.client("ec2").describe_instances(
            Filters=[{"Name": "instance-id", "Values": [instance_id]}]
        )
        return next((one for group in found["Reservations"] for one in group["Instances"]), {})

    def state(self, instance_id: str) -> str:
        return self.instance(instance_id).get("State", {}).get("Name", "")

    def running(self, **changes: Any) -> str:
        """A machine that runs and whose SSM agent is online."""
        instance_id = self.launch(**changes)
        self.until(lambda: self.is_online(instance_id))
        return instance_id

    def is_online(self, instance_id: str) -> bool:
        asked = [{"Key": "InstanceIds", "Values": [instance_id]}]
        return bool(
            self.client("ssm").describe_instance_information(Filters=asked)["InstanceInformationList"]
        )

    def command(self, instance_id: str, script: str) -> dict[str, Any]:
        """Run a shell script on a machine; the invocation once it is over."""
        ssm = self.client("ssm")
        sent = ssm.send_command(
            InstanceIds=[instance_id],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": script.split("\n")},
        )["Command"]["CommandId"]

        def over() -> dict[str, Any] | None:
            with contextlib.suppress(ssm.exceptions.InvocationDoesNotExist):
                found = ssm.get_command_invocation(CommandId=sent, InstanceId=instance_id)
                if found["Status"] not in {"Pending", "InProgress"}:
                    return found
            return None

        return self.until(over)

    def volume(self, zone: str = "us-east-1a", **changes: Any) -> str:
        """A new gp3 disk that is available and can be named."""
        ec2 = self.client("ec2")
        asked: dict[str, Any] = {"AvailabilityZone": zone, "Size": 4, "VolumeType": "gp3", **changes}
        volume_id = ec2.create_volume(**asked)["VolumeId"]
        self.until(lambda: self.disk(volume_id).get("State") == "available")
        self.until(lambda: not self.refusal(ec2.describe_volumes, VolumeIds=[volume_id]))
        return volume_id

    def disk(self, volume_id: str) -> dict[str, Any]:
        """What DescribeVolumes says, by filter: empty when there is none."""
        found = self.client("ec2").describe_volumes(Filters=[{"Name": "volume-id", "Values": [volume_id]}])
        return next(iter(found["Volumes"]), {})

    @staticmethod
    def refusal(call: Callable[..., Any], **arguments: Any) -> str:
        """The error code with which a call is refused, empty when it is not."""
        from botocore.exceptions import ClientError

        try:
            call(**arguments)
        except ClientError as error:
            return error.response["Error"]["Code"]
        return ""

    @staticmethod
    def until(condition: Callable[[], T], seconds: float = 60.0) -> T:
        """The first true answer of `condition`."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, "it did not come true in time"
            time.sleep(0.02)
        return found

    @staticmethod
    def name(word: str) -> str:
        return f"{word}-{uuid.uuid4().hex[:10]}"

    def processes(self) -> list[int]:
        """Processes of the host that belong to this sandbox's machines, and its server."""
        marker = f"RUNCTL_SANDBOX_STATE={(self.home / 'sandbox/state').resolve()}".encode()
        found = [self.record.pid] if is_alive(self.record.pid) else []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if marker in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@pytest.fixture(autouse=True, scope="session")
def _home_of_no_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the ledger, prices and sandbox of whoever runs it."""
    before = os.environ.get("RUNCTL_HOME")
    os.environ["RUNCTL_HOME"] = str(tmp_path_factory.mktemp("no-user"))
    yield
    if before is None:
        del os.environ["RUNCTL_HOME"]
    else:
        os.environ["RUNCTL_HOME"] = before


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What one worker must do alone begins first, so that the others never wait for it in the end.

    pytest-xdist 3.8 names a test's group behind its id, where pytest 9.2 does not look any more: without
    this, every group is torn apart.
    """
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is not None and not item.nodeid.endswith(f"@{mark.args[0]}"):
            item._id = type(item.id).parse(f"{item.nodeid}@{mark.args[0]}")


def matrix_of(session: pytest.Session) -> list[dict[str, Any]]:
    """The rows of the crash matrix that this run told, whichever workers told them."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    return [
        row
        for report in (reporter.getreports("passed") if reporter else [])
        for name, row in report.user_properties
        if name == crash_table.PROPERTY and report.when == "call"
    ]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A whole crash matrix with too few points is a failure."""
    if exitstatus == pytest.ExitCode.OK and crash_table.is_too_small(matrix_of(session)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The crash matrix, and what random kills came to, as one table each."""
    told = [
        row
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, rows in report.user_properties
        if name == kills.PROPERTY and report.when == "call"
        for row in rows
    ]
    if told:
        terminalreporter.section(kills.PROPERTY)
        for line in kills.table(kills.of_rows(told)):
            terminalreporter.write_line(line)
    if rows := matrix_of(terminalreporter._session):
        terminalreporter.section("crash matrix")
        for line in crash_table.lines(rows):
            terminalreporter.write_line(line)


def runctl(home: Path, *arguments: str) -> dict[str, Any]:
    """Run a command as a user would, in a home of its own, and return what it wrote as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "runctl", *arguments, "--output", "json"],
        env={**os.environ, "RUNCTL_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def runctl_command() -> Callable[..., dict[str, Any]]:
    return runctl


@pytest.fixture(scope="session")
def start_sandbox() -> Callable[..., contextlib.AbstractContextManager[LiveSandbox]]:
    """Starts a sandbox of a test's own."""
    return started_sandbox


@contextlib.contextmanager
def started_sandbox(
    home: Path, *options: str, isolation: str = "auto", speed: float = SPEED
) -> Iterator[LiveSandbox]:
    """A sandbox of one's own, for a test that disturbs it; nothing of it is left afterwards."""
    runctl(home, "sandbox", "up", "--speed", str(speed), "--isolation", isolation, *options)
    record = msgspec.json.decode((home / "sandbox/cloud.json").read_bytes(), type=SandboxRecord)
    live = LiveSandbox(home, record, Control(record))
    try:
        yield live
    finally:
        live.close()
        runctl(home, "sandbox", "down")
        assert live.processes() == []


@pytest.fixture(scope="session")
def sandbox_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSandbox]:
    """The session's shared sandbox, in the isolation that this host allows."""
    with started_sandbox(tmp_path_factory.mktemp("home")) as live:
        yield live


@pytest.fixture(scope="session")
def plain_sandbox_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveSandbox]:
    """The session's other sandbox, in which nothing separates the machines."""
    with started_sandbox(tmp_path_factory.mktemp("home"), isolation="plain") as live:
        yield live


@pytest.fixture(autouse=True)
def no_fault_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A fault that one test added and none of its calls met is not the next test's."""
    yield
    for shared in {"sandbox_cloud", "plain_sandbox_cloud"} & set(request.fixturenames):
        request.getfixturevalue(shared).control.clear_faults()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[real_s3.S3Server]:
    """The session's real S3 server, shared: each test makes a bucket of its own."""
    with real_s3.running() as server:
        yield server


@pytest.fixture(params=["namespaces", "plain"])
def each_sandbox_cloud(request: pytest.FixtureRequest) -> LiveSandbox:
    """A shared sandbox of each isolation that this host allows."""
    if request.param == "plain":
        return request.getfixturevalue("plain_sandbox_cloud")
    live: LiveSandbox = request.getfixturevalue("sandbox_cloud")
    if live.control.status()["isolation"] != "namespaces":
        pytest.skip("this host allows no namespaces")
    return live
