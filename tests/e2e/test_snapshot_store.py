"""Files of snapshots in S3 servers that are no part of the tests: real checksums, ranges and copies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.bucket_store import BucketStore
from runctl.agent.imds import Metadata
from runctl.agent.in_parts import PART
from runctl.agent.packs import MANY
from runctl.agent.placed import Placed, ToFetch, ToPut


@pytest.fixture(params=["a real server", "sandbox"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketStore]:
    if request.param == "sandbox":
        cloud: Any = request.getfixturevalue("sandbox_cloud")
        bucket = cloud.name("snapshots")
        cloud.client("s3").create_bucket(Bucket=bucket)
        keys = (cloud.record.access_key, cloud.record.secret_key, cloud.record.s3_endpoint)
    else:
        server: Any = request.getfixturevalue("s3_server")
        bucket, keys = server.new_bucket(), (server.access_key, server.secret_key, server.endpoint)
    for name, value in zip(
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"), keys, strict=True
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    made = BucketStore(bucket, "runctl/jobs/job", "us-east-1", Metadata())
    yield made
    made._bucket.close()


class Sent:
    """Counts the bytes that are sent in bodies of parts and objects, and the parts that were copied."""

    def __init__(self, store: BucketStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = self.copied = 0
        client: Any = store._bucket
        once = client._once

        def counted(*asked: Any, **how: Any) -> Any:
            _, _, _, headers, body, _, length, *_ = asked
            self.bytes += length or (len(body) if isinstance(body, bytes) else 0)
            self.copied += "x-amz-copy-source" in headers
            return once(*asked, **how)

        monkeypatch.setattr(client, "_once", counted)


def send(store: BucketStore, at: str, path: Path, base: Placed | None = None) -> Placed:
    with path.open("rb") as file:
        size = path.stat().st_size
        ((_, outcome),) = store.send_files([ToPut(at, lambda: (file, size), base=base)])
    assert isinstance(outcome, Placed), outcome
    return outcome


def test_only_what_changed_is_sent_and_each_version_comes_back(
    store: BucketStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, back = tmp_path / "model.pt", tmp_path / "back"
    first = os.urandom(3 * PART + 1000)
    path.write_bytes(first)
    base = send(store, "000001-a b+ü/checkpoints/model.pt", path)
    second = first[: PART + 5] + b"changed" + first[PART + 12 :] + b"grown"
    path.write_bytes(second)
    sent = Sent(store, monkeypatch)
    placed = send(store, "000002-a b+ü/checkpoints/model.pt", path, base)
    assert sent.bytes < PART + 10_000
    assert sent.copied == 2
    before = sent.bytes
    assert send(store, "000003-a b+ü/checkpoints/model.pt", path, placed) == placed
    assert sent.bytes == before
    for one, wanted in ((base, first), (placed, second)):
        assert store.fetch_files([ToFetch(one, str(back))]) is None
        assert back.read_bytes() == wanted
        back.unlink()


def test_small_files_share_objects(store: BucketStore, tmp_path: Path) -> None:
    contents = [os.urandom(number * 50) for number in range(MANY)]

    files = []
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
        files.append((tmp_path / str(number)).open("rb"))
    items = [
        ToPut(
            f"000001-a/outputs/{number}", lambda n=number: (files[n], len(contents[n])), files[number].close
        )
        for number in range(MANY)
    ]
    placed = dict(store.send_files(items))
    assert len(store.list("checkpoints/")) == 1
    wanted = [
        ToFetch(one, str(tmp_path / f"back-{number}"))
        for number, one in placed.items()
        if isinstance(one, Placed)
    ]
    assert store.fetch_files(wanted) is None
    assert [(tmp_path / f"back-{number}").read_bytes() for number in range(MANY)] == contents
