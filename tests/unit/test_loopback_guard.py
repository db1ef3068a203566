"""Who may ask a server of ours on loopback."""

from __future__ import annotations

import ast
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runctl
from runctl import loopback_guard, peers
from runctl.loopback_guard import GuardedHandler, GuardedServer, refusal

OWN = loopback_guard.names(1234)
HOST = ("Host", "127.0.0.1:1234")
GUARD = Path("loopback_guard.py")
LISTENS = {
    *("HTTPServer", "ThreadingHTTPServer", "TCPServer", "ThreadingTCPServer", "UDPServer", "WSGIServer"),
    *("ThreadedWSGIServer", "make_server", "run_simple", "start_server", "create_server"),
}
MAY_LISTEN = {GUARD, Path("sandbox/imds.py"), Path("sandbox/server.py"), Path("sandbox/wire.py")}
"""The sandbox's own ask the guard themselves; the test of strangers finds every port of it by looking."""


class Handler(GuardedHandler):
    def do_GET(self) -> None:
        self.send_response_only(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"in")

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with GuardedServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def status(port: int, head: str) -> int:
    """Of a request as it is written."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode())
        answer = connection.makefile("rb").readline()
    return int(answer.split()[1]) if answer else 0


@pytest.mark.parametrize("host", sorted(OWN | {name.upper() for name in OWN}))
def test_our_own_clients_are_served(host: str) -> None:
    headers = [("Host", host), ("Content-Length", "3"), ("Authorization", "AWS4-HMAC-SHA256 ...")]
    assert refusal("/bucket/a%20b?list-type=2", headers, OWN) is None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Host", "127.0.0.1")],
        [("Host", "127.0.0.1:1235")],
        [("Host", "attacker.example:1234")],
        [("Host", "127.0.0.1:1234.attacker.example")],
        [("Host", "bucket.localhost:1234")],
        [HOST, HOST],
        [HOST, ("host", "attacker.example")],
        [HOST, ("Origin", "null")],
        [HOST, ("ORIGIN ", "http://127.0.0.1:1234")],
        [HOST, ("Sec-Fetch-Site", "cross-site")],
        [HOST, ("Sec-Fetch-Site", "none"), ("Sec-Fetch-Mode", "navigate")],
        [HOST, ("Upgrade", "websocket"), ("Connection", "Upgrade")],
        [HOST, ("Content-Length", "1"), ("Content-Length", "2")],
        [HOST, ("Content-Length", "1"), ("Transfer-Encoding", "chunked")],
        [HOST, ("Content-Length", "-1")],
        [HOST, ("Content-Length", "+1")],
    ],
)
def test_pages_and_rebound_names_are_refused(headers: list[tuple[str, str]]) -> None:
    assert refusal("/", headers, OWN)


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:1234/", "*", "", "a", "/a#b", "/a b", "/\x7f", "/ü", "/\t"]
)
def test_a_target_that_is_no_path_is_refused(target: str) -> None:
    assert refusal(target, [HOST], OWN)


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_other_name_is_ours(host: str, value: str) -> None:
    if host.strip().lower() not in OWN:
        assert refusal("/", [("Host", host)], OWN)
    assert refusal("/", [HOST, ("Origin", value)], OWN)
    assert refusal("/", [("Sec-Fetch-" + value, host), HOST], OWN)


def test_a_request_is_refused_before_its_body_comes(port: int) -> None:
    own = f"Host: 127.0.0.1:{port}\n"
    assert status(port, f"GET / HTTP/1.1\n{own}\n") == 200
    assert status(port, f"PUT / HTTP/1.1\n{own}Origin: x\nContent-Length: 1000000\n\n") == 403
    assert status(port, f"PUT / HTTP/1.1\n{own}Origin: x\nContent-Length: 9\nExpect: 100-continue\n\n") == 403
    assert status(port, f"OPTIONS / HTTP/1.1\n{own}Origin: x\n\n") == 403
    assert status(port, "GET / HTTP/1.0\n\n") == 403
    assert status(port, f"GET http://127.0.0.1:{port}/ HTTP/1.1\n{own}\n") == 403


def test_who_says_nothing_or_never_ends_disturbs_nobody(port: int) -> None:
    with (
        socket.create_connection(("127.0.0.1", port)),
        socket.create_connection(("127.0.0.1", port)) as endless,
    ):
        endless.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50)
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"in"
        connection.close()
        assert time.monotonic() - started < 10
        endless.sendall(b"X: y\r\n" * 100)
        assert b"431" in endless.makefile("rb").readline()


def test_refused_connections_do_not_pile_up(port: int) -> None:
    handles = Path("/proc/self/fd")
    open_before = len(list(handles.iterdir())) if handles.exists() else 0
    for _ in range(3 * loopback_guard.KEPT_OPEN):
        assert status(port, "GET / HTTP/1.1\nHost: attacker.example\n\n") == 403
    if handles.exists():
        assert len(list(handles.iterdir())) < open_before + 1.5 * loopback_guard.KEPT_OPEN


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return server.accept()[0], client


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells whose a socket is on Linux alone")
@pytest.mark.parametrize("way", [peers.asked, peers.looked_up])
def test_the_kernel_tells_whose_a_connection_is(way: peers.Way) -> None:
    ours, theirs = connected()
    with ours, theirs:
        ends = ours.getsockname(), ours.getpeername()
        assert way(*ends) == os.geteuid()
        theirs.shutdown(socket.SHUT_WR)
        assert way(*ends) == os.geteuid()
        theirs.close()
        assert way(*ends) is None, "a closed socket looks like root's"
        assert way(ends[0], ("127.0.0.1", 1)) is None
        assert not peers.is_own(*ends)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells whose a socket is on Linux alone")
@pytest.mark.parametrize("way", [peers.asked, peers.looked_up])
def test_a_client_that_speaks_ipv6_to_ipv4_is_found_too(way: peers.Way) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET6) as client,
    ):
        try:
            client.connect(("::ffff:127.0.0.1", server.getsockname()[1]))
        except OSError:
            pytest.skip("this host has no IPv6")
        ours = server.accept()[0]
        with ours:
            assert way(ours.getsockname(), ours.getpeername()) == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process takes root to start")
def test_another_user_is_turned_away_and_told_so(port: int) -> None:
    program = (
        "import os, sys, http.client; 'x'.encode('idna'); os.setgid(65534); os.setuid(65534)\n"
        "c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=10)\n"
        "c.request('PUT', '/', b'x' * 100); r = c.getresponse(); print(r.status, r.read().decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(port)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.strip() == "403 this server serves another user of this computer", done.stderr


def test_nothing_listens_without_the_guard() -> None:
    """Whatever opens a port is a `GuardedServer`, or one of the two that ask the guard themselves."""
    root = Path(runctl.__file__).parent
    found: set[Path] = set()
    for path in root.rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text if any(word in text for word in LISTENS) else "")):
            name = (
                node.id
                if isinstance(node, ast.Name)
                else node.attr
                if isinstance(node, ast.Attribute)
                else ""
            )
            if name in LISTENS:
                found.add(path.relative_to(root))
    assert found == MAY_LISTEN
