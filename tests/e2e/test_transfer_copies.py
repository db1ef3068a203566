"""Copies within S3, which S3 makes itself, and within this machine: the same options, the same report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy, Seen
from s3_server import S3Server

from runctl.errors import ValidationError
from runctl.storage import copying, local_copy, plans
from runctl.storage.bulk import BulkStore
from runctl.storage.s3 import Credentials, S3Access
from runctl.storage.transfer import TransferOptions, TransferReport

MIB = 1024 * 1024


class Desk:
    """Two buckets of a server, with the command and the library at hand."""

    def __init__(self, client: Any, environment: dict[str, str], folder: Path) -> None:
        self.client = client
        self.buckets = [f"copies-{uuid.uuid4().hex[:12]}" for _ in range(2)]
        for bucket in self.buckets:
            client.create_bucket(Bucket=bucket)
        self.environment = {**os.environ, **environment, "RUNCTL_HOME": str(folder / "home")}
        self.options = TransferOptions(state=folder / "state", parallel=4)

    def put(self, key: str, data: bytes, bucket: int = 0, **more: Any) -> None:
        self.client.put_object(Bucket=self.buckets[bucket], Key=key, Body=data, **more)

    def there(self, bucket: int = 1) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.buckets[bucket]).get("Contents", [])
        return {one["Key"]: self.get(one["Key"], bucket)["Body"].read() for one in listed}

    def get(self, key: str, bucket: int = 1) -> Any:
        return self.client.get_object(Bucket=self.buckets[bucket], Key=key)

    def run(self, *words: object, code: int = 0) -> dict[str, Any]:
        command = [sys.executable, "-m", "runctl", "transfer", *map(str, words), "--output", "json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr or done.stdout
        return json.loads(done.stdout or done.stderr.splitlines()[-1])

    def store(self, prefix: str, bucket: int = 0, endpoint: str = "") -> BulkStore:
        keys = Credentials(self.environment["AWS_ACCESS_KEY_ID"], self.environment["AWS_SECRET_ACCESS_KEY"])
        endpoint = endpoint or self.environment["AWS_ENDPOINT_URL"]
        access = S3Access(endpoint=endpoint, region="us-east-1", credentials=lambda: keys)
        return BulkStore(self.buckets[bucket], prefix, access)

    def copy(self, endpoint: str = "") -> TransferReport:
        source, target = self.store("set", 0, endpoint), self.store("copy", 1, endpoint)
        try:
            return plans.carry_out(copying.plan_copies(source, target, self.options))
        finally:
            source.close()
            target.close()


@pytest.fixture
def desk(s3_server: S3Server, tmp_path: Path) -> Desk:
    return Desk(s3_server.client(), s3_server.environment(), tmp_path)


@pytest.fixture(params=["server", "sandbox"])
def any_desk(request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    if request.param == "server":
        return request.getfixturevalue("desk")
    cloud = request.getfixturevalue("sandbox_cloud")
    record = cloud.record
    environment = {
        "AWS_ENDPOINT_URL": record.s3_endpoint,
        "AWS_ACCESS_KEY_ID": record.access_key,
        "AWS_SECRET_ACCESS_KEY": record.secret_key,
        "AWS_REGION": record.region,
    }
    return Desk(cloud.client("s3"), environment, tmp_path)


def test_a_prefix_is_copied_and_kept_in_step(any_desk: Desk) -> None:
    desk = any_desk
    here, there = f"s3://{desk.buckets[0]}/set", f"s3://{desk.buckets[1]}/copy"
    for key in ("a", "deep/é +%.bin", "no.tmp"):
        desk.put(f"set/{key}", key.encode(), ContentType="text/plain")
    desk.put("copy/old", b"old", 1)
    desk.put("copy/no.tmp", b"stays", 1)
    planned = desk.run(here, there, "--exclude", "*.tmp", "--delete", "--dry-run")
    assert {one["name"] for one in planned["move"]} == {"a", "deep/é +%.bin"}
    assert planned["delete"] == ["old"]
    done = desk.run(here, there, "--exclude", "*.tmp", "--delete", "--yes")
    assert (done["moved_files"], done["deleted_files"], done["failed"]) == (2, 1, [])
    want = {"copy/a": b"a", "copy/deep/é +%.bin": "deep/é +%.bin".encode(), "copy/no.tmp": b"stays"}
    assert desk.there() == want
    assert desk.get("copy/a")["ContentType"] == "text/plain"
    again = desk.run(here, there, "--exclude", "*.tmp")
    assert (again["moved_files"], again["equal_files"]) == (0, 2)
    one = desk.run(f"{here}/a", f"s3://{desk.buckets[1]}/")
    assert one["moved_files"] == 1
    assert desk.get("a")["Body"].read() == b"a"
    assert desk.run(f"{here}/a", f"s3://{desk.buckets[1]}/a")["equal_files"] == 1
    assert "bandwidth" in str(desk.run(here, there, "--bandwidth-limit", "1MB", code=1))
    assert "overlap" in str(desk.run(here, f"{here}/inner", code=1))


def send_in_parts(desk: Desk, key: str, data: bytes, size: int) -> None:
    where = {"Bucket": desk.buckets[0], "Key": key}
    begun = desk.client.create_multipart_upload(**where, Metadata={"made": "by-us"})["UploadId"]
    sent = []
    for number, start in enumerate(range(0, len(data), size), 1):
        part = data[start : start + size]
        etag = desk.client.upload_part(**where, UploadId=begun, PartNumber=number, Body=part)["ETag"]
        sent.append({"PartNumber": number, "ETag": etag})
    desk.client.complete_multipart_upload(**where, UploadId=begun, MultipartUpload={"Parts": sent})


def test_a_big_object_goes_in_its_own_parts_and_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "LARGEST", 8 * MIB)
    data = os.urandom(5 * MIB) * 4 + b"."
    send_in_parts(desk, "set/big", data, 5 * MIB)
    copied: list[str] = []

    monkeypatch.setattr(copying, "_AT_ONCE", 1)
    real = copying._etag_in

    def killed(store: Any, operation: str, *rest: Any) -> str:
        if operation == "UploadPartCopy" and len(copied) == 2:
            raise SystemExit  # as a kill: nothing is tidied up
        copied.append(operation)
        return real(store, operation, *rest)

    with FaultProxy(desk.environment["AWS_ENDPOINT_URL"]) as proxy:
        monkeypatch.setattr(copying, "_etag_in", killed)
        with pytest.raises(SystemExit):
            desk.copy(proxy.endpoint)
        assert len(desk.client.list_multipart_uploads(Bucket=desk.buckets[1])["Uploads"]) == 1
        monkeypatch.setattr(copying, "_etag_in", real)
        report = desk.copy(proxy.endpoint)
        parts = [seen.part for seen in proxy.seen if seen.method == "PUT" and seen.part != "whole"]
        again = desk.copy(proxy.endpoint)
    assert not report.failed
    assert desk.there() == {"copy/big": data}
    head = desk.client.head_object(Bucket=desk.buckets[1], Key="copy/big")
    assert head["Metadata"] == {"made": "by-us"}
    assert parts == ["1", "2", "3", "4", "5"]
    assert "Uploads" not in desk.client.list_multipart_uploads(Bucket=desk.buckets[1])
    assert again.equal_files == 1


def test_an_object_of_parts_that_became_one_is_not_copied_again(desk: Desk) -> None:
    send_in_parts(desk, "set/parts", bytes(6 * MIB), 5 * MIB)
    assert desk.copy().moved_files == 1
    assert desk.copy().equal_files == 1
    desk.put("set/parts", bytes(6 * MIB - 1) + b".")
    assert desk.copy().moved_files == 1
    assert desk.there()["copy/parts"].endswith(b".")


def test_an_object_that_changes_between_listing_and_copy_starts_anew(desk: Desk) -> None:
    desk.put("set/a", b"first")

    def change(seen: Seen) -> None:
        if seen.method == "PUT":
            proxy.before = lambda _: None
            desk.put("set/a", b"second")

    with FaultProxy(desk.environment["AWS_ENDPOINT_URL"]) as proxy:
        proxy.before = change
        report = desk.copy(proxy.endpoint)
    assert not report.failed
    assert desk.there() == {"copy/a": b"second"}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_is_copied_and_kept_in_step(tmp_path: Path) -> None:
    def run(*words: object) -> Any:
        command = [sys.executable, "-m", "runctl", "transfer", *map(str, words), "--output", "json"]
        environment = {**os.environ, "RUNCTL_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    here, there = tmp_path / "here", tmp_path / "there"
    (here / "deep").mkdir(parents=True)
    (here / "deep" / "a").write_bytes(b"1" * 5_000_000)
    (here / "script").write_bytes(b"#!")
    (here / "script").chmod(0o755)
    (here / "no.tmp").write_bytes(b"x")
    there.mkdir()
    (there / "old").write_bytes(b"old")
    (there / ".runctl-partial-999999999.0").write_bytes(b"left by a kill")
    (there / "mine").symlink_to(tmp_path / "elsewhere")
    (here / "mine").write_bytes(b"x")
    code, done = run(here, there, "--exclude", "*.tmp", "--delete", "--yes")
    assert (code, [one["name"] for one in done["left_out"]], done["deleted_files"]) == (1, ["mine"], 0)
    (here / "mine").unlink()
    code, done = run(here, there, "--exclude", "*.tmp", "--delete", "--dry-run")
    assert done["delete"] == ["old"]
    code, done = run(here, there, "--exclude", "*.tmp", "--delete", "--yes")
    assert (code, done["equal_files"], done["deleted_files"]) == (0, 2, 1), done
    assert files(there) == {"deep/a": b"1" * 5_000_000, "script": b"#!"}
    assert (there / "script").stat().st_mode & 0o111
    assert run(here / "script", tmp_path / "one")[1]["moved_files"] == 1
    assert "overlap" in run(here, here / "deep")[1]


def test_a_local_copy_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    plan = local_copy.plan_file(tmp_path / "a", tmp_path / "b", TransferOptions(state=tmp_path / "state"))
    monkeypatch.setattr(local_copy, "_write_all", lambda file, data: os.write(file, b"NEW"))
    report = plans.carry_out(plan)
    assert "damaged" in report.failed[0].why
    assert files(tmp_path) == {"a": b"new", "b": b"old"}
    with pytest.raises(ValidationError, match="one file"):
        local_copy.plan_file(tmp_path / "a", tmp_path / "a", TransferOptions(state=tmp_path / "state"))
