"""The S3 server that other tests stand on: what it must verify, and that nothing of it outlives them."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from s3_server import S3Server

from runctl.processes import is_alive

HERE = Path(__file__).parent


def _sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


@pytest.mark.parametrize(
    "header", [{"ChecksumSHA256": _sha256(b"other")}, {"ContentMD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}]
)
def test_a_body_that_is_not_what_its_checksum_says_is_refused(
    s3_server: S3Server, header: dict[str, str]
) -> None:
    client, bucket = s3_server.client(), s3_server.new_bucket()
    with pytest.raises(client.exceptions.ClientError, match="BadDigest"):
        client.put_object(Bucket=bucket, Key="a", Body=b"body", **header)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)
    client.close()


def test_etags_ranges_and_conditions_are_those_of_s3(s3_server: S3Server) -> None:
    client, bucket = s3_server.client(), s3_server.new_bucket()
    first, second = b"1" * (5 << 20), b"2"
    upload = client.create_multipart_upload(Bucket=bucket, Key="a", ChecksumAlgorithm="SHA256")["UploadId"]
    sent = [
        client.upload_part(
            Bucket=bucket,
            Key="a",
            UploadId=upload,
            PartNumber=number,
            Body=body,
            ChecksumSHA256=_sha256(body),
        )
        for number, body in enumerate((first, second), 1)
    ]
    listed = [
        {"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}
        for number, part in enumerate(sent, 1)
    ]
    client.complete_multipart_upload(
        Bucket=bucket, Key="a", UploadId=upload, MultipartUpload={"Parts": listed}
    )
    digests = hashlib.md5(first).digest() + hashlib.md5(second).digest()
    etag = f'"{hashlib.md5(digests).hexdigest()}-2"'
    assert client.head_object(Bucket=bucket, Key="a")["ETag"] == etag
    end = client.get_object(Bucket=bucket, Key="a", Range=f"bytes={len(first) - 1}-", IfMatch=etag)
    assert end["Body"].read() == b"12"
    with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
        client.get_object(Bucket=bucket, Key="a", IfMatch='"other"')
    client.close()


def test_the_server_ends_with_whoever_started_it() -> None:
    program = """import s3_server, time
with s3_server.running() as up:
    print(up.pid, flush=True)
    time.sleep(600)"""
    starter = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        text=True,
    )
    assert starter.stdout
    pid = int(starter.stdout.readline())
    home = Path(f"/proc/{pid}/cwd").readlink()
    assert is_alive(pid)
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    deadline = time.monotonic() + 60
    while is_alive(pid) or home.exists():
        assert time.monotonic() < deadline, "the server outlived its starter"
        time.sleep(0.02)
