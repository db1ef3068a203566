"""A real browser, with a page of another origin and a rebound name, before every port that we open.

Chromium from `RUNCTL_CHROMIUM` or PATH; `make test-browser` says how to get it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from loopback_ports import Ports, opened

CHROMIUM = os.environ.get("RUNCTL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("strangers"),
    pytest.mark.skipif(sys.platform != "linux", reason="ports are found in /proc"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium"),
]
PAGE = Path(__file__).with_name("hostile_page.html").read_text()
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *(
        "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests,PrivateNetworkAccessSendPreflights",
    ),
)
"""The browser's own locks on loopback are off: older browsers have none, and ours must hold by themselves."""
EVIL = "attacker.example"
Row = tuple[str, str, str, str]


class Site(ThreadingHTTPServer):
    """Serves the page, and hears what came of it."""

    daemon_threads = True
    page = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Pages)
        self.told: queue.Queue[list[Row]] = queue.Queue()


class _Pages(BaseHTTPRequestHandler):
    server: Site  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        body = self.server.page.encode() if self.path in {"/", "/page"} else b""
        self._answer(200 if body else 404, body)

    def do_POST(self) -> None:
        self.server.told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


@contextlib.contextmanager
def serving_page() -> Generator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield site
        finally:
            site.shutdown()
            thread.join()


def visit(url: str, site: Site, folder: Path) -> list[Row]:
    """Open a page in a browser of its own, and wait for what it says."""
    profile = folder / f"profile-{len(list(folder.iterdir()))}"
    rules = f"--host-resolver-rules=MAP *.{EVIL} 127.0.0.1,MAP {EVIL} 127.0.0.1"
    browser = subprocess.Popen(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", rules, "--remote-debugging-port=0", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder), "NO_PROXY": "*"},
        start_new_session=True,
    )
    try:
        return [tuple(row) for row in site.told.get(timeout=240)]  # pyright: ignore[reportReturnType]
    finally:
        browser.terminate()
        try:
            browser.wait(20)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()


def targets(ports: Ports, host: str) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "base": f"http://{host}:{port}",
            # "down" last: if a page could end the sandbox, the others would be refused by nobody
            "paths": sorted(ports.paths(name), key=lambda path: path.endswith("down")),
        }
        for name, port in ports.by_name.items()
    }


def page(found: dict[str, dict[str, Any]]) -> str:
    return PAGE.replace("/*TARGETS*/", json.dumps(found))


@contextlib.contextmanager
def rebinding(site: int, target: int) -> Generator[str]:
    """The origin of a name that led to the attacker's site when its page came, and to `target` ever since.

    To the browser both are one server, so that nothing keeps the page from reading: what the name of a real
    rebinding does between two look-ups, this does between two connections.
    """

    def carry(source: socket.socket, drain: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                drain.sendall(data)
            drain.shutdown(socket.SHUT_WR)

    def lead(client: socket.socket, port: int) -> None:
        with client, contextlib.suppress(OSError):
            head = client.recv(65_536)
            first = head.partition(b"\r\n")[0]
            here = site if b" /page " in first or b" /told " in first else target
            with socket.create_connection(("127.0.0.1", here)) as server:
                server.sendall(
                    head.replace(b"%s:%d" % (EVIL.encode(), port), b"%s:%d" % (EVIL.encode(), here))
                )
                back = threading.Thread(target=carry, args=(server, client))
                back.start()
                carry(client, server)
                back.join()

    def listen(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                arguments = (client, listener.getsockname()[1])
                threading.Thread(target=lead, args=arguments, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        threading.Thread(target=listen, args=(listener,), daemon=True).start()
        yield f"http://{EVIL}:{listener.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


class Open:
    """A server without our guard, as a control: what the page says of it shows that the page can see."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Access-Control-Allow-Headers", "*")
                self.send_header("Access-Control-Allow-Methods", "*")
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"open")

            def do_OPTIONS(self) -> None:
                self.do_GET()

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def table(rows: list[tuple[str, int, str, int, str]]) -> str:
    """Port by port: how often a page tried, and what it could read."""
    lines = [f"{'port':<14}{'number':>8}  {'page':<20}{'tries':>6}  read"]
    lines += [
        f"{name:<14}{port:>8}  {where:<20}{tries:>6}  {read}" for name, port, where, tries, read in rows
    ]
    return "\n".join(lines)


def readable(row: Row) -> bool:
    """Whether a page got any word of an answer, or a connection, that was not a plain refusal."""
    what = row[3]
    return what not in {
        "opaque",
        "blocked",
        "nothing",
        "sent",
        "true",
        "false",
        "loaded",
    } and not what.startswith(("403 ", "read "))


@pytest.mark.parametrize("isolation", ["plain", "namespaces"])
def test_no_page_in_a_real_browser_reads_writes_or_runs_anything(
    isolation: str,
    tmp_path: Path,
    start_sandbox: Callable[..., AbstractContextManager[Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if isolation == "namespaces":
        from runctl.sandbox.isolation.namespaces import refusal

        if refusal():
            pytest.skip("this host allows no namespaces")
    browsers = tmp_path / "browsers"
    browsers.mkdir()
    control = Open()
    with (
        serving_page() as site,
        start_sandbox(tmp_path / "home", isolation=isolation) as live,
        opened(live, tmp_path) as ports,
    ):
        before = ports.state()
        rows: list[tuple[str, int, str, int, str]] = []
        port = site.server_address[1]
        for where, origin, host in (
            ("another origin", f"http://127.0.0.1:{port}/", "127.0.0.1"),
            ("another site", f"http://page.{EVIL}:{port}/", "127.0.0.1"),
            ("a rebound name", f"http://{EVIL}:{port}/", EVIL),
        ):
            found = targets(ports, host) | {
                "control": {"base": f"http://{host}:{control.port}", "paths": ["/"]}
            }
            site.page = page(found)
            told = visit(origin, site, browsers)
            seen = {name for name, *_ in told}
            assert seen == found.keys(), "the page tried every port"
            assert [row for row in told if row[0] == "control" and row[3] == "200 open"], "the page can read"
            for name in ports.by_name:
                tried = [row for row in told if row[0] == name]
                read = [row for row in tried if readable(row)]
                leaked = [row for row in tried if any(word in row[3] for word in ports.secrets())]
                rows.append((name, ports.by_name[name], where, len(tried), str(len(read) + len(leaked))))
                assert not read, read
                assert not leaked, leaked
            assert ports.state() == before
        for name, one in {**ports.by_name, "control": control.port}.items():
            with rebinding(site.server_address[1], one) as origin:
                paths = ports.paths(name) if name != "control" else ["/"]
                site.page = page({name: {"base": origin, "paths": paths}})
                told = visit(f"{origin}/page", site, browsers)
            if name == "control":
                assert [row for row in told if row[3] == "200 open"], "the page can read"
                continue
            answers = [
                row[3] for row in told if row[1] in {"fetch", "fetch PUT", "frame", "XHR with headers"}
            ]
            assert answers, name
            assert all(one.startswith(("403 ", "read ")) or one == "blocked" for one in answers), (
                name,
                answers,
            )
            assert not [row for row in told if any(word in row[3] for word in ports.secrets())]
            rows.append((name, one, "its own, rebound", len(told), "0"))
        assert ports.state() == before
    control.close()
    with capsys.disabled():
        print(f"\n{isolation}\n{table(rows)}")
