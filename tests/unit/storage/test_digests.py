"""Checksums as S3 keeps them, against published values, the standard library and AWS's own client."""

from __future__ import annotations

import base64
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.events import ignore
from runctl.storage import digests, transfer
from runctl.storage.bulk import BulkStore, Proof
from runctl.storage.digests import Checksum
from runctl.storage.s3 import S3Access
from runctl.storage.transfer import TransferOptions

MIB = 2**20


@pytest.mark.parametrize(
    ("algorithm", "check"),
    # The values of "123456789" in the catalogue of parametrised CRC algorithms.
    [("crc32", 0xCBF43926), ("crc32c", 0xE3069283), ("crc64nvme", 0xAE8B14860A799888)],
)
def test_each_crc_is_the_published_one(algorithm: str, check: int) -> None:
    digest = digests.new(algorithm)
    digest.update(b"1234")
    digest.update(b"56789")
    assert int.from_bytes(digest.digest()) == check
    assert len(digest.digest()) == digests.length(algorithm)


@given(st.binary(min_size=1, max_size=300), st.integers(1, 90), st.sampled_from(digests.CRCS))
def test_pieces_prove_a_whole_and_a_composite(data: bytes, size: int, algorithm: str) -> None:
    def digest_of(part: bytes) -> bytes:
        digest = digests.new(algorithm)
        digest.update(part)
        return digest.digest()

    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    parts = [digest_of(piece) for piece in pieces]
    whole = Proof(algorithm, digest_of(data).hex())
    assert whole.while_it_comes
    assert whole.holds(parts, len(data), size)
    composite = base64.b64encode(digest_of(b"".join(parts))).decode()
    assert Proof(algorithm, f"{composite}-{len(parts)}", size).holds(parts, len(data), size)
    spoilt = [bytes([parts[0][0] ^ 1]) + parts[0][1:], *parts[1:]]
    assert not whole.holds(spoilt, len(data), size)
    assert not Proof(algorithm, f"{composite}-{len(parts)}", size).holds(spoilt, len(data), size)


def test_the_checksum_among_the_headers() -> None:
    assert digests.of_headers({"etag": '"x"'}) is None
    assert digests.of_headers({"x-amz-checksum-crc32": "AAAAAA=="}) == Checksum("crc32", "AAAAAA==")
    assert digests.of_headers({"x-amz-checksum-crc64nvme": "q+A="}) == Checksum("crc64nvme", "q+A=")
    assert digests.of_headers({"x-amz-checksum-crc32": "XyyIFw==-3"}) == Checksum("crc32", "XyyIFw==", 3)
    assert digests.of_headers({"x-amz-checksum-sha1": "AAAA"}) is None


@pytest.mark.parametrize("size", [9 * MIB, 20 * MIB + 7])
def test_what_the_sdk_sent_is_proven_by_its_crc(s3_server: Any, tmp_path: Path, size: int) -> None:
    """boto3 adds a CRC32 to what it sends: of the whole, or of parts."""
    bucket, client = s3_server.new_bucket(), s3_server.client()
    data = os.urandom(size)
    (tmp_path / "sent").write_bytes(data)
    client.upload_file(str(tmp_path / "sent"), bucket, "set/in-parts")
    client.put_object(Bucket=bucket, Key="set/whole", Body=data)
    keys = s3_server.environment()
    access = S3Access(
        endpoint=s3_server.endpoint,
        region="us-east-1",
        credentials=lambda: (keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], None),
    )
    store = BulkStore(bucket, "set", access)
    proofs = {entry.key: store.proof(entry.key, entry.size, entry.etag) for entry in store.entries()}
    assert proofs["whole"] == Proof("crc32", f"{zlib.crc32(data):08x}")
    assert (proofs["in-parts"].algorithm, proofs["in-parts"].part_size) == ("crc32", 8 * MIB)
    plan = transfer.plan_download(store, tmp_path / "came", TransferOptions(state=tmp_path / "state"))
    report = transfer.carry_out(plan, emit=ignore)
    assert (report.moved_files, report.failed) == (2, ())
    for name in proofs:
        assert (tmp_path / "came" / name).read_bytes() == data
    store.close()


def test_bytes_that_another_crc_names_never_get_their_name(
    s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3_server.new_bucket()
    s3_server.client().put_object(Bucket=bucket, Key="set/whole", Body=bytes(9 * MIB))
    keys = s3_server.environment()
    access = S3Access(
        endpoint=s3_server.endpoint,
        region="us-east-1",
        credentials=lambda: (keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], None),
    )
    store = BulkStore(bucket, "set", access)
    monkeypatch.setattr(store, "proof", lambda *_: Proof("crc32", "00000001"))
    plan = transfer.plan_download(store, tmp_path / "came", TransferOptions(state=tmp_path / "state"))
    report = transfer.carry_out(plan, emit=ignore)
    assert [item.name for item in report.failed] == ["whole"]
    assert [path for path in (tmp_path / "came").rglob("*") if path.is_file()] == []
    store.close()
