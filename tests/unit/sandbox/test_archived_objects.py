"""Objects that S3 keeps in an archive, among others that can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runctl.storage import transfer
from runctl.storage.bulk import BulkStore
from runctl.storage.s3 import S3Access
from runctl.storage.transfer import TransferOptions


def test_what_lies_in_an_archive_is_named_and_the_rest_arrives(sandbox_cloud: Any, tmp_path: Path) -> None:
    bucket, client = sandbox_cloud.name("bucket"), sandbox_cloud.client("s3")
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="d/a-cold", Body=b"cold", StorageClass="GLACIER")
    client.put_object(Bucket=bucket, Key="d/b-long", Body=b"x" * (17 << 20), StorageClass="DEEP_ARCHIVE")
    for number in range(12):
        client.put_object(Bucket=bucket, Key=f"d/ok{number:02}", Body=b"x")
    keys = (sandbox_cloud.record.access_key, sandbox_cloud.record.secret_key, None)
    endpoint = sandbox_cloud.record.endpoint
    access = S3Access(endpoint=endpoint, region="us-east-1", credentials=lambda: keys)
    options = TransferOptions(state=tmp_path / "state", parallel=2)
    plan = transfer.plan_download(BulkStore(bucket, "d", access), tmp_path / "down", options)
    report = transfer.carry_out(plan)
    assert sorted(path.name for path in (tmp_path / "down").iterdir()) == [f"ok{n:02}" for n in range(12)]
    assert sorted(item.name for item in report.failed) == ["a-cold", "b-long"]
    assert all("Glacier" in item.why and "restore-object" in item.why for item in report.failed)
