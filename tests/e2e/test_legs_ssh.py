"""Files to and from machines where there is no bucket: over SSH through SSM, and nothing left of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from road import MIB, Command, Road, contents, tree

from runctl.errors import ConfigError, TransferError
from runctl.providers.aws import tunnel

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.xdist_group("legs"),
    pytest.mark.skipif(
        not (shutil.which("ssh") and shutil.which("ssh-keygen")), reason="there is no OpenSSH client here"
    ),
]


@pytest.fixture(scope="module")
def machines(sandbox_cloud: Any) -> Iterator[tuple[str, str]]:
    """Two machines, each with an SSH server of its own."""
    found = (sandbox_cloud.launch(), sandbox_cloud.launch())
    shim = sandbox_cloud.home / "sandbox/state/shims/sshd"
    for machine in found:
        sandbox_cloud.until(lambda machine=machine: sandbox_cloud.is_online(machine))
        shim.write_text('#!/bin/sh\ncat "$HOME/sshd/settings"\n')
        shim.chmod(0o755)
        home = _home(sandbox_cloud, machine)
        shutil.copy(HERE / "machine_sshd.py", home)
        sandbox_cloud.command(
            machine, f"setsid nohup python {home}/machine_sshd.py {home}/sshd >{home}/sshd.log 2>&1 &"
        )
        sandbox_cloud.until((home / "sshd/settings").exists)
    yield found
    shim.unlink()
    sandbox_cloud.client("ec2").terminate_instances(InstanceIds=list(found))


def _home(live: Any, machine: str) -> Path:
    return (live.home / "sandbox/state/machines" / machine / "home").resolve()


@pytest.fixture
def road(
    sandbox: Any, machines: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Road]:
    """No bucket can be had, and the plugin is there."""
    programs = tmp_path / "bin"
    programs.mkdir()
    plugin = programs / tunnel.PLUGIN
    plugin.write_text(f"#!{sys.executable}\n{(HERE / 'session_manager_plugin.py').read_text()}")
    plugin.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/sandbox").symlink_to(sandbox.home / "sandbox", target_is_directory=True)
    sandbox.control.add_fault("s3", "error", status=403, code="AccessDenied")
    road = Road(sandbox, tmp_path, *machines, "none")
    monkeypatch.setattr(road, "staged", list)
    yield road
    sandbox.control.clear_faults()
    assert _left(road) == []


def _left(road: Road) -> list[str]:
    """What must not be there after a transfer."""
    found = [str(path) for path in (road.folder / "home").glob("staging/*")]
    for machine in (road.first, road.second):
        keys = _home(road.live, machine) / ".ssh/authorized_keys"
        found += keys.read_text().splitlines() if keys.exists() else []
    sessions = road.live.client("ssm").describe_sessions(State="Active")["Sessions"]
    return found + [session["SessionId"] for session in sessions] + _tunnels()


def _tunnels() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "runctl-tunnel-" in line:
                found.append(line)
    return found


def test_a_folder_goes_there_and_back_without_a_bucket(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, name = tree(tmp_path / "source"), road.live.name("ssh")
    files = len(contents(source))
    first = road.at(road.first, name)
    keys = list[str]()
    note = tunnel.Tunnel._open

    def noting(self: tunnel.Tunnel) -> None:
        keys.append((_home(road.live, road.first) / ".ssh/authorized_keys").read_text())
        note(self)

    with monkeypatch.context() as patched:
        patched.setattr(tunnel.Tunnel, "_open", noting)
        assert road.go(source, first).moved_files == files
    assert "over SSH through SSM, which is slow" in road.said()
    assert contents(road.inside(road.first, name)) == contents(source)
    (line,) = keys[0].splitlines()
    assert line.startswith('restrict,port-forwarding,permitopen="127.0.0.1:1",permitlisten="127.0.0.1:*"')
    assert 'expiry-time="' in line
    assert road.go(first, tmp_path / "back").moved_files == files
    assert contents(tmp_path / "back") == contents(source)


@pytest.mark.slow
def test_a_folder_goes_from_machine_to_machine_without_a_bucket(road: Road, tmp_path: Path) -> None:
    name = road.live.name("between")
    source = tree(road.inside(road.first, name))
    first, second = road.at(road.first, name), road.at(road.second, name)
    files = len(contents(source))
    assert road.go(first, second, compress=True).moved_files == files
    assert contents(road.inside(road.second, name)) == contents(source)
    assert road.go(first, second).moved_files == 0


def test_a_machine_with_another_host_key_gets_nothing(road: Road, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    public = _home(road.live, road.first) / "sshd/host_key.pub"
    own, other = public.read_text(), (_home(road.live, road.second) / "sshd/host_key.pub").read_text()
    public.write_text(other)
    try:
        with pytest.raises(TransferError, match="No SSH through SSM") as failed:
            road.go(tmp_path / "file", road.at(road.first, road.live.name("pinned")))
        assert "Host key verification failed" in str(failed.value.why)
    finally:
        public.write_text(own)


@pytest.mark.parametrize("program", ["ssh", "ssh-keygen", tunnel.PLUGIN])
def test_a_missing_program_is_named_with_what_to_do(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    which = shutil.which
    monkeypatch.setattr(tunnel.shutil, "which", lambda name: None if name == program else which(name))
    with pytest.raises(ConfigError, match="no bucket to go through") as failed:
        road.go(tmp_path / "file", road.at(road.first, "nowhere"))
    assert f"There is no {program} on this computer" in str(failed.value.why)
    assert "aws.bucket" in str(failed.value.next)
    assert "install" in str(failed.value.next)


def test_a_bucket_that_was_named_is_not_gone_around(road: Road, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    road.through = "of-somebody-else"
    with pytest.raises(ConfigError, match="of-somebody-else"):
        road.go(tmp_path / "file", road.at(road.first, "nowhere"))


def _big(folder: Path) -> Path:
    folder.mkdir()
    (folder / "big").write_bytes(os.urandom(50 * MIB))
    return folder


@pytest.mark.slow
def test_a_tunnel_that_breaks_is_opened_again(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, name = _big(tmp_path / "source"), road.live.name("broken")
    made = list[tunnel.Tunnel]()
    keep = tunnel.Tunnel._keep

    def breaking(self: tunnel.Tunnel) -> None:
        made.append(self)
        inside = road.inside(road.first, name)
        with contextlib.suppress(AssertionError):
            road.live.until(lambda: inside.is_dir() and any(inside.glob("*.parts")), 30)
        assert self._ssh is not None
        os.killpg(self._ssh.pid, signal.SIGKILL)
        keep(self)

    monkeypatch.setattr(tunnel.Tunnel, "_keep", breaking)
    assert road.go(source, road.at(road.first, name), parallel=1, bandwidth=12 * MIB).failed == ()
    assert made
    assert "broke: opening it again" in road.said()
    assert contents(road.inside(road.first, name)) == contents(source)


@pytest.mark.slow
@pytest.mark.parametrize("undo", [False, True])
def test_a_killed_command_leaves_nothing_that_is_not_taken_away(
    road: Road, tmp_path: Path, undo: bool
) -> None:
    source, name = _big(tmp_path / "source"), road.live.name("killed")
    inside = road.inside(road.first, name)
    command = Command(road, tmp_path / "home")
    command.killed_in_the_middle(source, road.at(road.first, name), inside)
    road.live.until(lambda: _tunnels() == [])
    assert _left(road), "the key is still there"
    (left,) = json.loads(command.run("tx", "list", "--output", "json")[0])
    if undo:
        command.run("tx", "rollback", left["id"], "--yes")
        sessions = road.live.client("ssm")
        for session in sessions.describe_sessions(State="Active")["Sessions"]:
            sessions.terminate_session(SessionId=session["SessionId"])  # as SSM does when nobody speaks
    else:
        command.run("tx", "resume", left["id"])
        assert contents(inside) == contents(source)
        sessions = road.live.client("ssm")
        for session in sessions.describe_sessions(State="Active")["Sessions"]:
            sessions.terminate_session(SessionId=session["SessionId"])
