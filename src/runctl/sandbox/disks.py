"""The disks behind volumes and snapshots: folders that are copied where EBS copies blocks.

A disk is `<state>/volumes/<volume id>/` with `disk.json` (its size), `fs/` (its files) and, once it was
formatted, `formatted` (the kind of file system). A snapshot is such a folder below `<state>/snapshots/`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from runctl.errors import Conflict, NotFound, ValidationError

UNSETTLED = 2
"""How often a file may vanish under a copy before the copy is given up."""


class Disks:
    """The disks of one sandbox, in its state folder; ids are the control plane's."""

    def __init__(self, state: Path) -> None:
        self._volumes = state.resolve() / "volumes"
        self._snapshots = state.resolve() / "snapshots"
        self._volumes.mkdir(parents=True, exist_ok=True)
        self._snapshots.mkdir(parents=True, exist_ok=True)

    def path(self, volume_id: str) -> Path:
        """The folder that a machine is given. NotFound for an unknown volume."""
        return _existing(self._volumes / volume_id)

    def create(self, volume_id: str, size_gib: int, snapshot_id: str | None = None) -> Path:
        """A new disk of `size_gib`, blank or as the snapshot was.

        Conflict when it exists, NotFound without the snapshot, ValidationError when smaller than that.
        """
        disk = self._volumes / volume_id
        if disk.exists():
            raise Conflict(f"disk {volume_id} exists")
        if snapshot_id is None:
            (disk / "fs").mkdir(parents=True)
        else:
            source = _existing(self._snapshots / snapshot_id)
            if size_gib < _size(source):
                raise ValidationError(f"{size_gib} GiB is less than snapshot {snapshot_id} has")
            _copy(source, disk)
        _set_size(disk, size_gib)
        return disk

    def size_gib(self, volume_id: str) -> int:
        """The size of a disk in GiB; what it holds is bounded by the host alone."""
        return _size(self.path(volume_id))

    def grow(self, volume_id: str, size_gib: int) -> None:
        """Make a disk larger. ValidationError when that would make it smaller."""
        disk = self.path(volume_id)
        if size_gib < _size(disk):
            raise ValidationError(f"disk {volume_id} cannot shrink to {size_gib} GiB")
        _set_size(disk, size_gib)

    def delete(self, volume_id: str) -> None:
        """Remove a disk and what it holds; one that is gone is no error."""
        shutil.rmtree(self._volumes / volume_id, ignore_errors=True)

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        """Keep a disk as it is now; what is written during the copy may be in it or not."""
        _copy(self.path(volume_id), _new(self._snapshots / snapshot_id))

    def copy_snapshot(self, snapshot_id: str, copy_id: str) -> None:
        """A second snapshot with the same content."""
        _copy(_existing(self._snapshots / snapshot_id), _new(self._snapshots / copy_id))

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot; disks made from it keep what they have, and one that is gone is no error."""
        shutil.rmtree(self._snapshots / snapshot_id, ignore_errors=True)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise NotFound(f"no disk {folder.name}")
    return folder


def _new(folder: Path) -> Path:
    if folder.exists():
        raise Conflict(f"snapshot {folder.name} exists")
    return folder


def _size(disk: Path) -> int:
    return int(json.loads((disk / "disk.json").read_bytes())["size_gib"])


def _set_size(disk: Path, size_gib: int) -> None:
    fresh = disk / "disk.json.new"
    fresh.write_text(json.dumps({"size_gib": size_gib}))
    fresh.replace(disk / "disk.json")


def _copy(source: Path, target: Path) -> None:
    """A whole copy under the final name, or none; shares blocks where the host's file system can."""
    fresh = target.with_name(target.name + ".new")
    for attempt in range(UNSETTLED + 1):
        shutil.rmtree(fresh, ignore_errors=True)
        done = subprocess.run(
            ["cp", "-a", "--reflink=auto", "--sparse=auto", str(source), str(fresh)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            break
        # A file that the machine removed under our hands: look again, then take what there is.
        if attempt == UNSETTLED and "No such file" not in done.stderr:
            shutil.rmtree(fresh, ignore_errors=True)
            raise OSError(done.stderr.strip())
    fresh.replace(target)
