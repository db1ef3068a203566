"""What a download reports is on the disk: one by one where files are few, all at once else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from runctl.storage import download, durable, transfer
from runctl.storage.bulk import BulkStore
from runctl.storage.s3 import S3Access
from runctl.storage.transfer import TransferOptions


@pytest.fixture
def store(boto: Any, new_bucket: Any, access: S3Access) -> BulkStore:
    bucket = new_bucket()
    for number in range(4):
        boto.put_object(Bucket=bucket, Key=f"set/{number}", Body=b"x")
    return BulkStore(bucket, "set", access)


def fetch(store: BulkStore, folder: Path) -> None:
    options = TransferOptions(state=folder / "state")
    transfer.carry_out(transfer.plan_download(store, folder / "out", options))


def test_few_files_are_synced_before_they_get_their_names(
    store: BulkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    real = os.fsync

    def fsync(file: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{file}").readlink()))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    fetch(store, tmp_path)
    assert len([name for name in synced if ".runctl-partial-" in name]) == 4
    assert str(tmp_path / "out") in synced


def test_many_files_are_synced_together_when_all_are_there(
    store: BulkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_FEW", 3)
    found: list[set[str]] = []
    monkeypatch.setattr(
        durable, "sync_disk", lambda folder: found.append({path.name for path in folder.iterdir()})
    )
    fetch(store, tmp_path)
    assert found == [{"0", "1", "2", "3"}]
    fetch(store, tmp_path)
    assert len(found) == 1  # nothing came


def test_a_disk_is_synced(tmp_path: Path) -> None:
    durable.sync_disk(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        durable.sync_disk(tmp_path / "none")
