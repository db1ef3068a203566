"""Names that differ only in case: on a disk that takes them for one, none is overwritten by the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runctl.storage import spelling, transfer
from runctl.storage.bulk import BulkStore
from runctl.storage.s3 import S3Access
from runctl.storage.transfer import TransferOptions


@pytest.fixture
def store(boto: Any, new_bucket: Any, access: S3Access) -> BulkStore:
    bucket = new_bucket()
    for key, data in {"A": b"1", "a": b"22", "Dir/x": b"333", "dir/y": b"4444", "ok": b"5"}.items():
        boto.put_object(Bucket=bucket, Key=f"set/{key}", Body=data)
    return BulkStore(bucket, "set", access)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_second_of_two_names_that_the_disk_takes_for_one_is_refused(
    store: BulkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spelling, "tells_case_apart", lambda _: False)
    target = tmp_path / "out"
    for _ in range(2):  # the second time one of them is here, and equal
        plan = transfer.plan_download(store, target, TransferOptions(state=tmp_path / "state"))
        report = transfer.carry_out(plan)
        assert {item.name for item in report.failed} == {"A", "Dir/x"}
        assert all("differ only in case" in item.why for item in report.failed)
        assert files(target) == {"a": b"22", "dir/y": b"4444", "ok": b"5"}


def test_this_disk_is_asked_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    (tmp_path / "letters").touch()
    assert spelling.tells_case_apart(tmp_path) is not (tmp_path / "LETTERS").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


@pytest.mark.parametrize(("here", "key"), [("é", "e\u0301"), ("B/c", "b/d"), ("straße", "STRASSE")])
def test_names_that_look_alike_to_some_disks_are_one(tmp_path: Path, here: str, key: str) -> None:
    from runctl.errors import Conflict

    path = tmp_path / here
    path.parent.mkdir(exist_ok=True)
    path.touch()
    names = spelling.Spelling(tmp_path)
    names.claim(here)
    with pytest.raises(Conflict):
        names.claim(key)
