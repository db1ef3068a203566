"""Disks on real sandbox machines: found by volume id, formatted once and never again, mounted, unmounted."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from runctl.clock import FileClock
from runctl.clouds import Cloud
from runctl.errors import CloudError, Conflict, ValidationError
from runctl.providers.aws import disks
from runctl.providers.aws.session import Session

VOLUME = "vol-0123456789abcdef0"


def session_of(live: Any) -> Session:
    record = live.record
    return Session(
        Cloud(
            name="sandbox",
            key="sandbox",
            clock=FileClock(Path(record.clock)),
            region=record.region,
            endpoint=record.endpoint,
            access_key=record.access_key,
            secret_key=record.secret_key,
        )
    )


def attached(live: Any, machine: str, **changes: Any) -> str:
    zone = live.instance(machine)["Placement"]["AvailabilityZone"]
    volume = live.volume(zone, **changes)
    plug(live, machine, volume)
    return volume


def plug(live: Any, machine: str, volume: str) -> None:
    live.client("ec2").attach_volume(VolumeId=volume, InstanceId=machine, Device="/dev/sdf")
    live.until(lambda: state(live, volume) == "attached")


def state(live: Any, volume: str) -> str:
    return next((found["State"] for found in live.disk(volume).get("Attachments", [])), "")


def unplug(live: Any, machine: str, volume: str) -> None:
    live.client("ec2").detach_volume(VolumeId=volume, InstanceId=machine)
    live.until(lambda: live.disk(volume)["State"] == "available")


def said(live: Any, machine: str, script: str) -> str:
    return live.command(machine, script)["StandardOutputContent"].strip()


def test_a_blank_disk_is_formatted_once_and_keeps_what_is_written(each_sandbox_cloud: Any) -> None:
    live = each_sandbox_cloud
    session, machine = session_of(live), live.running()
    volume = attached(live, machine)
    disks.mount(session, machine, volume, "/data sets/it's here")
    place = '"${RUNCTL_ROOT}/data sets/it\'s here"'
    assert said(live, machine, f"echo kept > {place}/file; cat {place}/file") == "kept"
    disks.mount(session, machine, volume, "/data sets/it's here")  # again is fine
    with pytest.raises(Conflict, match="is mounted at"):
        disks.mount(session, machine, volume, "/elsewhere")
    disks.unmount(session, machine, volume)
    disks.unmount(session, machine, volume)
    assert said(live, machine, f"ls -A {place}") == ""
    unplug(live, machine, volume)
    plug(live, machine, volume)
    disks.mount(session, machine, volume, "/data")
    assert said(live, machine, 'cat "${RUNCTL_ROOT}/data/file"') == "kept"
    disks.unmount(session, machine, volume)


def test_what_is_mounted_is_not_torn_off(each_sandbox_cloud: Any) -> None:
    live = each_sandbox_cloud
    session, machine = session_of(live), live.running()
    volume = attached(live, machine)
    disks.mount(session, machine, volume, "/data")
    holding = (
        'cd "${RUNCTL_ROOT}/data" && (setsid sleep 300 >/dev/null 2>&1 </dev/null & echo $! > "$HOME/pid")'
    )
    live.command(machine, holding)
    with pytest.raises(Conflict, match="in use"):
        disks.unmount(session, machine, volume)
    live.client("ec2").detach_volume(VolumeId=volume, InstanceId=machine)
    assert live.until(lambda: state(live, volume)) in {"detaching", "busy"}
    live.command(machine, 'kill "$(cat "$HOME/pid")"')
    live.until(lambda: _unmounted(session, machine, volume))
    live.until(lambda: live.disk(volume)["State"] == "available")


def _unmounted(session: Session, machine: str, volume: str) -> bool:
    try:
        disks.unmount(session, machine, volume)
    except Conflict:
        return False
    return True


@pytest.mark.parametrize(("mark", "text"), [("formatted", "ntfs"), ("partitions", "gpt")])
def test_a_disk_that_carries_anything_is_never_formatted(sandbox_cloud: Any, mark: str, text: str) -> None:
    live = sandbox_cloud
    session, machine = session_of(live), live.running()
    volume = attached(live, machine)
    disk = live.home / "sandbox/state/volumes" / volume
    (disk / mark).write_text(text + "\n")
    (disk / "fs" / "precious").write_text("somebody's")
    with pytest.raises(Conflict, match=text):
        disks.mount(session, machine, volume, "/data")
    assert (disk / "fs" / "precious").read_text() == "somebody's"
    assert (disk / mark).read_text() == text + "\n"


def test_a_path_that_is_in_use_is_left_alone(sandbox_cloud: Any) -> None:
    live = sandbox_cloud
    session, machine = session_of(live), live.running()
    volume = attached(live, machine)
    live.command(machine, "mkdir -p /data && echo mine > /data/file")
    with pytest.raises(Conflict, match="is not empty"):
        disks.mount(session, machine, volume, "/data")
    assert said(live, machine, "cat /data/file") == "mine"


def test_a_snapshot_carries_the_file_system_along(sandbox_cloud: Any) -> None:
    live = sandbox_cloud
    session, machine, ec2 = session_of(live), live.running(), live.client("ec2")
    volume = attached(live, machine)
    disks.mount(session, machine, volume, "/data")
    live.command(machine, "echo kept > /data/file; sync")
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    live.until(
        lambda: (
            ec2.describe_snapshots(
                OwnerIds=["self"], Filters=[{"Name": "snapshot-id", "Values": [snapshot]}]
            )["Snapshots"][0]["State"]
            == "completed"
        )
    )
    disks.unmount(session, machine, volume)
    unplug(live, machine, volume)
    again = attached(live, machine, SnapshotId=snapshot)
    disks.mount(session, machine, again, "/again")
    assert said(live, machine, "cat /again/file") == "kept"
    disks.unmount(session, machine, again)


@pytest.mark.parametrize("path", ["data", "/", "/a/../b", "/a\nb", ""])
def test_a_path_that_is_none_is_refused_before_any_call(path: str) -> None:
    with pytest.raises(ValidationError):
        disks.mount(None, "i-1", VOLUME, path)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("output", ["", "nonsense", "runctl: maybe x", "runctl: error UPPER x"])
def test_an_answer_of_another_form_is_no_success(output: str) -> None:
    assert isinstance(disks.parse(output), CloudError)


def test_the_last_word_counts() -> None:
    assert disks.parse("noise\nrunctl: ok /dev/nvme1n1\n") is None
    assert isinstance(disks.parse("runctl: ok x\nrunctl: error foreign it is ntfs\n"), Conflict)


NAMES = {
    "systemd": "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0",
    "systemd-namespace": "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0_1",
    "amazon-linux": "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0-ns-1",
    "xen": "xvdf",
    "as-asked": "sdf",
}


@pytest.mark.parametrize("variant", sorted(NAMES))
def test_a_device_is_found_by_every_name_in_use(tmp_path: Path, variant: str) -> None:
    dev = tmp_path / "dev"
    link = dev / NAMES[variant]
    link.parent.mkdir(parents=True)
    (dev / "nvme7n1").touch()
    link.symlink_to(dev / "nvme7n1")
    (dev / "disk/by-id").mkdir(parents=True, exist_ok=True)
    (dev / "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0-part1").symlink_to(dev / "part")
    (dev / "part").touch()
    (dev / "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0fffffffffffffff0").symlink_to(dev / "part")
    assert find(tmp_path) == str(dev / "nvme7n1")


def test_a_device_is_found_by_its_serial_number(tmp_path: Path) -> None:
    controller = tmp_path / "sys/class/nvme/nvme3"
    controller.mkdir(parents=True)
    (controller / "serial").write_text("vol0123456789abcdef0 \n")
    (tmp_path / "dev").mkdir()
    assert find(tmp_path) == str(tmp_path / "dev/nvme3n1")


def test_another_volume_s_device_is_not_taken(tmp_path: Path) -> None:
    by_id = tmp_path / "dev/disk/by-id"
    by_id.mkdir(parents=True)
    (by_id / "nvme-Amazon_Elastic_Block_Store_vol0fffffffffffffff0").symlink_to(tmp_path)
    assert find(tmp_path) == "none"


def find(root: Path) -> str:
    script = disks.FIND.format(volume=VOLUME, names="sdf xvdf") + "\nfind_device || echo none\n"
    environment = {"PATH": "/usr/bin:/bin", "RUNCTL_DEV": str(root / "dev"), "RUNCTL_SYS": str(root / "sys")}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()
