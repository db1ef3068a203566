"""How a script gets its data: streamed, cached for all jobs of a machine, or on a volume that is attached."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from runctl.agent import dataset_cache, local_disk, volume

STORE = {"kind": "s3", "bucket": "bucket", "prefix": "runctl/jobs/job", "region": "us-east-1"}
SHOWS = """
import json, os, pathlib
folder = os.environ.get("RUNCTL_DATA_DIR")
files = {}
if folder:
    root = pathlib.Path(folder)
    files = {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}
print(json.dumps([folder, os.environ.get("RUNCTL_DATA_LOCATION"), files]))
"""


def data(strategy: str, **more: object) -> dict[str, object]:
    return {"location": "s3://bucket/sets/digits", "strategy": strategy, **more}


def shown(machine, number: int, asked: dict[str, object], **changes: object):
    attempt = machine.attempt(SHOWS, number, store=STORE, data=asked, **changes)
    state = attempt.run()
    return state, (json.loads(attempt.log) if state["cause"] == "finished" else None)


@pytest.fixture
def digits(bucket):
    bucket.objects["sets/digits/a.csv"] = b"1,2"
    bucket.objects["sets/digits/deep/b.csv"] = b"3"
    bucket.objects["sets/digits-2/c.csv"] = b"not ours"
    return bucket


def test_a_streaming_script_is_told_the_place_and_nothing_is_fetched(machine, digits):
    machine.environment["RUNCTL_DATA_DIR"] = "/of/the/shell"
    _, said = shown(machine, 1, data("direct-s3"))
    assert said == [None, "s3://bucket/sets/digits", {}]
    assert not (machine.root / ".runctl/cache").exists()


def test_a_cached_dataset_is_whole_and_nothing_else_is_in_its_folder(machine, digits):
    _, said = shown(machine, 1, data("local-cache"))
    folder, location, files = said
    assert files == {"a.csv": "1,2", "deep/b.csv": "3"}
    assert location == "s3://bucket/sets/digits"
    assert Path(folder).parent == machine.root / ".runctl/cache/datasets"


def test_the_next_attempt_fetches_nothing_again(machine, digits):
    _, (first, _, _) = shown(machine, 1, data("local-cache"))
    fetched = []
    digits.delay = lambda method, key: fetched.append((method, key))
    _, (second, _, files) = shown(machine, 2, data("local-cache"))
    assert (second, files["a.csv"]) == (first, "1,2")
    assert [key for method, key in fetched if method == "GET" and key.startswith("sets/")] == []


@pytest.mark.slow
def test_a_changed_dataset_is_another_folder_and_the_old_one_stays_whole(machine, digits):
    _, (first, _, _) = shown(machine, 1, data("local-cache"))
    digits.objects["sets/digits/a.csv"] = b"9,9"
    del digits.objects["sets/digits/deep/b.csv"]
    _, (second, _, files) = shown(machine, 2, data("local-cache"))
    assert files == {"a.csv": "9,9"}
    assert second != first
    assert (Path(first) / "a.csv").read_text() == "1,2"


@pytest.mark.parametrize("damaged", ["a.csv", pytest.param("deep/b.csv", marks=pytest.mark.slow)])
def test_a_damaged_cache_is_mended(machine, digits, damaged):
    _, (folder, _, _) = shown(machine, 1, data("local-cache"))
    if damaged == "a.csv":
        (Path(folder) / damaged).write_text("1")
    else:
        (Path(folder) / damaged).unlink()
    _, (again, _, files) = shown(machine, 2, data("local-cache"))
    assert (again, files) == (folder, {"a.csv": "1,2", "deep/b.csv": "3"})


@pytest.mark.slow
def test_two_jobs_at_once_share_one_copy(machine, digits):
    for number in range(30):
        digits.objects[f"sets/digits/{number}.txt"] = b"x" * 1000
    gets: list[str] = []
    digits.delay = lambda method, key: gets.append(key) if method == "GET" else None
    found: list[object] = []
    attempts = [machine.attempt(SHOWS, number, store=STORE, data=data("local-cache")) for number in (1, 2)]
    workers = [threading.Thread(target=lambda one=one: found.append(one.run())) for one in attempts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    said = [json.loads(attempt.log) for attempt in attempts]
    assert said[0] == said[1]
    assert len(said[0][2]) == 32
    assert len([key for key in gets if key.startswith("sets/digits/")]) == 32


@pytest.mark.slow
def test_a_single_object_is_fetched_into_the_jobs_folder(machine, digits):
    asked = {**data("local-cache"), "location": "s3://bucket/sets/digits/a.csv"}
    _, (folder, _, files) = shown(machine, 1, asked)
    assert (Path(folder).name, files) == ("data", {"a.csv": "1,2"})


@pytest.mark.slow
def test_nothing_there_is_a_failure_with_the_place(machine, digits):
    state, _ = shown(machine, 1, {**data("local-cache"), "location": "s3://bucket/none"})
    assert (state["cause"], state["step_name"]) == ("prepare-failed", "data")
    assert "s3://bucket/none" in state["message"]


@pytest.mark.slow
def test_a_key_that_cannot_be_a_file_fails_the_attempt(machine, digits):
    digits.objects["sets/digits/../../etc/passwd"] = b"root"
    state, _ = shown(machine, 1, data("local-cache"))
    assert state["cause"] == "prepare-failed"
    assert "cannot be files" in state["message"]
    assert not (machine.root / ".runctl/cache/etc").exists()


@pytest.fixture
def disks(machine) -> Path:
    """`/dev` with one volume, and a mount and findmnt that write down what they are asked."""
    folder = machine.root / "dev"
    (folder / "disk/by-id").mkdir(parents=True)
    programs = machine.root / "bin"
    files = machine.root / "files"
    files.mkdir()
    (files / "a.csv").write_text("of the volume")
    mount = f'#!/bin/sh\necho "$@" >> {machine.root}/mounts\nrmdir "$4" && ln -s {files} "$4"\n'
    for name, text in (("mount", mount), ("findmnt", "#!/bin/sh\nexit 1\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    machine.environment["RUNCTL_DEV"] = str(folder)
    machine.environment["RUNCTL_SYS"] = str(machine.root / "none")
    machine.environment["RUNCTL_ROOT"] = str(machine.root)
    return folder


ON_VOLUME = {"volume": "vol-0abc1234", "device": "/dev/sdf", "patience": 20}


def test_a_volume_that_comes_late_is_mounted_read_only(machine, digits, disks):
    def attach() -> None:
        (disks / "nvme1n1").touch()
        (disks / "disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0abc1234-ns-1").symlink_to(disks / "nvme1n1")

    timer = threading.Timer(1.0, attach)
    timer.start()
    _, (folder, _, files) = shown(machine, 1, data("prewarmed-ebs", **ON_VOLUME))
    assert folder == str(machine.root) + volume.PATH
    assert files == {"a.csv": "of the volume"}
    assert (machine.root / "mounts").read_text() == f"-o ro {disks / 'nvme1n1'} {folder}\n"


@pytest.mark.slow
def test_a_volume_that_never_comes_fails_or_is_replaced_by_the_cache(machine, digits, disks):
    asked = data("existing-ebs", **{**ON_VOLUME, "patience": 0.5})
    state, _ = shown(machine, 1, asked)
    assert state["cause"] == "prepare-failed"
    assert "no device of vol-0abc1234" in state["message"]
    _, (_, _, files) = shown(machine, 2, {**asked, "otherwise": "local-cache"})
    assert files == {"a.csv": "1,2", "deep/b.csv": "3"}


def test_a_volume_is_found_by_serial_and_by_its_name_on_xen(tmp_path, monkeypatch):
    (tmp_path / "dev").mkdir()
    for name, serial in (("nvme0", "vol0000"), ("nvme1", "vol0abc1234")):
        folder = tmp_path / "sys/class/nvme" / name
        folder.mkdir(parents=True)
        (folder / "serial").write_text(serial + "\n")
    monkeypatch.setenv("RUNCTL_DEV", str(tmp_path / "dev"))
    monkeypatch.setenv("RUNCTL_SYS", str(tmp_path / "sys"))
    assert volume.find_device("vol-0abc1234") == str(tmp_path / "dev/nvme1n1")
    assert volume.find_device("vol-0def", "/dev/sdf") is None
    (tmp_path / "dev/xvdf").touch()
    assert volume.find_device("vol-0def", "/dev/sdf") == str(tmp_path / "dev/xvdf")


def test_an_instance_store_that_is_mounted_is_where_the_cache_lies(tmp_path, monkeypatch):
    dev, controller = tmp_path / "dev", tmp_path / "sys/class/nvme/nvme1"
    dev.mkdir()
    controller.mkdir(parents=True)
    (dev / "nvme1n1").touch()
    (controller / "model").write_text("Amazon EC2 NVMe Instance Storage        \n")
    (tmp_path / "mounts").write_text(f"{dev / 'nvme1n1'} {tmp_path / 'store'} ext4 rw 0 0\n")
    monkeypatch.setenv("RUNCTL_DEV", str(dev))
    monkeypatch.setenv("RUNCTL_SYS", str(tmp_path / "sys"))
    monkeypatch.setenv("RUNCTL_MOUNTS", str(tmp_path / "mounts"))
    store = str(tmp_path / "store")
    monkeypatch.setattr(local_disk, "free", lambda path: 2 if path.startswith(store) else 1)
    assert local_disk.cache_folder("/root/.runctl", False) == f"{store}/runctl/cache/datasets"
    monkeypatch.setattr(local_disk, "free", lambda path: 1 if path.startswith(store) else 2)
    assert local_disk.cache_folder("/root/.runctl", False) == "/root/.runctl/cache/datasets"


@pytest.mark.parametrize(("first", "blkid", "made"), [(b"\0", 2, True), (b"x", 2, False), (b"\0", 0, False)])
def test_only_a_blank_instance_store_is_formatted(tmp_path, monkeypatch, first, blkid, made):
    dev, controller, programs = tmp_path / "dev", tmp_path / "sys/class/nvme/nvme1", tmp_path / "bin"
    for folder in (dev, controller, programs):
        folder.mkdir(parents=True)
    (dev / "nvme1n1").write_bytes(first * 4096)
    (controller / "model").write_text("Amazon EC2 NVMe Instance Storage\n")
    for name, code in (("blkid", blkid), ("mkfs.ext4", 0), ("mount", 0)):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/said\nexit {code}\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("RUNCTL_DEV", str(dev))
    monkeypatch.setenv("RUNCTL_SYS", str(tmp_path / "sys"))
    monkeypatch.setenv("RUNCTL_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(local_disk, "free", lambda path: 2 if "local" in path else 1)
    found = local_disk.cache_folder(str(tmp_path / "home"), True)
    assert (str(tmp_path / "root/mnt/runctl-local") in found) is made
    assert ("mkfs" in (tmp_path / "said").read_text()) is made
    assert local_disk.cache_folder(str(tmp_path / "home"), False).startswith(str(tmp_path / "home")), (
        "not ours"
    )


def test_room_is_made_of_what_nobody_uses_the_longest_unused_first(tmp_path, monkeypatch):
    import fcntl

    for age, name in enumerate(("old", "used", "young")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(b"x")
        (tmp_path / f"{name}.ready").write_text("v")
        os.utime(tmp_path / f"{name}.ready", (age, age))
    room = {"free": 0}
    real = shutil.rmtree

    def freeing(path, **how):
        room["free"] += 100 << 20
        real(path, **how)

    monkeypatch.setattr(dataset_cache.shutil, "rmtree", freeing)
    monkeypatch.setattr(dataset_cache, "free", lambda _: room["free"])
    (tmp_path / "new").mkdir()
    with (tmp_path / "used.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        dataset_cache._make_room(str(tmp_path / "new"), 1 << 20)
        assert not (tmp_path / "old").exists()
        assert (tmp_path / "used").exists()
        assert (tmp_path / "young").exists()
        room["free"] = -(10 << 30)
        dataset_cache._make_room(str(tmp_path / "new"), 1 << 20)
        assert (tmp_path / "used").exists()
        assert not (tmp_path / "young").exists()
