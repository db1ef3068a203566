"""A stranger who can write to the bucket while a transfer runs: what it puts there arrives nowhere."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from road import MIB, Command, Road, plain

from runctl.agent import parcel, report
from runctl.agent.presigned import Courier
from runctl.errors import TransferError
from runctl.ledger import Ledger
from runctl.ledger.store import FILE_NAME
from runctl.resources import sides
from runctl.resources.leg_run import Carrier
from runctl.storage.staging import SigningStore

pytestmark = pytest.mark.xdist_group("legs")

THEIRS = "ab" * 32
"""A key of the stranger's own, who has read how messages are made."""


@pytest.fixture(scope="module")
def machine(sandbox_cloud: Any) -> Iterator[str]:
    found = sandbox_cloud.launch()
    sandbox_cloud.until(lambda: sandbox_cloud.is_online(found))
    yield found
    sandbox_cloud.client("ec2").terminate_instances(InstanceIds=[found])


@pytest.fixture
def road(sandbox: Any, machine: str, tmp_path: Path) -> Road:
    bucket = sandbox.name("mine")
    sandbox.client("s3").create_bucket(Bucket=bucket)
    return Road(sandbox, tmp_path, machine, machine, bucket)


def forged(data: bytes) -> bytes:
    """A parcel of other bytes, rightly made but for the key; what is no parcel stays as it is."""
    magic, length = b"runctl parcel 2\n", 32
    if not data.startswith(magic):
        return data
    start = len(magic) + length + 8
    end = start + int.from_bytes(data[start - 8 : start], "big")
    header = json.loads(data[start:end])
    pieces = [
        (parcel.Slice(0, offset, size), b"e" * size, "")
        for offset, size, checksum, _ in header["slices"]
        if checksum is not None
    ]
    return parcel.seal(pieces, "", THEIRS, "any")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "small").write_bytes(b"good")
    (folder / "big").write_bytes(b"g" * (17 * MIB))
    return folder


@pytest.mark.parametrize("compress", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nothing_of_a_strangers_arrives_on_the_machine(
    road: Road, source: Path, monkeypatch: pytest.MonkeyPatch, compress: bool
) -> None:
    put = Courier.put
    monkeypatch.setattr(Courier, "put", lambda own, url, data: put(own, url, forged(data)))
    name = road.live.name("forged")
    failed = road.go(source, road.at(road.first, name), compress=compress).failed
    assert sorted(item.name for item in failed) == ["big", "small"]
    assert {item.why for item in failed} == {"it is not what was sent: its seal is wrong"}
    assert plain(road.inside(road.first, name)) == {}


def test_nothing_of_a_strangers_arrives_here_and_what_comes_right_later_does(
    road: Road, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, tries, forgeries = Courier.get, 5, list[str]()

    def spoilt(own: Courier, url: str, *more: Any, **named: Any) -> bytes:
        data = get(own, url, *more, **named)
        if data.startswith(b"runctl parcel") and len(forgeries) < 2 * tries:
            forgeries.append(url)
            return forged(data)
        return data

    monkeypatch.setattr(Courier, "get", spoilt)
    name = road.live.name("spoilt")
    inside = road.inside(road.first, name)
    inside.mkdir()
    for path in source.iterdir():
        (inside / path.name).write_bytes(path.read_bytes())
    report = road.go(road.at(road.first, name), tmp_path / "target", parallel=1)
    assert report.failed == ()
    assert len(forgeries) == 2 * tries
    assert "is not what was sent: its seal is wrong: it starts anew" in road.said()
    assert plain(tmp_path / "target") == plain(source)


def test_a_strangers_word_is_none_of_the_machines(
    road: Road, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing decides what is sent and deleted."""
    read = SigningStore.read_if_exists
    lie = {"kind": "folder", "files": [["gone", 1, 1, False, ""]], "left_out": [], "partials": []}

    def lying(own: SigningStore, key: str, **named: Any) -> bytes | None:
        found = read(own, key, **named)
        return report.sealed(lie, THEIRS, key) if found and key.startswith("list-") else found

    monkeypatch.setattr(SigningStore, "read_if_exists", lying)
    monkeypatch.setattr(sides, "_LONGEST_LOOK", 0.2)
    name = road.live.name("lie")
    with pytest.raises(TransferError, match="is not what was sent") as caught:
        road.go(source, road.at(road.first, name), delete=True)
    assert "its seal is wrong" in caught.value.why
    assert "who may write to the bucket" in caught.value.next
    assert not road.inside(road.first, name).exists()


@pytest.mark.slow
def test_an_object_is_put_together_of_what_its_sender_staged(
    road: Road, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose = Carrier._compose

    def too_late(own: Carrier, *more: Any) -> None:
        for item in [key for key in road.staged() if len(key.rpartition("/")[2]) == 40]:
            bucket = own._ends.staging.bucket  # type: ignore[union-attr]
            size = road.s3.head_object(Bucket=bucket, Key=item)["ContentLength"]
            road.s3.put_object(Bucket=bucket, Key=item, Body=b"e" * size)
        compose(own, *more)

    monkeypatch.setattr(Carrier, "_compose", too_late)
    name = road.live.name("pieces")
    inside = road.inside(road.first, name)
    inside.mkdir()
    (inside / "big").write_bytes((source / "big").read_bytes())
    (failed,) = road.go(road.at(road.first, name), f"s3://{road.bucket}/up").failed
    assert failed.name == "big"
    # S3 copies no piece of another state; from a server that does, the result is wrong and removed.
    assert any(text in failed.why for text in ("is not what was sent", "was not put together rightly"))
    assert road.objects("up/") == {}


@pytest.mark.slow
def test_records_of_a_strangers_are_removed_and_followed_nowhere(
    road: Road, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record names an upload that is aborted when the prefix is emptied."""
    upload = road.s3.create_multipart_upload(Bucket=road.bucket, Key="theirs")["UploadId"]
    planted = {"bucket": road.bucket, "key": "theirs", "upload": upload}
    start = Carrier._start

    def planting(own: Carrier, *more: Any) -> None:
        staging: Any = own._ends.staging
        staging.write("uploads/aa", report.sealed(planted, THEIRS, "uploads/aa"))
        start(own, *more)

    monkeypatch.setattr(Carrier, "_start", planting)
    inside = road.inside(road.first, name := road.live.name("record"))
    inside.mkdir()
    (inside / "file").write_bytes(b"x")
    assert road.go(road.at(road.first, name), f"s3://{road.bucket}/up").failed == ()
    assert "its seal is wrong" in road.said()
    assert [item["UploadId"] for item in road.s3.list_multipart_uploads(Bucket=road.bucket)["Uploads"]] == [
        upload
    ]


def test_the_key_lies_in_no_object_and_is_shown_by_no_command(
    road: Road, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = SigningStore.write

    def watched(own: SigningStore, key: str, data: bytes, **named: Any) -> str:
        written.append(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
        return write(own, key, data, **named)

    monkeypatch.setattr(SigningStore, "write", watched)
    road.go(source, road.at(road.first, road.live.name("key")))
    with Ledger.open(road.folder / "ledger") as ledger:
        (record,) = ledger.journal.list()
    key = json.loads(record.payload)["steps"][0]["requests"][0]["key"]
    assert len(bytes.fromhex(key)) == hashlib.sha256().digest_size
    assert any(b'"role":"receive"' in data for data in written)
    assert not any(key.encode() in data for data in written)
    home = tmp_path / "home"
    home.mkdir()
    (home / "sandbox").symlink_to(road.live.home / "sandbox", target_is_directory=True)
    (road.folder / "ledger" / FILE_NAME).rename(home / FILE_NAME)
    command = Command(road, home)
    for words in (("list", "--all"), ("show", record.id)):
        for more in ((), ("--output", "json")):
            out, err = command.run("tx", *words, *more)
            assert record.id in out
            assert key not in out + err
