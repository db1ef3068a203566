"""A folder as a staging prefix: each URL opens one object for one method, to whoever has it."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runctl.agent.failures import StoreRefused
from runctl.agent.presigned import Courier, Missing
from runctl.storage.loopback import LoopbackStaging, serving


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[LoopbackStaging]:
    with serving(tmp_path / "staging") as (staging, _):
        yield staging


@pytest.fixture
def courier() -> Iterator[Courier]:
    made = Courier()
    yield made
    made.close()


def ask(method: str, url: str, body: bytes = b"", **headers: str) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request(method, parts.path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_objects_come_as_they_went(staging: LoopbackStaging, courier: Courier) -> None:
    data = os.urandom(3_000_000)
    put, get = staging.sign("PUT", ["a/ä b"])[0], staging.sign("GET", ["a/ä b"])[0]
    with pytest.raises(Missing):
        courier.get(get)
    courier.put(put, data)
    assert courier.get(get) == data
    assert [info.key for info in staging.list()] == ["a/ä b"]
    staging.remove(["a/ä b", "never there"])
    assert list(staging.list()) == []


def test_a_url_opens_nothing_else(staging: LoopbackStaging, courier: Courier) -> None:
    staging.write("one", b"1")
    staging.write("other", b"2")
    put, get = staging.sign("PUT", ["one"])[0], staging.sign("GET", ["one"])[0]
    almost = get[:-5] + ("1" if get[-5] == "0" else "0") + "/one"
    for method, url in (
        ("PUT", get),
        ("GET", put),
        ("GET", get.replace("/one", "/other")),
        ("GET", get.replace("/one", "/")),
        ("GET", get.replace("/one", "/one/../other")),
        ("GET", almost),
        ("GET", f"http://{urlsplit(get).netloc}/"),
    ):
        assert ask(method, url) == 403, (method, url)
    assert ask("DELETE", get) == 501
    assert courier.get(get) == b"1"


def test_a_secret_is_of_one_server(staging: LoopbackStaging, tmp_path: Path, courier: Courier) -> None:
    staging.write("one", b"1")
    with serving(tmp_path / "staging") as (other, port):
        assert courier.get(other.sign("GET", ["one"])[0]) == b"1"
        with pytest.raises(StoreRefused):
            courier.get(staging.at(port).sign("GET", ["one"])[0])


def test_what_comes_spoilt_or_torn_is_not_kept(staging: LoopbackStaging) -> None:
    url = staging.sign("PUT", ["one"])[0]
    assert ask("PUT", url, b"data", **{"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}) == 400
    assert ask("PUT", url, b"data") == 400
    assert ask("PUT", url, b"", **{"Content-Length": str(1 << 40)}) == 413
    assert not staging.exists("one")


def test_a_name_that_leads_out_of_the_folder_is_refused(staging: LoopbackStaging, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    for key in ("../outside", "/etc/hostname"):
        assert ask("GET", staging.sign("GET", [key])[0]) >= 400


def test_many_ask_at_once(staging: LoopbackStaging) -> None:
    data = [os.urandom(100_000) for _ in range(16)]
    found: dict[int, bytes] = {}

    def go(number: int) -> None:
        courier = Courier()
        courier.put(staging.sign("PUT", [f"{number}"])[0], data[number])
        found[number] = courier.get(staging.sign("GET", [f"{number}"])[0])
        courier.close()

    threads = [threading.Thread(target=go, args=(number,)) for number in range(len(data))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == dict(enumerate(data))


def test_the_folder_is_the_users_alone(staging: LoopbackStaging) -> None:
    assert staging.root.stat().st_mode & 0o077 == 0
    staging.empty()
    assert not staging.root.exists()
