"""Ranges of objects as they come, against servers that answer something else than they were asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from runctl.errors import CloudError, Conflict
from runctl.storage.bulk import BulkStore
from runctl.storage.s3 import Credentials, S3Access

DATA = bytes(range(256)) * 4096
Answer = Callable[[int, int], tuple[int, int, bytes]]
"""From the first byte and the number of bytes that are asked for: status, Content-Length and body."""


class Server(ThreadingHTTPServer):
    """Answers each GET as `answer` says."""

    daemon_threads = True
    answer: Answer = staticmethod(lambda start, length: (206, length, DATA[start : start + length]))

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def store(self) -> BulkStore:
        endpoint = f"http://127.0.0.1:{self.server_port}"
        access = S3Access(
            endpoint=endpoint, region="us-east-1", credentials=lambda: Credentials("AKID", "secret")
        )
        return BulkStore("bucket", "data", access)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        first, last = (int(text) for text in self.headers["Range"].removeprefix("bytes=").split("-"))
        status, length, body = self.server.answer(first, last + 1 - first)
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = len(body) != length

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.shutdown()
    made.server_close()


def received(store: BulkStore, start: int, length: int) -> bytes:
    found = bytearray()
    store.receive("key", start, length, "etag", found.extend)
    return bytes(found)


def test_a_range_comes_in_pieces_and_the_connection_serves_the_next(server: Server) -> None:
    store = server.store()
    for start, length in ((0, len(DATA)), (1, 300_000), (len(DATA) - 7, 7)):
        assert received(store, start, length) == DATA[start : start + length]
    store.close()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda start, length: (206, length, DATA[: length - 1]), id="cut short"),
        pytest.param(lambda start, length: (206, length - 1, DATA[: length - 1]), id="less than asked for"),
        pytest.param(lambda start, length: (200, len(DATA), DATA), id="the whole instead of a range"),
        pytest.param(lambda start, length: (503, 0, b""), id="busy"),
    ],
)
def test_another_answer_than_the_range_may_be_asked_for_again(server: Server, answer: Answer) -> None:
    server.answer = answer
    store = server.store()
    with pytest.raises(CloudError) as refused:
        received(store, 10, 1000)
    assert refused.value.retryable
    server.answer = Server.answer
    assert received(store, 10, 1000) == DATA[10:1010]
    store.close()


def test_another_object_is_told(server: Server) -> None:
    server.answer = lambda start, length: (412, 0, b"")
    store = server.store()
    with pytest.raises(Conflict):
        received(store, 0, 10)
    store.close()


def test_what_the_taker_raises_is_its_own(server: Server) -> None:
    store = server.store()

    def full(piece: memoryview) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.receive("key", 0, len(DATA), "etag", full)
    assert received(store, 0, 10) == DATA[:10]
    store.close()
