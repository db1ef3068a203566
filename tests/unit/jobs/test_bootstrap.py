"""The first lines on a machine, run by a real shell against a server that is not there yet."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runctl.jobs.bootstrap import FETCH_WAITS, Bootstrap, script, stop_seconds
from runctl.resources import units

AGENT = b"import pathlib\npathlib.Path('ran').write_text('by the agent')\n"
ROLE = json.dumps({"AccessKeyId": "ROLEKEY", "SecretAccessKey": "s", "Token": "t"}).encode()
TOOLS = ("sh", "mkdir", "cat", "chmod", "id", "curl", "sha256sum", "sleep", "mv", "setsid", "nohup")


class Server(ThreadingHTTPServer):
    """A bucket and a metadata service: answers 503 for a number of times, then with the agent."""

    def __init__(self, failures: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.left, self.asked = failures, 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_PUT(self) -> None:
        self._tell(200, b"session")

    def do_GET(self) -> None:
        if self.path.startswith("/latest/"):
            assert self.headers["x-aws-ec2-metadata-token"] == "session"
            self._tell(200, ROLE if self.path.endswith("/role") else b"role\n")
            return
        assert self.path == "/b/runctl/agents/a.py"
        assert "Credential=ROLEKEY/" in self.headers["authorization"]
        assert self.headers["x-amz-expected-bucket-owner"] == "123456789012"
        self.server.asked += 1
        late = self.server.asked <= self.server.left
        self._tell(503 if late else 200, b"" if late else AGENT)

    def _tell(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def late(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The tools of a small machine: no systemd, whatever this host has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (folder / tool).symlink_to(found)
    (folder / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python3").chmod(0o755)
    return str(folder)


def first_lines(lease_minutes: int = 0) -> str:
    return script(
        Bootstrap(
            job="j",
            attempt=1,
            agent_key="runctl/agents/a.py",
            agent_sha256=hashlib.sha256(AGENT).hexdigest(),
            spec_sha256="0" * 64,
            seal="5ea1",
            owner="123456789012",
            bucket="b",
            prefix="p",
            region="us-east-1",
            host="s3.us-east-1.amazonaws.com",
            lease_minutes=lease_minutes,
            grace_seconds=90,
        )
    )


def environment(late: Server, path: str, home: Path) -> dict[str, str]:
    here = f"http://127.0.0.1:{late.server_port}"
    return {
        "PATH": path,
        "HOME": str(home),
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": here,
        "AWS_ENDPOINT_URL_S3": here,
        "RUNCTL_PER_BOOT": str(home / "per-boot"),
    }


def test_boot_arguments_hold_no_signed_url() -> None:
    assert "X-Amz-" not in first_lines()
    assert len(first_lines()) < 16_000  # what EC2 takes


@pytest.mark.parametrize("late", [3], indirect=True)
def test_a_network_that_is_a_moment_late_costs_a_moment(late: Server, path: str, tmp_path: Path) -> None:
    text = first_lines()
    begun = time.monotonic()
    subprocess.run(["sh", "-c", text], env=environment(late, path, tmp_path), check=True, timeout=60)
    assert late.asked == 4
    ran = tmp_path / ".runctl/jobs/j/attempt-1/ran"
    while not ran.exists():
        assert time.monotonic() - begun < 20
        time.sleep(0.02)


def no_folder_can_be_made(tools: Path, home: Path) -> None:
    home.joinpath(".runctl").touch()


def no_python(tools: Path, home: Path) -> None:
    tools.joinpath("python3").unlink()


def nothing_can_be_fetched(tools: Path, home: Path) -> None:
    for tool in ("python3", "curl"):
        tools.joinpath(tool).unlink()
        tools.joinpath(tool).write_text("#!/bin/sh\nexit 1\n")
        tools.joinpath(tool).chmod(0o755)
    tools.joinpath("sleep").unlink()
    tools.joinpath("sleep").symlink_to("/bin/true")


@pytest.mark.parametrize("damage", [no_folder_can_be_made, no_python, nothing_can_be_fetched])
@pytest.mark.parametrize("late", [0], indirect=True)
def test_a_start_that_fails_ends_the_machine_at_once_and_its_timer_was_armed_before(
    late: Server, path: str, tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    asked = tmp_path / "shutdowns"
    shutdown = Path(path) / "shutdown"
    shutdown.write_text(f'#!/bin/sh\necho "$@" >> "{asked}"\n')
    shutdown.chmod(0o755)
    damage(Path(path), tmp_path)
    text = first_lines(lease_minutes=30)
    done = subprocess.run(
        ["sh", "-c", text],
        env=environment(late, path, tmp_path),
        check=False,
        timeout=60,
        capture_output=True,
    )
    assert done.returncode == 1
    assert asked.read_text().splitlines() == ["-P +30", "-P now"]
    assert late.asked == 0


@pytest.fixture
def asked(path: str, tmp_path: Path) -> Path:
    """What `shutdown` was asked for."""
    file = tmp_path / "shutdowns"
    shutdown = Path(path) / "shutdown"
    shutdown.write_text(f'#!/bin/sh\necho "$@" >> "{file}"\n')
    shutdown.chmod(0o755)
    return file


@pytest.mark.parametrize("late", [0], indirect=True)
def test_a_machine_that_was_reset_arms_its_timer_again_and_starts_the_agent_which_tells_of_it(
    late: Server, path: str, tmp_path: Path, asked: Path
) -> None:
    """/run is empty, and user data is not run twice: what cloud-init runs at each boot must do it."""
    surroundings = environment(late, path, tmp_path)
    subprocess.run(["sh", "-c", first_lines(30)], env=surroundings, check=True, timeout=60)
    ran = tmp_path / ".runctl/jobs/j/attempt-1/ran"
    _until(ran.exists)
    ran.unlink()
    subprocess.run([str(tmp_path / "per-boot/runctl-lease")], env=surroundings, check=True, timeout=60)
    _until(ran.exists)
    assert asked.read_text().splitlines() == ["-P +30", "-P +30"]
    assert late.asked == 1  # nothing is fetched anew


@pytest.mark.parametrize("late", [0], indirect=True)
def test_a_machine_that_was_reset_before_it_had_its_agent_ends_at_once(
    late: Server, path: str, tmp_path: Path, asked: Path
) -> None:
    surroundings = environment(late, path, tmp_path)
    subprocess.run(["sh", "-c", first_lines(30)], env=surroundings, check=True, timeout=60)
    shutil.rmtree(tmp_path / ".runctl")
    subprocess.run([str(tmp_path / "per-boot/runctl-lease")], env=surroundings, check=False, timeout=60)
    assert asked.read_text().splitlines() == ["-P +30", "-P +30", "-P now"]


@pytest.mark.parametrize("late", [0], indirect=True)
def test_a_machine_of_the_users_is_not_touched_at_its_boots(
    late: Server, path: str, tmp_path: Path, asked: Path
) -> None:
    subprocess.run(["sh", "-c", first_lines()], env=environment(late, path, tmp_path), check=True, timeout=60)
    assert not asked.exists()
    assert not (tmp_path / "per-boot").exists()


def test_the_unit_survives_a_killed_worker_and_outlives_its_network_for_as_long_as_uploads_take() -> None:
    text = first_lines(30)
    for wanted in (
        "OOMPolicy=continue",
        "KillMode=mixed",
        "OOMScoreAdjust=-900",
        "LimitMEMLOCK=infinity",
        "LimitNOFILE=65536:524288",
        f"TimeoutStopSec={90 + 1800 + 60}",
        "After=network-online.target",
        "After=systemd-networkd.service",
        "After=systemd-resolved.service",
        "After=NetworkManager.service",
        "After=nss-lookup.target",
    ):
        assert f"--property={wanted} " in text
    for name in ("HOME", "PATH", "USER", "LOGNAME"):
        assert f"--setenv={name}=" in text


def test_systemd_knows_each_property_of_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    asked = units.properties(stop_seconds(90))
    after = [one for one in asked if one.startswith("After=")]
    service = [one for one in asked if one not in after]
    unit = tmp_path / "runctl-j-1.service"
    unit.write_text("\n".join(["[Unit]", *after, "[Service]", "ExecStart=/bin/sh -c true", *service, ""]))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "runctl-j-1.service" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def _until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_whole_patience_is_a_minute() -> None:
    assert 55 <= sum(FETCH_WAITS) <= 60
    assert list(FETCH_WAITS) == sorted(FETCH_WAITS)
