"""Disks that keep their files through snapshots, copies and restores."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl.errors import Conflict, NotFound, ValidationError
from runctl.sandbox.disks import Disks


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(tmp_path)


def write(disks: Disks, volume_id: str, **files: str) -> None:
    for name, text in files.items():
        (disks.path(volume_id) / "fs" / name).write_text(text)


def read(disks: Disks, volume_id: str) -> dict[str, str]:
    return {file.name: file.read_text() for file in (disks.path(volume_id) / "fs").iterdir()}


def test_a_new_disk_is_blank_and_not_formatted(disks: Disks) -> None:
    disk = disks.create("vol-1", 10)
    assert disk == disks.path("vol-1")
    assert (read(disks, "vol-1"), disks.size_gib("vol-1")) == ({}, 10)
    assert not (disk / "formatted").exists()


def test_a_snapshot_keeps_the_moment_and_outlives_its_disk(disks: Disks) -> None:
    disk = disks.create("vol-1", 10)
    (disk / "formatted").write_text("ext4")
    write(disks, "vol-1", file="then")
    disks.snapshot("vol-1", "snap-1")
    write(disks, "vol-1", file="now")
    disks.grow("vol-1", 40)
    disks.delete("vol-1")
    disks.create("vol-2", 10, "snap-1")
    assert read(disks, "vol-2") == {"file": "then"}
    assert (disks.path("vol-2") / "formatted").read_text() == "ext4"


def test_a_restored_disk_is_at_least_as_large_as_its_snapshot(disks: Disks) -> None:
    disks.create("vol-1", 10)
    disks.snapshot("vol-1", "snap-1")
    disks.grow("vol-1", 40)
    with pytest.raises(ValidationError):
        disks.create("vol-2", 9, "snap-1")
    disks.create("vol-2", 20, "snap-1")
    assert disks.size_gib("vol-2") == 20


def test_a_copied_snapshot_outlives_the_first(disks: Disks) -> None:
    disks.create("vol-1", 1)
    write(disks, "vol-1", file="kept")
    disks.snapshot("vol-1", "snap-1")
    disks.copy_snapshot("snap-1", "snap-2")
    disks.delete_snapshot("snap-1")
    disks.create("vol-2", 1, "snap-2")
    assert read(disks, "vol-2") == {"file": "kept"}


def test_what_does_not_exist_is_not_found_and_what_exists_is_not_replaced(disks: Disks) -> None:
    with pytest.raises(NotFound):
        disks.path("vol-1")
    with pytest.raises(NotFound):
        disks.create("vol-1", 1, "snap-1")
    with pytest.raises(NotFound):
        disks.copy_snapshot("snap-1", "snap-2")
    disks.create("vol-1", 1)
    disks.snapshot("vol-1", "snap-1")
    with pytest.raises(Conflict):
        disks.create("vol-1", 1)
    with pytest.raises(Conflict):
        disks.snapshot("vol-1", "snap-1")
    disks.delete("none")
    disks.delete_snapshot("none")


def test_a_disk_does_not_shrink(disks: Disks) -> None:
    disks.create("vol-1", 10)
    with pytest.raises(ValidationError):
        disks.grow("vol-1", 9)


def test_links_modes_and_times_are_kept(disks: Disks) -> None:
    disk = disks.create("vol-1", 1)
    write(disks, "vol-1", file="x")
    (disk / "fs/file").chmod(0o640)
    (disk / "fs/link").symlink_to("file")
    disks.snapshot("vol-1", "snap-1")
    copy = disks.create("vol-2", 1, "snap-1")
    assert (copy / "fs/link").readlink() == Path("file")
    old, new = (disk / "fs/file").stat(), (copy / "fs/file").stat()
    assert (old.st_mode, old.st_mtime_ns) == (new.st_mode, new.st_mtime_ns)


names = st.sampled_from(["a", "b", "c"])


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "snapshot", "restore"]), names, st.text("xyz", max_size=3)),
        max_size=6,
    )
)
def test_every_restore_gives_what_the_snapshot_saw(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str]]
) -> None:
    disks = Disks(tmp_path_factory.mktemp("state"))
    disks.create("vol", 1)
    now: dict[str, str] = {}
    seen: dict[str, dict[str, str]] = {}
    for number, (step, name, text) in enumerate(steps):
        if step == "write":
            write(disks, "vol", **{name: text})
            now[name] = text
        elif step == "snapshot":
            disks.snapshot("vol", f"snap-{number}")
            seen[f"snap-{number}"] = dict(now)
        else:
            for snapshot_id, files in seen.items():
                disks.create(f"{snapshot_id}-{number}", 1, snapshot_id)
                assert read(disks, f"{snapshot_id}-{number}") == files
