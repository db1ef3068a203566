"""Machines as real process trees, in each isolation that this host allows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runctl.sandbox import shims
from runctl.sandbox.isolation import FORCE_VARIABLE, HOME, choose
from runctl.sandbox.machine import Machine

if TYPE_CHECKING:
    from conftest import Sandbox


def carriers(marker: str) -> list[int]:
    """Processes of the host whose environment has `marker`."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def processes(machine: Machine) -> list[int]:
    return carriers(f"RUNCTL_SANDBOX_FOLDER={machine.folder}")


def test_user_data_runs_at_the_first_boot_alone_and_its_output_goes_to_the_console(sandbox: Sandbox) -> None:
    script = b"#!/bin/sh\necho booted >> $HOME/boots; echo said; echo cried >&2\n"
    machine = sandbox.booted(user_data=script)
    console = machine.folder / "console.log"
    sandbox.until(lambda: console.read_text() == "said\ncried\n")
    machine.off(grace=0)
    machine.boot()
    sandbox.run(machine, "true")
    assert (machine.folder / "home/boots").read_text() == "booted\n"


def test_user_data_that_is_no_script_is_not_run(sandbox: Sandbox) -> None:
    machine = sandbox.booted(user_data=b"touch $HOME/ran\n")
    sandbox.run(machine, "true")
    assert not (machine.folder / "home/ran").exists()


def test_the_exit_code_and_signal_of_a_program_are_its_own(sandbox: Sandbox) -> None:
    machine = sandbox.booted()
    assert sandbox.run(machine, "exit 7")[0] == 7
    assert sandbox.run(machine, "kill -9 $$")[0] == -9


def test_paths_inside_are_paths_outside(sandbox: Sandbox) -> None:
    """But for HOME, if machines have a root of their own: scripts note paths and look for them elsewhere."""
    machine = sandbox.booted()
    home = HOME if machine._isolation.separate else machine.folder / "home"
    assert sandbox.run(machine, "echo $HOME; pwd; echo kept > $HOME/file; echo $TMPDIR")[1].splitlines() == [
        str(home),
        str(machine.folder / "home"),
        str(machine.folder / "tmp"),
    ]
    assert (machine.folder / "home/file").read_text() == "kept\n"


def test_the_environment_holds_what_the_machine_needs_and_nothing_of_the_host(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-host")
    monkeypatch.setenv("PYTHONPATH", "/of/the/host")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine = sandbox.booted()
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    environment = json.loads(sandbox.run(machine, f"exec python3 -c '{code}'")[1])
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert environment["AWS_REGION"] == environment["AWS_DEFAULT_REGION"] == "us-east-1"
    assert environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] == machine.metadata_endpoint
    assert environment["PIP_INDEX_URL"] == "http://127.0.0.1:9/simple"
    # Its results are those of the host, bit by bit.
    assert (environment["OPENBLAS_CORETYPE"], environment["OMP_NUM_THREADS"]) == ("Haswell", "3")
    assert json.loads(Path(environment["RUNCTL_CLOCK"]).read_text())["speed"] == 1.0
    assert not {"AWS_SECRET_ACCESS_KEY", "PYTHONPATH"} & environment.keys()
    assert environment["PATH"].split(":")[:2] == [str(sandbox.state / "shims"), f"{sys.prefix}/bin"]


def test_the_image_gives_its_python(sandbox: Sandbox) -> None:
    machine = sandbox.booted()
    assert sandbox.run(machine, "python -c 'import sys, pytest; print(sys.prefix)'") == (0, sys.prefix + "\n")


def test_off_ends_every_process_daemons_too(sandbox: Sandbox) -> None:
    machine = sandbox.booted()
    sandbox.run(
        machine, "setsid sleep 600 >/dev/null 2>&1 & (setsid sh -c 'sleep 600; true' &) >/dev/null 2>&1"
    )
    sandbox.run(
        machine, "setsid env -i /bin/sh -c 'echo $$ > $0; exec sleep 600' $HOME/bare >/dev/null 2>&1 &"
    )
    sandbox.until(lambda: len(processes(machine)) >= 3)
    started = time.monotonic()
    machine.off(grace=0)
    assert processes(machine) == []
    assert time.monotonic() - started < 20
    assert not machine.running
    with pytest.raises(ProcessLookupError):
        machine.popen(["true"])


def test_off_lets_processes_end_by_themselves_within_the_grace(sandbox: Sandbox) -> None:
    machine = sandbox.booted()
    script = "trap 'echo saved > $HOME/saved; exit 0' TERM; touch $HOME/ready; while :; do sleep 0.02; done"
    process = sandbox.start(machine, script)
    sandbox.until((machine.folder / "home/ready").exists)
    machine.off(grace=5)
    process.wait(5)
    assert (machine.folder / "home/saved").exists()


def test_what_ignores_the_request_to_end_is_killed_after_the_grace(sandbox: Sandbox) -> None:
    machine = sandbox.booted()
    sandbox.start(machine, "trap '' TERM; touch $HOME/ready; while :; do sleep 0.02; done")
    sandbox.until((machine.folder / "home/ready").exists)
    started = time.monotonic()
    machine.off(grace=0.3)
    assert 0.25 < time.monotonic() - started < 20
    assert processes(machine) == []


def test_off_is_for_one_machine_alone(sandbox: Sandbox) -> None:
    one, other = sandbox.booted("i-0aa"), sandbox.booted("i-0bb")
    sandbox.start(other, "sleep 600")
    one.off(grace=0)
    assert other.running
    assert sandbox.run(other, "echo here")[1] == "here\n"
    assert processes(other)


def test_destroy_leaves_no_folder(sandbox: Sandbox) -> None:
    machine = sandbox.booted()
    machine.destroy()
    assert not machine.folder.exists()


def test_files_outlive_a_stop(sandbox: Sandbox) -> None:
    machine = sandbox.booted()
    sandbox.run(machine, "echo kept > $HOME/file; echo kept > $TMPDIR/file")
    machine.off(grace=0)
    machine.boot()
    assert sandbox.run(machine, "cat $HOME/file $TMPDIR/file")[1] == "kept\nkept\n"


@pytest.mark.parametrize("isolation", ["namespaces"], indirect=True)
def test_namespaces_show_neither_the_host_nor_other_machines(sandbox: Sandbox, tmp_path: Path) -> None:
    one, other = sandbox.booted("i-0aa"), sandbox.booted("i-0bb")
    (tmp_path / "of-the-host").write_text("secret")
    sandbox.run(other, "echo private > $HOME/file")
    for hidden in (tmp_path / "of-the-host", other.folder / "home/file", Path.home() / ".bashrc"):
        assert sandbox.run(one, f"cat {hidden}")[0] != 0
    assert sandbox.run(one, "touch /usr/x /etc/x")[0] != 0
    assert sandbox.run(one, f"touch {sandbox.clock.path}")[0] != 0
    assert sandbox.run(one, "hostname")[1] == "ip-10-1-2-3\n"
    assert sandbox.run(one, "getent hosts $(hostname)")[1].split()[0] == "127.0.0.1"
    assert sandbox.run(one, "echo scratch > /tmp/file && mkdir /data && echo kept > /data/file")[0] == 0
    assert not Path("/data/file").exists()
    pids = sandbox.run(one, "ls /proc | grep -c '^[0-9]'")[1]
    assert int(pids) < 8


@pytest.mark.parametrize("isolation", ["namespaces"], indirect=True)
def test_orphans_are_buried_by_process_one(sandbox: Sandbox) -> None:
    machine = sandbox.booted()
    sandbox.run(machine, "(setsid sh -c 'echo $$ > $HOME/orphan' >/dev/null 2>&1 &)")
    orphan = machine.folder / "home/orphan"
    sandbox.until(lambda: orphan.exists() and orphan.read_text().strip())
    sandbox.until(lambda: sandbox.run(machine, f"kill -0 {orphan.read_text().strip()}")[0] != 0)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("shutdown -h now", "halt"),
        ("sudo shutdown -P now", "halt"),
        ("poweroff", "halt"),
        ("sudo -n halt", "halt"),
        ("reboot", "reboot"),
        ("shutdown -r +0", "reboot"),
    ],
)
def test_a_machine_can_end_itself(plain_sandbox: Sandbox, command: str, kind: str) -> None:
    machine = plain_sandbox.booted()
    assert plain_sandbox.run(machine, command) == (0, "")
    plain_sandbox.until(lambda: plain_sandbox.powered == [(machine.id, kind)])


def test_a_timer_fires_though_every_process_is_dead_and_re_arming_replaces_it(sandbox: Sandbox) -> None:
    sandbox.clock.set_speed(100)
    machine = sandbox.booted()
    assert sandbox.run(machine, "shutdown -h +1; shutdown -h +2") == (0, "")
    armed = sandbox.clock.now()
    if sandbox.isolation == "namespaces":
        sandbox.run(machine, "kill -9 -1")
    sandbox.until(lambda: sandbox.powered)
    assert sandbox.clock.now() - armed >= 119
    time.sleep(0.7)
    assert sandbox.powered == [(machine.id, "halt")]
    assert machine.running


def test_a_timer_can_be_cancelled_and_off_forgets_it(sandbox: Sandbox) -> None:
    sandbox.clock.set_speed(200)
    machine = sandbox.booted()
    sandbox.run(machine, "shutdown +1; shutdown -c")
    sandbox.run(machine, "shutdown +1")
    machine.off(grace=0)
    machine.boot()
    time.sleep(0.5)
    assert sandbox.powered == []


def test_a_time_that_is_none_is_refused(plain_sandbox: Sandbox) -> None:
    code, said = plain_sandbox.run(plain_sandbox.booted(), "shutdown -h soon")
    assert code == 1
    assert "Failed to parse" in said


def test_a_disk_comes_with_plug_and_goes_with_unplug(sandbox: Sandbox, tmp_path: Path) -> None:
    disk = tmp_path / "volumes/vol-0f"
    (disk / "fs").mkdir(parents=True)
    machine = sandbox.booted()
    machine.plug("vol-0f", "/dev/sdf", disk)
    dev = machine.folder / "dev"
    by_id = dev / "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0f"
    assert sandbox.run(machine, f"readlink -f {by_id} >/dev/null && echo kept > {by_id}/fs/file")[0] == 0
    assert (disk / "fs/file").read_text() == "kept\n"
    assert sandbox.run(machine, f"cat {dev}/sdf/fs/file")[1] == "kept\n"
    machine.off(grace=0)
    machine.boot()
    assert sandbox.run(machine, f"cat {dev}/sdf/fs/file")[1] == "kept\n"
    assert machine.unplug("vol-0f")
    assert sandbox.run(machine, f"ls {dev}/sdf {by_id}")[0] != 0
    assert (disk / "fs/file").exists()


@pytest.mark.parametrize("isolation", ["namespaces"], indirect=True)
def test_a_mounted_disk_is_not_unplugged_but_by_force(sandbox: Sandbox, tmp_path: Path) -> None:
    disk = tmp_path / "volumes/vol-0f"
    (disk / "fs").mkdir(parents=True)
    machine = sandbox.booted()
    machine.plug("vol-0f", "/dev/sdf", disk)
    assert sandbox.run(
        machine, "mkdir -p /data && mount --bind /dev/sdf/fs /data && echo x > /data/file"
    ) == (0, "")
    assert not machine.unplug("vol-0f")
    assert machine.unplug("vol-0f", force=True)
    machine.plug("vol-0f", "/dev/sdf", disk)
    sandbox.run(machine, "umount /data")
    assert machine.unplug("vol-0f")


PARENT = """
import importlib.util, sys, time
from pathlib import Path
found = importlib.util.spec_from_file_location("builders", sys.argv[3])
builders = importlib.util.module_from_spec(found)
sys.modules["builders"] = builders
found.loader.exec_module(builders)
sandbox = builders.Sandbox(Path(sys.argv[1]), sys.argv[2])
machines = [sandbox.booted(f"i-{n}") for n in range(3)]
for machine in machines:
    sandbox.start(machine, "setsid sleep 600 & sleep 600 & touch $HOME/up; wait")
    sandbox.until((machine.folder / "home/up").exists)
print("up", flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_sandbox_that_is_killed(tmp_path: Path, isolation: str, sandbox: Sandbox) -> None:
    state = (tmp_path / "state").resolve()
    builders = str(Path(__file__).with_name("conftest.py"))
    arguments = [sys.executable, "-c", PARENT, str(state), isolation, builders]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        marker = f"RUNCTL_SANDBOX_STATE={state}"
        assert len(carriers(marker)) >= 9
        os.kill(parent.pid, signal.SIGKILL)
        sandbox.until(lambda: carriers(marker) == [])


def test_booting_is_cheap_and_machines_boot_side_by_side(sandbox: Sandbox) -> None:
    machines = [sandbox.machine(f"i-{number}") for number in range(10)]
    machines[0].boot()
    taken: list[float] = []
    for machine in machines[1:]:
        started = time.monotonic()
        machine.boot()
        taken.append(time.monotonic() - started)
    assert all(machine.running for machine in machines)
    assert sorted(taken)[len(taken) // 2] < 0.5


def test_isolation_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORCE_VARIABLE, "plain")
    assert choose() == "plain"
    monkeypatch.delenv(FORCE_VARIABLE)
    assert choose() in ("namespaces", "plain")


def test_machines_that_boot_at_once_find_their_commands(tmp_path: Path) -> None:
    """They wrote under one temporary name: whoever came second did not boot at all."""
    for turn in range(30):
        folder = tmp_path / str(turn)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _, to=folder: shims.install(to), range(8)))
        assert {path.name for path in folder.iterdir()} == set(shims.SHIMS)
