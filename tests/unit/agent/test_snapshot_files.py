"""Files of snapshots to a bucket and to a folder and back: whole, proven, and no more than needed."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runctl.agent import in_parts, incoming, packs
from runctl.agent.bucket_store import BucketStore
from runctl.agent.failures import SourceChanged, StoreAway, StoreDenied, StoreRefused
from runctl.agent.imds import Metadata
from runctl.agent.placed import CHANGED, MISSING, Fault, Placed, ToFetch, ToPut
from runctl.agent.store import FolderStore

KIB = 1024
PART = 16 * KIB
PREFIX = "runctl/jobs/job/checkpoints/"


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_parts, "PART", PART)
    monkeypatch.setattr("runctl.agent.outgoing.IN_PARTS_FROM", 2 * PART)


@pytest.fixture
def store(bucket: Any, monkeypatch: pytest.MonkeyPatch, small_parts: None) -> Iterator[BucketStore]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    made = BucketStore("bucket", "runctl/jobs/job", "us-east-1", Metadata())
    yield made
    made._bucket.close()


@pytest.fixture(params=["bucket", "folder"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "bucket":
        return request.getfixturevalue("store")
    return FolderStore(str(tmp_path / "job"))


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[[str, bytes], tuple[IO[bytes], int]]]:
    """Open a file of these bytes; how many they are."""
    files: list[IO[bytes]] = []

    def write(name: str, data: bytes) -> tuple[IO[bytes], int]:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files.append(path.open("rb"))
        return files[-1], len(data)

    yield write
    for file in files:
        file.close()


def send(store: Any, at: str, opened: tuple[IO[bytes], int], base: Placed | None = None) -> Placed:
    ((_, outcome),) = store.send_files([ToPut(at, lambda: opened, base=base)])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def sent(bucket: Any) -> int:
    """The bytes that were put by now."""
    return sum(size for method, _, size in bucket.asked if method == "PUT")


def fetched(store: Any, placed: Placed, path: Path) -> bytes:
    path.unlink(missing_ok=True)
    assert store.fetch_files([ToFetch(placed, str(path))]) is None
    return path.read_bytes()


@pytest.mark.parametrize("size", [0, 1, PART, 2 * PART - 1, 2 * PART, 5 * PART + 17])
def test_what_comes_back_is_what_was_sent(either, written, tmp_path, size):
    data = os.urandom(size)
    placed = send(either, "000001-a/checkpoints/a", written("a", data))
    assert (placed.at, placed.size) == ("000001-a/checkpoints/a", size)
    assert fetched(either, placed, tmp_path / "back") == data


def test_a_file_in_parts_is_known_by_the_sha_256_of_each(store, written):
    data = os.urandom(3 * PART + 5)
    placed = send(store, "000001-a/checkpoints/a", written("a", data))
    pieces = [hashlib.sha256(data[at : at + PART]).digest() for at in range(0, len(data), PART)]
    assert placed == Placed(
        "000001-a/checkpoints/a",
        len(data),
        hashlib.sha256(b"".join(pieces)).hexdigest(),
        PART,
        b"".join(pieces),
    )


def test_of_a_changed_file_only_the_changed_parts_are_sent(store, bucket, written, tmp_path):
    data = bytearray(os.urandom(10 * PART + 100))
    base = send(store, "000001-a/checkpoints/a", written("a", data))
    data[3 * PART + 7] ^= 1
    data += os.urandom(PART)
    before = sent(bucket)
    placed = send(store, "000002-a/checkpoints/a", written("b", data), base)
    assert sent(bucket) - before == PART + PART + 100  # the fourth, what was the last, and what is it now
    assert len(bucket.copied) == 9
    assert fetched(store, placed, tmp_path / "back") == data
    assert fetched(store, base, tmp_path / "back") != data


@pytest.mark.parametrize("size", [100, 4 * PART])
def test_of_an_unchanged_file_nothing_is_sent(store, bucket, written, size):
    data = os.urandom(size)
    base = send(store, "000001-a/checkpoints/a", written("a", data))
    before = len(bucket.asked)
    assert send(store, "000002-a/checkpoints/a", written("b", data), base) == base
    assert len(bucket.asked) == before


def test_a_file_that_was_cut_at_a_parts_end_is_another(store, written, tmp_path):
    data = os.urandom(4 * PART)
    base = send(store, "000001-a/checkpoints/a", written("a", data))
    placed = send(store, "000002-a/checkpoints/a", written("b", data[: 3 * PART]), base)
    assert placed.at != base.at
    assert fetched(store, placed, tmp_path / "back") == data[: 3 * PART]


@pytest.mark.parametrize("trouble", ["no copies", "gone", "others", "others by md5", "md5"])
def test_where_the_store_cannot_copy_the_parts_are_sent(store, bucket, written, tmp_path, trouble):
    data = bytearray(os.urandom(6 * PART))
    base = send(store, "000001-a/checkpoints/a", written("a", data))
    bucket.copies = {"no copies": "none", "md5": "md5", "others by md5": "md5"}.get(trouble, "sha256")
    if trouble == "gone":
        del bucket.objects[PREFIX + base.at]
    if trouble.startswith("others"):
        bucket.objects[PREFIX + base.at] = os.urandom(len(data))
    data[0] ^= 1
    before = sent(bucket)
    placed = send(store, "000002-a/checkpoints/a", written("b", data), base)
    assert sent(bucket) - before == (PART if trouble == "md5" else 6 * PART)
    assert bucket.objects[PREFIX + placed.at] == data
    assert fetched(store, placed, tmp_path / "back") == data


def test_a_files_trouble_is_its_own(either, written, tmp_path):
    def missing() -> tuple[IO[bytes], int]:
        raise FileNotFoundError(2, "No such file or directory")

    def changed() -> None:
        raise SourceChanged("it was written to")

    items = [
        ToPut("000001-a/checkpoints/a", lambda: written("a", b"a")),
        ToPut("000001-a/checkpoints/b", missing),
        ToPut("000001-a/checkpoints/c", lambda: written("c", b"c"), changed),
        ToPut("000001-a/checkpoints/d", lambda: written("d", bytes(4 * PART)), changed),
        ToPut("000001-a/checkpoints/e", lambda: written("e", b"e")),
    ]
    came = dict(either.send_files(items))
    kinds = [type(came[number]) for number in range(5)]
    assert kinds == [Placed, FileNotFoundError, SourceChanged, SourceChanged, Placed]
    assert fetched(either, came[4], tmp_path / "back") == b"e"


def test_what_the_store_refuses_of_one_file_is_that_files_trouble(store, bucket, written):
    bucket.refused = lambda key: key.endswith("/b")
    items = [
        ToPut(f"000001-a/checkpoints/{name}", lambda name=name, size=size: written(name, bytes(size)))
        for name, size in (("a", 1), ("b", 4 * PART), ("c", 5 * PART))
    ]
    came = dict(store.send_files(items))
    assert [type(came[number]) for number in range(3)] == [Placed, StoreDenied, Placed]


def test_a_store_that_is_away_is_no_files_trouble(store, bucket, written, monkeypatch):
    monkeypatch.setattr("runctl.agent.multipart.TRIES_OF_A_PART", 2)
    monkeypatch.setattr("runctl.agent.outgoing.TRIES", 2)
    bucket.away = True
    files = {number: written(str(number), bytes(4 * PART)) for number in range(4)}
    items = [
        ToPut(f"000001-a/checkpoints/{number}", lambda file=file: file) for number, file in files.items()
    ]
    with pytest.raises(StoreAway):
        list(store.send_files(items))
    assert not [one for one in threading.enumerate() if one.name.startswith("store")]  # nobody reads any more


def test_many_small_files_go_in_few_objects(store, bucket, written, tmp_path):
    contents = [os.urandom(number % 700) for number in range(packs.MANY * 4)]
    at = "000001-a/outputs/%d"
    ended: list[int] = []
    items = [
        ToPut(at % number, lambda n=number: written(str(n), contents[n]), lambda n=number: ended.append(n))
        for number in range(len(contents))
    ]
    placed = dict(store.send_files(items))
    assert len(bucket.objects) == 1
    assert sorted(ended) == list(range(len(contents)))
    again = [item._replace(at="000002-a/outputs/x", base=placed[n]) for n, item in enumerate(items)]
    assert dict(store.send_files(again)) == placed
    assert len(bucket.objects) == 1
    wanted = [number for number in placed if number % 3]
    fetching = [ToFetch(placed[number], str(tmp_path / f"back-{number}")) for number in wanted]
    assert store.fetch_files(fetching) is None
    for number in wanted:
        assert (tmp_path / f"back-{number}").read_bytes() == contents[number]
    assert sum(method == "GET" for method, _, _ in bucket.asked) == 1


def test_a_file_in_a_pack_that_grows_large_is_sent_by_itself(store, bucket, written, tmp_path):
    base = Placed(packs.place_in(packs.new_place("000001-a", 1), 0), 1, hashlib.sha256(b"x").hexdigest())
    data = os.urandom(3 * PART)
    placed = send(store, "000002-a/checkpoints/a", written("a", data), base)
    assert fetched(store, placed, tmp_path / "back") == data


@pytest.mark.parametrize("size", [100, 4 * PART])
def test_what_is_missing_and_what_is_wrong_is_told(either, bucket, written, tmp_path, size):
    data = os.urandom(size)
    items = []
    for number in range(3):
        placed = send(either, f"00000{number}-a/checkpoints/a", written("a", data))
        items.append(ToFetch(placed, str(tmp_path / str(number))))

    def lie(at: str, change: Callable[[bytes], bytes] | None) -> None:
        if isinstance(either, BucketStore):
            stored = bucket.objects.pop(PREFIX + at)
            bucket.objects.update({PREFIX + at: change(stored)} if change else {})
            return
        path = tmp_path / "job/committed" / at
        stored = path.read_bytes()
        path.unlink()
        if change:
            path.write_bytes(change(stored))

    def fetch() -> Fault | None:
        for item in items:
            Path(item.path).unlink(missing_ok=True)
        return either.fetch_files(items)

    assert fetch() is None
    lie(items[1].placed.at, lambda stored: stored[:-1] + bytes([stored[-1] ^ 1]))
    assert fetch() == Fault(1, CHANGED)
    lie(items[1].placed.at, lambda stored: stored[: size // 2])
    assert fetch() == Fault(1, CHANGED)
    lie(items[1].placed.at, None)
    assert fetch() == Fault(1, MISSING)


def test_a_range_that_comes_torn_or_wrong_is_asked_for_again(store, bucket, written, tmp_path):
    data = os.urandom(8 * PART)
    placed = send(store, "000001-a/checkpoints/a", written("a", data))
    bucket.bends = {1: lambda body: body[:-7], 2: lambda body: b"x" + body[1:], 5: lambda body: b""}
    assert fetched(store, placed, tmp_path / "back") == data
    assert not bucket.bends


def test_a_disk_that_takes_no_more_is_no_fault_of_the_store(store, written, tmp_path, monkeypatch):
    data = os.urandom(4 * PART)
    placed = send(store, "000001-a/checkpoints/a", written("a", data))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(incoming.os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        store.fetch_files([ToFetch(placed, str(tmp_path / "back"))])


def test_a_bucket_sends_nothing_of_a_file_that_is_written_over_meanwhile(store, bucket, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(6 * PART))

    def write_over(method: str, key: str) -> None:
        if method == "POST":
            path.write_bytes(b"1" * 6 * PART)

    bucket.delay = write_over
    with path.open("rb") as file, pytest.raises((StoreRefused, SourceChanged)):
        send(store, "000001-a/checkpoints/a", (file, 6 * PART))
    assert not bucket.objects
    assert not bucket.uploads


def test_a_part_that_comes_spoilt_is_sent_again_if_the_file_is_what_it_was(store, bucket, written, tmp_path):
    data = os.urandom(6 * PART)
    spoilt = (400, b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>")

    def spoil(method: str, key: str) -> None:
        if method == "POST":
            bucket.faults = [spoilt, spoilt]
            bucket.delay = lambda method, key: None

    bucket.delay = spoil
    placed = send(store, "000001-a/checkpoints/a", written("a", data))
    assert not bucket.faults
    assert fetched(store, placed, tmp_path / "back") == data


def test_an_upload_in_parts_that_is_refused_is_aborted(store, bucket, written):
    def refuse(method: str, key: str) -> None:
        if method == "PUT":
            bucket.faults = [(403, b"no")]

    bucket.delay = refuse
    with pytest.raises(StoreRefused):
        send(store, "000001-a/checkpoints/a", written("a", bytes(6 * PART)))
    assert not bucket.objects
    assert bucket.aborted or bucket.uploads  # the abort itself may meet the refusal


@pytest.mark.parametrize("size", [100, 4 * PART])
def test_a_file_that_shrinks_before_it_is_sent_is_told(either, bucket, written, size):
    file, _ = written("a", bytes(size))
    with pytest.raises(SourceChanged):
        send(either, "000001-a/checkpoints/a", (file, size + 1))
    assert not bucket.objects


def test_a_file_that_is_moved_over_while_it_is_sent_is_sent_as_it_was(store, bucket, written, tmp_path):
    opened = written("a", b"old")
    bucket.faults = [(503, b"")]

    def swap(*_: object) -> None:
        (tmp_path / "b").write_bytes(b"new")
        (tmp_path / "b").rename(tmp_path / "source/a")

    bucket.delay = swap
    placed = send(store, "000001-a/checkpoints/a", opened)
    assert bucket.objects[PREFIX + placed.at] == b"old"


def test_each_snapshot_in_a_folder_is_complete_by_itself(tmp_path, written):
    store = FolderStore(str(tmp_path / "job"))
    placed = send(store, "000001-a/checkpoints/a", written("a", b"data"))
    store.link(placed.at, "000002-b/checkpoints/a")
    same = send(store, "000003-c/checkpoints/a", written("b", b"data"), placed)
    store.keep_only(["000002-b", "000003-c"])
    kept = [tmp_path / "job/committed" / at / "checkpoints/a" for at in ("000002-b", "000003-c")]
    assert [path.read_bytes() for path in kept] == [b"data", b"data"]
    assert kept[0].stat().st_ino == kept[1].stat().st_ino
    assert fetched(store, same, tmp_path / "back") == b"data"
    assert (tmp_path / "back").stat().st_ino != kept[0].stat().st_ino  # a script may write to it in place


def test_where_a_file_system_has_no_links_a_snapshot_has_copies(tmp_path, written, monkeypatch):
    store = FolderStore(str(tmp_path / "job"))
    placed = send(store, "000001-a/checkpoints/a", written("a", b"data"))

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store.link(placed.at, "000002-b/checkpoints/a")
    assert (tmp_path / "job/committed/000002-b/checkpoints/a").read_bytes() == b"data"


def test_a_full_disk_of_the_folder_is_not_the_files_trouble(tmp_path, written, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runctl.agent.copies.os.fsync", full)
    store = FolderStore(str(tmp_path / "job"))
    with pytest.raises(OSError, match="No space left"):
        list(store.send_files([ToPut("000001-a/checkpoints/a", lambda: written("a", b"data"))]))
    assert [path for path in (tmp_path / "job").rglob("*") if path.is_file()] == []


def test_connections_that_the_server_ended_meanwhile_cost_no_tries(store, bucket, monkeypatch):
    monkeypatch.setattr("runctl.agent.s3.TRIES", 1)
    client = store._bucket
    for _ in range(3):
        client.put("a", b"data")
    waiting = list(client._idle)
    assert waiting
    for connection in waiting:
        connection.sock.shutdown(2)
    assert client.put("b", b"data", tries=1)


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 2**20)),
        st.tuples(st.just("grow"), st.integers(1, 3 * PART)),
        st.tuples(st.just("cut"), st.integers(1, 3 * PART)),
        st.tuples(st.just("zero"), st.integers(0, 2**20)),
        st.tuples(st.just("move"), st.integers(1, PART)),
        st.tuples(st.just("align"), st.just(0)),
    ),
    max_size=3,
)


def changed(data: bytes, kind: str, number: int) -> bytes:
    if kind == "grow":
        return data + os.urandom(number)
    if kind == "cut":
        return data[: max(0, len(data) - number)]
    if kind == "move":
        return data[number:] + data[:number]
    if kind == "align":
        return data[: len(data) // PART * PART]
    at = number % max(1, len(data))
    if kind == "zero":
        return data[:at] + bytes(len(data[at : at + PART])) + data[at + PART :]
    return data[:at] + bytes(byte ^ 1 for byte in data[at : at + 1]) + data[at + 1 :]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    size=st.integers(0, 8 * PART),
    versions=st.lists(CHANGES, min_size=1, max_size=4),
    copies=st.sampled_from(["sha256", "md5", "none"]),
)
def test_whatever_changed_between_versions_each_comes_back_as_it_was(
    store, bucket, tmp_path, size, versions, copies
):
    bucket.copies = copies
    data, base, kept = os.urandom(size), None, []
    source = tmp_path / "source"
    for number, changes in enumerate([[], *versions]):
        for change in changes:
            data = changed(data, *change)
        source.write_bytes(data)
        before = sent(bucket)
        with source.open("rb") as file:
            base = send(store, f"{number:06}-a/checkpoints/a", (file, len(data)), base)
        if kept and data == kept[-1][1]:
            assert sent(bucket) == before
        assert sent(bucket) - before <= len(data) or copies != "sha256"
        kept.append((base, data))
    for placed, wanted in kept:
        assert fetched(store, placed, tmp_path / "back") == wanted
    assert not bucket.problems
    assert not bucket.uploads
