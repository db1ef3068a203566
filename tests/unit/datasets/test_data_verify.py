"""`runctl data verify`: everything that is not proven equal is named, with the reason and exit code 1."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

MIB = 2**20


def test_a_whole_copy_is_proven_whatever_parts_it_was_sent_in(desk: Any) -> None:
    folder = _folder(desk, {"a.txt": b"one", "deep/b.bin": bytes(range(256)) * 100, "empty": b""})
    for key in ("a.txt", "deep/b.bin", "empty"):
        desk.put(key, (folder / key).read_bytes())
    big = os.urandom(11 * MIB)
    (folder / "usual").write_bytes(big)
    (folder / "odd").write_bytes(big)
    desk.put_in_parts("usual", big[: 5 * MIB], big[5 * MIB : 10 * MIB], big[10 * MIB :])
    desk.put_in_parts("odd", big[: 6 * MIB + 7], big[6 * MIB + 7 :])  # a size that nobody would guess
    for words in ((str(folder), desk.place), (desk.place, str(folder))):
        code, found = desk.json("data", "verify", *words)
        assert (code, found["faultless"]) == (0, True), found
        assert (found["equal_files"], found["equal_bytes"]) == (5, 25603 + 2 * len(big))


def test_every_kind_of_fault_is_named(desk: Any) -> None:
    folder = _folder(desk, {"same": b"1", "flipped": b"abc", "short": b"ab", "new": b"n", "kms": b"xyz"})
    (folder / "kms crc").write_bytes(b"xyz")
    (folder / "kms same").write_bytes(b"xyz")
    (folder / "link").symlink_to("/etc/hostname")
    desk.put("same", b"1")
    desk.put("flipped", b"abd")
    desk.put("short", b"a")
    desk.put("gone", b"g")
    desk.put_without_checksum("kms", b"xyy", ServerSideEncryption="aws:kms")
    desk.put("kms crc", b"xyy", ServerSideEncryption="aws:kms")
    desk.put("kms same", b"xyz", ServerSideEncryption="aws:kms")
    code, found = desk.json("data", "verify", str(folder), desk.place)
    assert code == 1
    assert found["faultless"] is False
    names = {kind: [item["name"] for item in found[kind]] for kind in found if isinstance(found[kind], list)}
    assert names == {
        "missing": ["new"],
        "different": ["flipped", "kms crc", "short"],
        "extra": ["gone"],
        "unverifiable": ["kms"],
        "left_out": ["link"],
    }
    code, out, _ = desk.text("data", "verify", desk.place, str(folder))
    assert code == 1
    assert "missing: gone: 1 bytes" in out
    assert "extra: new: 1 bytes" in out
    assert "different: flipped: another CRC32" in out
    assert "no MD5" in out
    code, _, _ = desk.text("data", "verify", str(folder), desk.place, "--include", "same")
    assert code == 0


def test_a_flipped_byte_in_a_big_object_is_found(desk: Any) -> None:
    big = os.urandom(6 * MIB)
    desk.put_in_parts("big", big[: 5 * MIB], big[5 * MIB :])
    folder = _folder(desk, {"big": bytes([big[0] ^ 1]) + big[1:]})
    code, found = desk.json("data", "verify", str(folder), desk.place)
    assert code == 1
    assert found["different"] == [{"name": "big", "why": "another MD5, in 2 parts"}]


def test_keys_that_cannot_be_files_are_missing_and_nothing_else_is_read(desk: Any) -> None:
    folder = _folder(desk, {"ok": b"1"})
    (desk.folder / "outside").write_bytes(b"x")
    for key in ("ok", "a/../../outside", "x//y", "tab\there"):
        desk.put(key, b"1" if key == "ok" else b"x")
    code, found = desk.json("data", "verify", desk.place, str(folder))
    assert (code, found["equal_files"]) == (1, 1)
    assert [item["name"] for item in found["missing"]] == ["a/../../outside", "tab\\there", "x//y"]
    code, found = desk.json("data", "verify", desk.place, desk.place)
    assert (code, found["equal_files"]) == (0, 4)


def test_two_prefixes_are_compared_without_reading_them(desk: Any) -> None:
    for name in ("set/a", "copy/a"):
        desk.s3.put_object(Bucket=desk.bucket, Key=name, Body=b"same")
    code, found = desk.json("data", "verify", desk.place, f"s3://{desk.bucket}/copy")
    assert (code, found["equal_files"]) == (0, 1)
    desk.s3.put_object(Bucket=desk.bucket, Key="copy/a", Body=b"emas")
    code, found = desk.json("data", "verify", desk.place, f"s3://{desk.bucket}/copy")
    assert (code, [item["name"] for item in found["different"]]) == (1, ["a"])


@pytest.mark.slow
def test_a_volume_that_was_filled_before_the_dataset_changed_is_stale(desk: Any) -> None:
    desk.put("a", b"1")
    _, said = desk.json("data", "verify", desk.place)
    assert said == {"holders": [], "stale": 0}
    from runctl.clouds import sandbox_cloud
    from runctl.providers.aws.session import Session
    from runctl.resources.prefixes import dataset_of

    version = dataset_of(Session(sandbox_cloud()), desk.place).version
    tags = {"runctl:managed": "true", "runctl:dataset": desk.place, "runctl:dataset-version": version}
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    volume = desk.live.volume(TagSpecifications=[{"ResourceType": "volume", "Tags": pairs}])
    code, said = desk.json("data", "verify", volume)
    assert (code, said["holders"][0]["now"], said["holders"][0]["stale"]) == (0, version, "")
    desk.put("b", b"2")
    for place in (volume, desk.place):
        code, said = desk.json("data", "verify", place)
        assert (code, said["stale"]) == (1, 1)
    code, out, err = desk.text("data", "verify", desk.place)
    assert f"runctl aws ebs pre-warm {volume} {desk.place}" in err
    assert "stale" in out


def test_what_cannot_be_compared_is_refused(desk: Any) -> None:
    plain = desk.live.volume()
    for words, why in (
        ((".", "."), "one of them must lie in S3"),
        (("i-0123456789abcdef0:/x", desk.place), "one of them must lie in S3"),
        ((".",), "no place in S3"),
        ((desk.place, "--include", "x"), "compare two places"),
        ((plain,), "was not filled from S3"),
        (("nowhere", desk.place), "There is no folder"),
    ):
        code, out, err = desk.text("data", "verify", *words)
        assert (code, out) == (1, "")
        assert why in err


def _folder(desk: Any, files: dict[str, bytes]) -> Path:
    folder: Path = desk.folder / "copy"
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
