"""Presigned URLs over HTTP: what passes by itself is asked again, what does not has its own name."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from runctl.agent.failures import PreconditionFailed, StoreRefused
from runctl.agent.presigned import Courier, Expired, Missing, Stopped


class Shop(ThreadingHTTPServer):
    """Answers each request with the next of `answers`: a status, a body, and how much of it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Counter)
        self.answers: list[tuple[int, bytes, int | None]] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/key?X-Amz-Signature=abc"


class _Counter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Shop

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        status, data, sent = self.server.answers.pop(0) if self.server.answers else (200, b"data", None)
        self.send_response(status)
        self.send_header("ETag", '"tag"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:sent])
        if sent is not None:
            self.close_connection = True

    do_GET = do_PUT = answer  # noqa: N815 (the base class names them)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def courier() -> Iterator[Courier]:
    found = Courier()
    yield found
    found.close()


def test_one_connection_serves_many_requests(shop: Shop, courier: Courier) -> None:
    for _ in range(5):
        assert courier.get(shop.url) == b"data"
    assert shop.connections == 1
    assert shop.asked[0][1] == "/key?X-Amz-Signature=abc"


def test_an_upload_carries_what_s3_checks(shop: Shop, courier: Courier) -> None:
    assert courier.put(shop.url, b"bytes") == "tag"
    method, _, headers, body = shop.asked[0]
    assert (method, body) == ("PUT", b"bytes")
    assert base64.b64decode(headers["Content-MD5"]) == hashlib.md5(b"bytes").digest()


def test_a_piece_is_asked_for_by_range_and_state(shop: Shop, courier: Courier) -> None:
    shop.answers = [(206, b"abcd", None)]
    assert courier.get(shop.url, (8, 4), "state") == b"abcd"
    headers = shop.asked[0][2]
    assert (headers["Range"], headers["If-Match"]) == ("bytes=8-11", '"state"')


@pytest.mark.parametrize(
    "bad",
    [
        (503, b"<Code>SlowDown</Code>", None),
        (500, b"", None),
        (200, b"half of it", 4),
        (200, b"", 0),
        (400, b"<Code>BadDigest</Code>", None),
    ],
)
def test_what_passes_is_asked_again(shop: Shop, courier: Courier, bad: tuple[int, bytes, int | None]) -> None:
    shop.answers = [bad, bad, (206, b"data", None)]
    assert courier.get(shop.url, (0, 4)) == b"data"
    assert len(shop.asked) == 3


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b"", Missing),
        (412, b"", PreconditionFailed),
        (403, b"<Message>Request has expired</Message>", Expired),
        (400, b"<Code>ExpiredToken</Code>", Expired),
        (403, b"<Code>AccessDenied</Code>", StoreRefused),
    ],
)
def test_what_does_not_pass_has_its_own_name(
    shop: Shop, courier: Courier, status: int, body: bytes, error: type[Exception]
) -> None:
    shop.answers = [(status, body, None)]
    with pytest.raises(error) as caught:
        courier.get(shop.url)
    assert type(caught.value) is error
    assert len(shop.asked) == 1


def test_who_is_told_to_stop_does_not_try_again(shop: Shop) -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(Stopped):
        Courier(stopping).get(shop.url)
    assert shop.asked == []
