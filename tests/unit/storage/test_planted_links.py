"""Downloads into a clone: neither its links nor links at foreseen names lead a byte elsewhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from runctl.errors import ValidationError
from runctl.resources.sides import LocalSide
from runctl.storage import plans, transfer
from runctl.storage.bulk import BulkStore
from runctl.storage.objects import PARTIAL_PREFIX
from runctl.storage.plans import TransferOptions
from runctl.storage.s3 import S3Access

BIG = 17 << 20


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    root, outside = tmp_path / "clone", tmp_path / "outside"
    outside.mkdir()
    (root / "data").mkdir(parents=True)
    (root / "results").symlink_to(outside)
    (root / "data" / "inner").symlink_to("../results")
    for arguments in (["init", "-q", "."], ["add", "-A"]):
        subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)
    return root


@pytest.fixture
def fetch(
    boto: Any, new_bucket: Callable[[], str], access: S3Access, tmp_path: Path
) -> Callable[..., plans.TransferReport]:
    bucket = new_bucket()
    boto.put_object(Bucket=bucket, Key="d/inner/a/b.txt", Body=b"b")
    boto.put_object(Bucket=bucket, Key="d/plain.txt", Body=b"p")

    def call(prefix: str, folder: Path) -> plans.TransferReport:
        if prefix == "big":
            boto.put_object(Bucket=bucket, Key="big/model.bin", Body=os.urandom(BIG))
        store = BulkStore(bucket, prefix, access)
        try:
            plan = transfer.plan_download(store, folder, TransferOptions(state=tmp_path / "state"))
            return plans.carry_out(plan)
        finally:
            store.close()

    return call


def test_a_download_does_not_go_through_a_link_of_the_clone(
    clone: Path, fetch: Callable[..., plans.TransferReport], tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match="Nothing is written through"):
        fetch("d", clone / "results")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_within_the_folder_is_not_gone_through_either(
    clone: Path, fetch: Callable[..., plans.TransferReport], tmp_path: Path
) -> None:
    report = fetch("d", clone / "data")
    assert [item.name for item in (*report.failed, *report.left_out)] == ["inner/a/b.txt"]
    assert list((tmp_path / "outside").iterdir()) == []


def test_files_of_a_machine_do_not_go_through_a_link_of_the_clone(clone: Path) -> None:
    spec = {"role": "receive", "root": str(clone / "data"), "files": [("inner/a/b.txt", 1, 1, False)]}
    with pytest.raises(ValidationError, match=r"Nothing is written through .*data/inner"):
        LocalSide(clone / "data", "00" * 32).work(spec, "")


@pytest.mark.parametrize("end", ["data", "parts"])
def test_a_link_at_the_name_of_a_partial_file_is_not_followed(
    clone: Path, fetch: Callable[..., plans.TransferReport], tmp_path: Path, end: str
) -> None:
    target = tmp_path / "outside" / "bashrc"
    target.write_text("mine\n")
    name = PARTIAL_PREFIX + blake2b(b"model.bin", digest_size=8).hexdigest()
    (clone / "data" / f"{name}.{end}").symlink_to(target)
    report = fetch("big", clone / "data")
    assert [item.name for item in report.failed] == ["model.bin"]
    assert target.read_text() == "mine\n"
