from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from runctl.clock import SystemClock
from runctl.clouds import Cloud
from runctl.errors import CloudError
from runctl.providers.aws.session import Session
from runctl.retry import RetryPolicy


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def failure(server: socket.socket) -> CloudError:
    endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    cloud = Cloud(
        name="sandbox",
        key="sandbox:1",
        clock=SystemClock(),
        region="us-east-1",
        endpoint=endpoint,
        access_key="key",
        secret_key="secret",
    )
    session = Session(cloud, policy=RetryPolicy(attempts=1))
    with pytest.raises(CloudError) as caught:
        session.call("ec2", "create_snapshot", repeatable=False, VolumeId="vol-1")
    session.client("ec2").close()
    return caught.value


def serve_once(server: socket.socket, answer: bytes) -> threading.Thread:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n<Create",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<Create",
    ],
    ids=["closed", "cut short", "unreadable"],
)
def test_a_call_whose_answer_was_lost_may_have_been_carried_out(
    listener: socket.socket, answer: bytes
) -> None:
    server = serve_once(listener, answer)
    error = failure(listener)
    server.join()
    assert error.lost_answer
    assert not error.retryable


def test_a_refusal_and_a_call_that_was_never_sent_lost_no_answer(listener: socket.socket) -> None:
    text = b"<Response><Errors><Error><Code>Nope</Code><Message>no</Message></Error></Errors></Response>"
    server = serve_once(listener, b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
    refused = failure(listener)
    server.join()
    assert (refused.code, refused.lost_answer) == ("Nope", False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        never_sent = failure(unused)
    assert not never_sent.lost_answer
