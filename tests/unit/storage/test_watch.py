"""A watched folder: only what rests goes, and a round without news asks nobody."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from runctl.errors import TransferError
from runctl.storage.bulk import BulkStore
from runctl.storage.s3 import S3Access
from runctl.storage.transfer import TransferOptions
from runctl.storage.watch import Watch


def test_files_go_when_they_come_to_rest_and_once(s3_server: Any, tmp_path: Path) -> None:
    bucket = s3_server.new_bucket()
    keys = s3_server.environment()
    access = S3Access(
        endpoint=s3_server.endpoint,
        region="us-east-1",
        credentials=lambda: (keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], None),
    )
    folder = tmp_path / "out"
    folder.mkdir()
    store = BulkStore(bucket, "run", access)
    watch = Watch(folder, store, TransferOptions(state=tmp_path / "state"), rest=60)
    assert watch.round() is None

    for name, age in (("old", 100), ("fresh", 0)):
        (folder / name).write_text(name)
        os.utime(folder / name, (time.time() - age,) * 2)
    first = watch.round()
    assert first is not None
    assert (first.report.moved_files, first.moving) == (1, 1)
    assert [entry.key for entry in store.entries()] == ["old"]

    assert watch.round() is None
    (folder / "old").write_text("older")
    os.utime(folder / "old", (time.time() - 90,) * 2)
    assert watch.round() is not None
    last = watch.round(at_rest=True)
    assert last is not None
    assert last.report.moved_files == 1
    assert {entry.key: entry.size for entry in store.entries()} == {"fresh": 5, "old": 5}
    (folder / "old").unlink()
    assert watch.round(at_rest=True) is None
    assert len(list(store.entries())) == 2
    store.close()


class Refusing(BulkStore):
    """A store that takes nothing."""

    def send(self, key: str, data: bytes, mode: Any = "overwrite") -> str:
        raise TransferError(f"{key} is refused")


def test_what_failed_is_tried_again_whatever_its_name(s3_server: Any, tmp_path: Path) -> None:
    keys = (s3_server.access_key, s3_server.secret_key, None)
    access = S3Access(endpoint=s3_server.endpoint, region="us-east-1", credentials=lambda: keys)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "wide\u00a0space").write_text("x")  # may go, and is reported as an escape
    store = Refusing(s3_server.new_bucket(), "run", access)
    watch = Watch(tmp_path / "out", store, TransferOptions(state=tmp_path / "state"), rest=0)
    for _ in range(2):
        found = watch.round(at_rest=True)
        assert found is not None
        assert len(found.report.failed) == 1
    store.close()
