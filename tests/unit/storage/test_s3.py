from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from runctl.errors import CloudError, ConfigError, NotFound
from runctl.storage.requests import Requests
from runctl.storage.s3 import Credentials, S3Access
from runctl.storage.store import open_store


def test_an_absent_bucket_is_named(access: S3Access) -> None:
    store = open_store("no-such-bucket", "p", access)
    for ask in (lambda: store.read("x"), store.list, lambda: store.write("x", b"")):
        with pytest.raises(NotFound, match="no bucket no-such-bucket"):
            ask()


def test_an_endpoint_that_is_not_there_is_given_up_within_twenty_seconds() -> None:
    access = S3Access("http://127.0.0.1:9", "us-east-1", lambda: Credentials("a", "b"))
    began = time.monotonic()
    with pytest.raises(CloudError) as caught:
        open_store("bucket", "p", access).read("x")
    assert time.monotonic() - began < 20
    assert (caught.value.service, caught.value.operation, caught.value.code) == (
        "s3",
        "GetObject",
        "Unreachable",
    )
    assert caught.value.retryable


def test_an_error_of_the_callers_credentials_comes_through(s3_endpoint: str) -> None:
    def none() -> Credentials:
        raise ConfigError("No AWS credentials", next="aws sso login")

    with pytest.raises(ConfigError, match="No AWS credentials"):
        open_store("bucket", "p", S3Access(s3_endpoint, None, none)).read("x")


def test_a_ctrl_c_while_credentials_are_fetched_is_one(s3_endpoint: str) -> None:
    def interrupted() -> Credentials:
        raise KeyboardInterrupt

    store = open_store("bucket", "p", S3Access(s3_endpoint, "us-east-1", interrupted))
    for ask in (lambda: store.read_if_exists("x"), store.list, lambda: store.write("x", b"")):
        with pytest.raises(KeyboardInterrupt):
            ask()


def test_credentials_near_their_end_are_asked_for_again(
    s3_endpoint: str, new_bucket: Callable[[], str]
) -> None:
    asked: list[int] = []

    def short_lived() -> Credentials:
        asked.append(1)
        return Credentials("a", "b", "token", datetime.now(UTC) + timedelta(seconds=1))

    store = open_store(new_bucket(), "", S3Access(s3_endpoint, None, short_lived))
    store.write("x", b"1")
    deadline = time.monotonic() + 5
    while len(asked) < 2 and time.monotonic() < deadline:
        store.read("x")
    assert len(asked) >= 2


def test_three_keys_in_a_tuple_are_credentials(s3_endpoint: str, new_bucket: Callable[[], str]) -> None:
    store = open_store(new_bucket(), "", S3Access(s3_endpoint, "us-east-1", lambda: ("a", "b", None)))
    store.write("x", b"1")
    assert store.read("x") == b"1"


def test_the_given_endpoint_beats_the_environment(
    access: S3Access, new_bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    store = open_store(new_bucket(), "p", access)
    store.write("x", b"1")
    assert store.read("x") == b"1"


def test_objects_lie_under_the_prefix(boto: Any, access: S3Access, new_bucket: Callable[[], str]) -> None:
    bucket = new_bucket()
    open_store(bucket, "runctl/jobs/j/", access).write("attempt-1/state.json", b"{}")
    keys = [item["Key"] for item in boto.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["runctl/jobs/j/attempt-1/state.json"]


class _Recorder(BaseHTTPRequestHandler):
    """Says yes to everything and keeps the headers that it was sent."""

    seen: ClassVar[list[dict[str, str]]] = []

    def do_PUT(self) -> None:
        self.seen.append(dict(self.headers.items()))
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("etag", '"1"')
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


def test_a_checksum_for_the_bucket_to_verify_goes_along() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Recorder) as server:
        threading.Thread(target=server.serve_forever).start()
        access = S3Access(f"http://127.0.0.1:{server.server_port}", None, lambda: Credentials("a", "b"))
        open_store("bucket", "", access).write("k", b"data")
        server.shutdown()
    sent = {name.lower(): value for name, value in _Recorder.seen[0].items()}
    assert base64.b64decode(sent["x-amz-checksum-sha256"]) == hashlib.sha256(b"data").digest()


ODD_KEYS = [
    "p/a//b",
    "p//a",
    "p/a/../b",
    "p/a/./b",
    "p/tail/",
    "p/" + "n" * 1022,
    "p/c\x01\x1b[2J",
    "p/\u202ex",
]


def test_a_listing_holds_each_key_to_the_letter(
    boto: Any, access: S3Access, new_bucket: Callable[[], str]
) -> None:
    bucket = new_bucket()
    for key in [*ODD_KEYS, "p/good", "/p/none", "pp"]:
        boto.put_object(Bucket=bucket, Key=key, Body=b"x")
    store = open_store(bucket, "p", access)
    assert [item.key for item in store.list()] == sorted([key[2:] for key in ODD_KEYS] + ["good"])
    assert [item.key for item in store.list("a")] == ["a/../b", "a/./b", "a//b"]
    assert [item.key for item in store.list(after="n")] == sorted(["n" * 1022, "tail/", "\u202ex"])
    with pytest.raises(NotFound, match="no bucket"):
        open_store("none-at-all", "p", access).list()


def test_a_machine_lists_each_key_to_the_letter(
    boto: Any, access: S3Access, new_bucket: Callable[[], str]
) -> None:
    bucket = new_bucket()
    for key in [*ODD_KEYS, "p/good"]:
        boto.put_object(Bucket=bucket, Key=key, Body=b"x")
    listed = Requests(bucket, access).client.list("p/")
    assert sorted(item.key for item in listed) == sorted([*ODD_KEYS, "p/good"])
