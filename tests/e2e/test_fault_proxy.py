"""The fault proxy itself: transparent without faults, and each fault is what its name says."""

from __future__ import annotations

import hashlib
import http.client
import itertools
from collections.abc import Iterator

import pytest
from fault_proxy import KINDS, FaultProxy, Faults, Seen, only
from s3_server import S3Server

BODY = hashlib.shake_256(b"body").digest(200_000)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as up:
        yield up


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    return s3_server.new_bucket()


@pytest.fixture
def client(s3_server: S3Server, proxy: FaultProxy, bucket: str) -> Iterator[object]:
    direct = s3_server.client()
    direct.put_object(Bucket=bucket, Key="a b/ü+", Body=BODY)
    direct.close()
    through = S3Server(proxy.endpoint, s3_server.access_key, s3_server.secret_key, s3_server.pid)
    made = through.client(read_timeout=10)
    yield made
    made.close()


def test_nothing_changes_on_the_way_without_faults(client, proxy: FaultProxy, bucket: str) -> None:
    assert client.get_object(Bucket=bucket, Key="a b/ü+")["Body"].read() == BODY
    part = client.get_object(Bucket=bucket, Key="a b/ü+", Range="bytes=10-19")
    assert part["Body"].read() == BODY[10:20]
    client.put_object(Bucket=bucket, Key="b", Body=BODY)
    assert [one["Key"] for one in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a b/ü+", "b"]
    assert client.head_object(Bucket=bucket, Key="b")["ContentLength"] == len(BODY)
    client.delete_object(Bucket=bucket, Key="b")
    assert proxy.moved() == {
        ("GET", "a b/ü+", "whole"): 1,
        ("GET", "a b/ü+", "bytes=10-19"): 1,
        ("PUT", "b", "whole"): 1,
    }
    assert proxy.seen[0].got == len(BODY)
    assert all(one.bucket == bucket and one.complete for one in proxy.seen)


def _get(client, bucket: str) -> bytes:
    """What arrives of an object; nothing is asked of checksums."""
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a b/ü+"})
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.read()
    finally:
        connection.close()


def test_a_flipped_byte_comes_in_the_right_length(client, proxy: FaultProxy, bucket: str) -> None:
    proxy.faults = only("flip_down")
    came = _get(client, bucket)
    assert len(came) == len(BODY)
    assert sum(one != other for one, other in zip(came, BODY, strict=True)) == 1


@pytest.mark.parametrize("kind", ["cut_down", "lie_long"])
def test_what_is_torn_is_seen_by_its_length(client, proxy: FaultProxy, bucket: str, kind: str) -> None:
    proxy.faults = only(kind)
    with pytest.raises(http.client.IncompleteRead):
        _get(client, bucket)
    assert not proxy.seen[-1].complete


def test_a_short_answer_looks_whole(client, proxy: FaultProxy, bucket: str) -> None:
    proxy.faults = only("lie_short")
    came = _get(client, bucket)
    assert BODY.startswith(came)
    assert len(came) < len(BODY)


def test_lost_requests_differ_from_lost_answers(client, proxy: FaultProxy, bucket: str) -> None:
    from botocore.exceptions import ConnectionClosedError

    for kind, key in [("drop", "dropped"), ("lose", "lost"), ("cut_up", "cut")]:
        proxy.faults = only(kind)
        with pytest.raises(ConnectionClosedError):
            client.put_object(Bucket=bucket, Key=key, Body=BODY)
    proxy.heal()
    assert [one["Key"] for one in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a b/ü+", "lost"]


def test_the_server_refuses_what_was_spoilt_on_the_way_up(client, proxy: FaultProxy, bucket: str) -> None:
    proxy.faults = only("flip_up")
    with pytest.raises(client.exceptions.ClientError, match="BadDigest"):
        client.put_object(Bucket=bucket, Key="b", Body=BODY, ChecksumAlgorithm="SHA256")


def test_a_storm_lasts_and_passes(client, proxy: FaultProxy, bucket: str) -> None:
    proxy.faults = only("slow_down", storm=3)
    for _ in range(4):
        with pytest.raises(client.exceptions.ClientError, match="SlowDown"):
            client.list_objects_v2(Bucket=bucket)
        proxy.faults = Faults()
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 1


def test_an_object_can_be_changed_between_two_requests(
    client, s3_server: S3Server, proxy: FaultProxy, bucket: str
) -> None:
    direct = s3_server.client()
    count = itertools.count()

    def change(seen: Seen) -> None:
        if seen.moves and next(count) == 1:
            direct.put_object(Bucket=bucket, Key="a b/ü+", Body=b"new")

    proxy.before = change
    assert _get(client, bucket) == BODY
    assert _get(client, bucket) == b"new"
    direct.close()


def test_the_seed_decides_whatever_the_order_is(s3_server: S3Server) -> None:
    faults = Faults(**dict.fromkeys(KINDS, 0.1))
    requests = [("GET", f"key-{number}") for number in range(50)]

    def fates(seed: int, order: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
        with FaultProxy(
            s3_server.endpoint, seed=seed, faults=faults.__class__(**{**vars(faults), "storm": 0})
        ) as one:
            return {asked: one.choose(Seen(asked[0], "b", asked[1], {}, ""))[0] for asked in order}

    assert fates(1, requests) == fates(1, requests[::-1])
    assert fates(1, requests) != fates(2, requests)
    assert Faults.mixture(3) == Faults.mixture(3)
