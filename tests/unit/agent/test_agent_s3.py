"""The agent's own S3 client against a server that computes every signature with botocore."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest

from runctl.agent import s3
from runctl.agent.credentials import Credentials, parse_time
from runctl.agent.failures import PreconditionFailed, StoreAway, StoreRefused
from runctl.agent.imds import Metadata


@pytest.fixture
def client(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    made = s3.Bucket("bucket", "us-east-1", Credentials(Metadata()))
    yield made
    made.close()


@pytest.mark.parametrize("key", ["plain", "a b/c+d=e&f", "ünï/✓", "a~b!c(d)", "a//b", "x:y@z"])
def test_keys_of_every_kind_are_signed_as_botocore_signs_them(client, bucket, key):
    client.put(key, b"data")
    assert client.get(key) == b"data"
    assert [(item.key, item.size) for item in client.list(key)] == [(key, 4)]


def test_a_missing_object_is_none(client, tmp_path):
    assert client.get("no") is None
    assert client.get_file("no", str(tmp_path / "x")) is False


def test_a_place_that_cannot_be_written_is_no_fault_of_the_store(client, bucket, tmp_path):
    client.put("a", b"data")
    asked = []
    bucket.delay = lambda method, key: asked.append(key)
    with pytest.raises(FileNotFoundError):
        client.get_file("a", str(tmp_path / "no" / "a"))
    assert asked == ["a"]
    assert client.get("a") == b"data"


def test_a_listing_has_every_page(client, bucket):
    bucket.objects.update({f"p/{number:02}": b"x" for number in range(8)})
    assert [item.key for item in client.list("p/")] == [f"p/{number:02}" for number in range(8)]


def test_conditional_writes_tell_who_came_second(client):
    tag = client.put("a", b"1", if_absent=True)
    with pytest.raises(PreconditionFailed):
        client.put("a", b"2", if_absent=True)
    client.put("a", b"2", if_match=tag)
    with pytest.raises(PreconditionFailed):
        client.put("a", b"3", if_match=tag)
    assert client.get("a") == b"2"


def test_a_refusal_is_told_apart_from_absence(client, bucket):
    bucket.faults = [(403, b"<Code>AccessDenied</Code>")]
    with pytest.raises(StoreRefused, match="AccessDenied"):
        client.get("a")
    bucket.faults = [(503, b"")] * 4
    with pytest.raises(StoreAway):
        client.get("a")


def test_role_credentials_are_fetched_renewed_and_forgotten_when_outdated(
    bucket, metadata, monkeypatch, tmp_path
):
    import json

    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.url)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
    keys = {"AccessKeyId": "AKIATEST", "SecretAccessKey": "secret", "Token": "t"}
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1200))
    metadata.items["iam/security-credentials/"] = "role"
    metadata.items["iam/security-credentials/role"] = json.dumps({**keys, "Expiration": soon})
    credentials = Credentials(Metadata())
    client = s3.Bucket("bucket", "us-east-1", credentials)
    client.put("a", b"1")
    client.put("a", b"2")
    assert metadata.asked.count("iam/security-credentials/role") == 1
    assert credentials.get().expires == parse_time(soon)
    bucket.faults = [(400, b"<Code>ExpiredToken</Code>")]
    client.put("a", b"3")
    assert metadata.asked.count("iam/security-credentials/role") == 2
    client.close()


def test_without_an_endpoint_the_bucket_is_a_virtual_host(monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    client = s3.Bucket("mine", "eu-west-1", Credentials(Metadata()))
    path, headers = client._signed("GET", "k/é", {"list-type": "2"}, {}, "0")
    assert headers["Host"] == "mine.s3.eu-west-1.amazonaws.com"
    assert path == "/k/%C3%A9?list-type=2"


def test_times_of_the_cloud_are_read():
    assert parse_time("1970-01-01T00:01:00Z") == 60
    assert parse_time("1970-01-01T00:01:00.250Z") == 60
    assert parse_time("None") is None


class DropsOld:
    """A store that serves the first request of each connection, and drops the connection at its second."""

    def __init__(self) -> None:
        self.connections = 0
        self.hurdle = threading.Barrier(1)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            self._read(connection)
            self.hurdle.wait(20)  # so that each of many has a connection of its own
            connection.sendall(b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: 0\r\n\r\n")
            connection.recv(1)  # the head of the second
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _read(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        length = int(data.lower().partition(b"content-length: ")[2].split()[0])
        while len(data.partition(b"\r\n\r\n")[2]) < length:
            data += connection.recv(65536)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def drops_old(monkeypatch):
    store = DropsOld()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    yield store
    store.close()


def test_old_connections_that_fail_cost_no_try(drops_old):
    """Broken pipe once for each of eight: no count of tries is enough for that, and the store is well."""
    client = s3.Bucket("bucket", "us-east-1", Credentials(Metadata()))
    drops_old.hurdle = threading.Barrier(8)
    threads = [threading.Thread(target=client.put, args=(str(n), b"data")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert drops_old.connections == 8
    drops_old.hurdle = threading.Barrier(1)
    assert client.put("last", b"data", tries=1) == "x"
    assert drops_old.connections == 9
    client.close()


def test_a_connection_that_waited_for_long_is_not_used_again(drops_old, monkeypatch):
    client = s3.Bucket("bucket", "us-east-1", Credentials(Metadata()))
    client.put("a", b"data")
    monkeypatch.setattr(client._idle[0], "idle_since", time.monotonic() - s3.IDLE_SECONDS)
    monkeypatch.setattr("runctl.agent.s3._has_waited", lambda connection: False)  # a failure would count
    assert client.put("b", b"data", tries=1) == "x"
    assert drops_old.connections == 2
    client.close()
