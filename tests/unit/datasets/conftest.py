"""Commands on the shared sandbox, in this process: a bucket of one's own, and what they wrote."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl.cli.main import run


class Desk:
    """A user's home on the shared sandbox, with a bucket."""

    def __init__(self, live: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "home/sandbox").mkdir(parents=True)
        shutil.copy(live.home / "sandbox/cloud.json", folder / "home/sandbox/cloud.json")
        self.live, self.folder, self._capsys = live, folder, capsys
        self.s3 = live.client("s3")
        self.bucket: str = live.name("bucket")
        self.s3.create_bucket(Bucket=self.bucket)

    @property
    def place(self) -> str:
        return f"s3://{self.bucket}/set"

    def put(self, key: str, body: bytes, **how: Any) -> None:
        self.s3.put_object(Bucket=self.bucket, Key=f"set/{key}", Body=body, **how)

    def put_without_checksum(self, key: str, body: bytes, **how: Any) -> None:
        """As tools did before SDKs added one to what they send."""
        plain = self.live.client("s3", request_checksum_calculation="when_required")
        plain.put_object(Bucket=self.bucket, Key=f"set/{key}", Body=body, **how)

    def put_in_parts(self, key: str, *parts: bytes) -> None:
        where = {"Bucket": self.bucket, "Key": f"set/{key}"}
        upload = self.s3.create_multipart_upload(**where)["UploadId"]
        sent = [
            {
                "PartNumber": number,
                "ETag": self.s3.upload_part(**where, UploadId=upload, PartNumber=number, Body=part)["ETag"],
            }
            for number, part in enumerate(parts, 1)
        ]
        self.s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": sent})

    def text(self, *words: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = run([*words, "--on", "sandbox"])
        written = self._capsys.readouterr()
        return code, written.out, written.err

    def json(self, *words: str) -> tuple[int, Any]:
        code, out, err = self.text(*words, "--output", "json")
        assert out, err
        return code, json.loads(out)


@pytest.fixture
def desk(
    sandbox_cloud: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    for name in [name for name in os.environ if name.startswith(("RUNCTL_", "AWS_"))]:
        monkeypatch.delenv(name)
    made = Desk(sandbox_cloud, tmp_path, capsys)
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNCTL_CONFIG", str(tmp_path / "user.toml"))
    monkeypatch.chdir(tmp_path)
    yield made
    sandbox_cloud.control.clear_faults()
