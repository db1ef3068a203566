"""Files of snapshots when their store lost what it had, its answers get lost, or the network fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy, Faults, Seen
from s3_server import S3Server

from runctl.agent.bucket_store import BucketStore
from runctl.agent.failures import StoreAway, StoreRefused
from runctl.agent.imds import Metadata
from runctl.agent.in_parts import IN_PARTS_FROM, PART
from runctl.agent.placed import CHANGED, Fault, Placed, ToFetch, ToPut

MIB = 1024 * 1024
SIZE = IN_PARTS_FROM + PART + 12_345
PREFIX = "job/checkpoints/"


@dataclass
class Desk:
    """A bucket of a server's own, and the agent's store on it."""

    bucket: str
    client: Any
    store: BucketStore
    folder: Path
    asked: list[tuple[str, dict[str, str], int]] = field(
        default_factory=list[tuple[str, dict[str, str], int]]
    )
    """Each request's method and query, and the bytes that it carries to the server."""
    is_lost: Callable[[str, dict[str, str]], bool] = lambda _method, _query: False
    """Whether the answer to a request does not come."""
    _count: int = 0
    _open: list[Any] = field(default_factory=list[Any])

    def __post_init__(self) -> None:
        once = self.store._bucket._once

        def watched(method: str, key: str, query: dict[str, str], *more: Any, **how: Any) -> Any:
            content, length = more[1], more[3]
            self.asked.append((method, query, length or (0 if callable(content) else len(content))))
            answer = once(method, key, query, *more, **how)
            if self.is_lost(method, query):
                raise StoreAway("lost")
            return answer

        self.store._bucket._once = watched  # type: ignore[method-assign]

    def send(self, at: str, data: bytes, base: Placed | None = None) -> Placed:
        ((_, outcome),) = self.store.send_files([self.item(at, data, base)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def item(self, at: str, data: bytes, base: Placed | None = None) -> ToPut:
        self._count += 1
        path = self.folder / f"source-{self._count}"
        path.write_bytes(data)
        file = path.open("rb")
        self._open.append(file)
        return ToPut(at, lambda: (file, len(data)), base=base)

    def fetch(self, placed: Placed) -> bytes:
        path = self.folder / "back"
        path.unlink(missing_ok=True)
        assert self.store.fetch_files([ToFetch(placed, str(path))]) is None
        return path.read_bytes()

    def sent(self, do: Callable[[], Placed]) -> tuple[Placed, int]:
        """What comes of it, and how many bytes the server got for it."""
        before = len(self.asked)
        placed = do()
        return placed, sum(size for method, _, size in self.asked[before:] if method == "PUT")

    def left_open(self) -> list[Any]:
        return self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])

    def close(self) -> None:
        self.store._bucket.close()
        for file in self._open:
            file.close()


@pytest.fixture
def desks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(bucket: str, client: Any, endpoint: str, access_key: str, secret_key: str) -> Desk:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
        monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
        made.append(Desk(bucket, client, BucketStore(bucket, "job", "us-east-1", Metadata()), tmp_path))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


@pytest.fixture(params=["seaweedfs", "sandbox"])
def desk(request: pytest.FixtureRequest, desks: Callable[..., Desk]) -> Desk:
    if request.param == "seaweedfs":
        server: S3Server = request.getfixturevalue("s3_server")
        return desks(
            server.new_bucket(), server.client(), server.endpoint, server.access_key, server.secret_key
        )
    cloud = request.getfixturevalue("sandbox_cloud")
    bucket, client, record = cloud.name("snapshots"), cloud.client("s3"), cloud.record
    client.create_bucket(Bucket=bucket)
    return desks(bucket, client, record.s3_endpoint, record.access_key, record.secret_key)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as up:
        yield up


@pytest.fixture
def through(s3_server: S3Server, proxy: FaultProxy, desks: Callable[..., Desk]) -> Desk:
    """A desk whose requests go by the proxy."""
    server = s3_server
    return desks(server.new_bucket(), server.client(), proxy.endpoint, server.access_key, server.secret_key)


def test_a_base_that_somebody_replaced_gives_nothing_to_a_later_version(desk: Desk) -> None:
    data = bytearray(os.urandom(SIZE))
    base = desk.send("000001-a/checkpoints/a", bytes(data))
    desk.client.put_object(Bucket=desk.bucket, Key=PREFIX + base.at, Body=os.urandom(SIZE))
    data[0] ^= 1
    placed, sent = desk.sent(lambda: desk.send("000002-a/checkpoints/a", bytes(data), base))
    assert sent == SIZE
    assert desk.fetch(placed) == data


@pytest.mark.parametrize("left", [0, PART + 1])
def test_a_base_that_is_gone_or_cut_is_no_obstacle(desk: Desk, left: int) -> None:
    data = bytearray(os.urandom(SIZE))
    base = desk.send("000001-a/checkpoints/a", bytes(data))
    if left:
        desk.client.put_object(Bucket=desk.bucket, Key=PREFIX + base.at, Body=bytes(data[:left]))
    else:
        desk.client.delete_object(Bucket=desk.bucket, Key=PREFIX + base.at)
    data[PART] ^= 1
    placed = desk.send("000002-a/checkpoints/a", bytes(data), base)
    assert desk.fetch(placed) == data


@pytest.mark.parametrize("forgets", [False, True], ids=["knows it", "forgets the upload"])
def test_a_completion_whose_answer_is_lost_is_no_reason_to_send_all_again(desk: Desk, forgets: bool) -> None:
    asked: list[str] = []

    def lose(method: str, query: dict[str, str]) -> bool:
        if method != "POST" or "uploadId" not in query:
            return False
        asked.append(method)
        if forgets and len(asked) == 2:
            raise StoreRefused("HTTP 404 NoSuchUpload")
        return len(asked) == 1

    desk.is_lost = lose
    data = os.urandom(SIZE)
    placed, sent = desk.sent(lambda: desk.send("000001-a/checkpoints/a", data))
    assert len(asked) == 2
    assert sent == SIZE
    assert desk.fetch(placed) == data
    assert desk.left_open() == []


def test_a_completion_that_fails_inside_a_good_answer_is_asked_for_again(
    through: Desk, proxy: FaultProxy
) -> None:
    broken: list[Seen] = []

    def break_it(seen: Seen) -> str:
        if seen.method == "POST" and "uploadId" in seen.query and not broken:
            broken.append(seen)
            return "broken"
        return ""

    proxy.script = break_it
    data = os.urandom(SIZE)
    placed, sent = through.sent(lambda: through.send("000001-a/checkpoints/a", data))
    assert broken
    assert sent == SIZE
    assert through.fetch(placed) == data


def test_an_object_that_is_changed_after_it_was_sent_is_told(desk: Desk) -> None:
    data = bytearray(os.urandom(SIZE))
    placed = desk.send("000001-a/checkpoints/a", bytes(data))
    data[SIZE // 2] ^= 1
    desk.client.put_object(Bucket=desk.bucket, Key=PREFIX + placed.at, Body=bytes(data))
    item = ToFetch(placed, str(desk.folder / "back"))
    assert desk.store.fetch_files([item]) == Fault(0, CHANGED)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))]
)
def test_whatever_befalls_requests_what_counts_as_sent_is_there(
    through: Desk, proxy: FaultProxy, seed: int
) -> None:
    data = bytearray(os.urandom(SIZE))
    base = through.send("000001-a/checkpoints/a", bytes(data))
    data[PART + 5] ^= 1
    small = [os.urandom(number) for number in range(80)]
    proxy.seed, proxy.faults = seed, Faults.mixture(seed)
    items = [through.item("000002-a/checkpoints/a", bytes(data), base)]
    items += [through.item(f"000002-a/outputs/{number}", one) for number, one in enumerate(small)]
    contents = [bytes(data), *small]
    placed: dict[int, Placed] = {}
    for _ in range(5):
        left = [number for number in range(len(items)) if number not in placed]
        try:
            for index, outcome in through.store.send_files([items[number] for number in left]):
                if isinstance(outcome, Placed):
                    placed[left[index]] = outcome
        except StoreAway:
            continue
    proxy.heal()
    for number, one in placed.items():
        assert through.fetch(one) == contents[number]
    assert len(placed) == len(items)
