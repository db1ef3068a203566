"""Transfers where exactly one thing goes wrong, at the worst place for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, Seen, only
from s3_server import S3Server

from runctl.agent import s3 as agent_s3
from runctl.events import Event, Notice
from runctl.retry import RetryPolicy
from runctl.storage import transfer, tries, upload
from runctl.storage.bulk import BulkStore
from runctl.storage.s3 import Credentials, S3Access
from runctl.storage.transfer import TransferOptions, TransferReport

BIG = hashlib.shake_256(b"big").digest(18 << 20)
SMALL = b"small"
FILES = {"big": BIG, "small": SMALL}


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def hurried(attempts: int, seconds: float) -> RetryPolicy:
        return RetryPolicy(attempts=attempts, seconds=seconds, first_wait=0.01, longest_wait=0.1)

    monkeypatch.setattr(tries, "RetryPolicy", hurried)
    real = agent_s3.time.sleep
    monkeypatch.setattr(agent_s3.time, "sleep", lambda seconds: real(seconds / 20))


class Place:
    """A folder, a bucket, and a proxy between them."""

    def __init__(self, server: S3Server, proxy: FaultProxy, folder: Path) -> None:
        self.client = server.client()
        self.bucket = server.new_bucket()
        self.proxy = proxy
        self.folder = folder / "data"
        self.events: list[Event] = []
        keys = Credentials(server.access_key, server.secret_key)
        access = S3Access(endpoint=proxy.endpoint, region="us-east-1", credentials=lambda: keys)
        self.store = BulkStore(self.bucket, "data", access)
        self.options = TransferOptions(state=folder / "state", parallel=4)

    def up(self) -> TransferReport:
        self.folder.mkdir(exist_ok=True)
        for name, data in FILES.items():
            (self.folder / name).write_bytes(data)
        plan = transfer.plan_upload(self.folder, self.store, self.options)
        return transfer.carry_out(plan, emit=self.events.append)

    def fill(self) -> None:
        from boto3.s3.transfer import TransferConfig

        for name, data in FILES.items():
            path = self.folder.with_name("body")
            path.write_bytes(data)
            parts = TransferConfig(multipart_chunksize=8 << 20)
            self.client.upload_file(str(path), self.bucket, f"data/{name}", Config=parts)

    def down(self, *, verify: bool = True) -> TransferReport:
        options = TransferOptions(state=self.options.state, parallel=4, verify=verify)
        return transfer.carry_out(
            transfer.plan_download(self.store, self.folder, options), emit=self.events.append
        )

    def objects(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        keys = [one["Key"] for one in listed]
        return {
            key.removeprefix("data/"): self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            for key in keys
        }

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def open_uploads(self) -> int:
        return len(self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))

    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


@pytest.fixture
def place(s3_server: S3Server, tmp_path: Path) -> Iterator[Place]:
    with FaultProxy(s3_server.endpoint) as proxy:
        made = Place(s3_server, proxy, tmp_path)
        yield made
        made.store.close()
        made.client.close()


def _first(kind: str, wanted: Callable[[Seen], bool], times: int = 1) -> Callable[[Seen], str]:
    """The fault for the first requests that are wanted."""
    left = [kind] * times

    def script(seen: Seen) -> str:
        return left.pop() if left and wanted(seen) else ""

    return script


def _begins(seen: Seen) -> bool:
    return seen.method == "POST" and "uploads" in seen.query


def _completes(seen: Seen) -> bool:
    return seen.method == "POST" and "uploadId" in seen.query


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("lose", _begins),
        ("drop", _begins),
        ("lose", _completes),
        ("broken", _completes),
        ("flip_up", lambda seen: seen.query.get("partNumber") == "2"),
        ("lose", lambda seen: seen.query.get("partNumber") == "1"),
        ("flip_up", lambda seen: seen.key.endswith("small")),
        ("lie_short", lambda seen: "list-type" in seen.query),
    ],
)
def test_an_upload_outlasts(place: Place, kind: str, where: Callable[[Seen], bool]) -> None:
    place.proxy.script = _first(kind, where)
    report = place.up()
    assert any(one.fault == kind for one in place.proxy.seen), "the fault came to nothing"
    assert report.failed == ()
    assert place.objects() == FILES
    assert place.open_uploads() == 0


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("flip_down", lambda seen: seen.range.startswith("bytes=8388608-")),
        ("cut_down", lambda seen: seen.range.startswith("bytes=8388608-")),
        ("lie_short", lambda seen: seen.range.startswith("bytes=8388608-")),
        ("flip_down", lambda seen: seen.key.endswith("small")),
        ("lie_long", lambda seen: seen.key.endswith("small") and seen.method == "GET"),
        ("lie_short", lambda seen: seen.key.endswith("small") and seen.method == "GET"),
        ("cut_down", lambda seen: "list-type" in seen.query),
    ],
)
def test_a_download_outlasts(place: Place, kind: str, where: Callable[[Seen], bool]) -> None:
    place.fill()
    place.proxy.script = _first(kind, where)
    report = place.down()
    assert any(one.fault == kind for one in place.proxy.seen), "the fault came to nothing"
    assert report.failed == ()
    assert place.files() == FILES


def test_what_always_comes_spoilt_is_named_and_leaves_nothing(place: Place) -> None:
    place.fill()
    place.proxy.faults = only("flip_down")
    assert {one.name for one in place.down().failed} == set(FILES)
    assert place.files() == {}


def test_the_proxy_would_deliver_wrong_files_if_nobody_looked(place: Place) -> None:
    place.fill()
    place.proxy.faults = only("flip_down")
    assert place.down(verify=False).failed == ()
    assert all(place.files()[name] != data for name, data in FILES.items())


def test_what_always_arrives_spoilt_is_named_and_leaves_nothing(place: Place) -> None:
    place.proxy.faults = only("flip_up")
    assert {one.name for one in place.up().failed} == set(FILES)
    assert place.objects() == {}
    assert place.open_uploads() == 0


def test_an_object_that_changes_between_two_parts_starts_anew(place: Place) -> None:
    place.fill()
    fresh = BIG[::-1]
    changed: list[int] = []

    def change(seen: Seen) -> None:
        if seen.range.startswith("bytes=8388608-") and not changed:
            changed.append(1)
            place.client.put_object(Bucket=place.bucket, Key="data/big", Body=fresh)

    place.proxy.before = change
    report = place.down()
    assert report.failed == ()
    assert place.files() == {"big": fresh, "small": SMALL}
    assert any("changed while it was fetched" in text for text in place.notices())


def test_an_upload_that_was_asked_for_and_never_answered_is_closed_the_next_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the answer and its record."""

    with monkeypatch.context() as dying:
        dying.setattr(
            upload.msgspec.structs, "replace", _killed_at_the_answer(upload.msgspec.structs.replace)
        )
        with pytest.raises(KeyboardInterrupt):
            place.up()
    assert place.open_uploads() == 1
    assert place.up().failed == ()
    assert place.open_uploads() == 0
    assert place.objects() == FILES


def _killed_at_the_answer(real: Callable[..., object]) -> Callable[..., object]:
    def replace(value: object, **changes: object) -> object:
        if "upload" in changes:
            raise KeyboardInterrupt
        return real(value, **changes)

    return replace
