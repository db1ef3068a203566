"""The first lines on a machine, run by a real shell against a server that is not there yet."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runctl.jobs.bootstrap import FETCH_WAITS, Bootstrap, script

AGENT = b"import pathlib\npathlib.Path('ran').write_text('by the agent')\n"
TOOLS = ("sh", "mkdir", "curl", "sha256sum", "sleep", "mv", "setsid", "nohup")


class Server(ThreadingHTTPServer):
    """Answers 503 for a number of times, then with the agent."""

    def __init__(self, failures: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.left, self.asked = failures, 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        late = self.server.asked <= self.server.left
        self.send_response(503 if late else 200)
        self.end_headers()
        if not late:
            self.wfile.write(AGENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def late(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The tools of a small machine: no systemd, whatever this host has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (folder / tool).symlink_to(found)
    (folder / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python3").chmod(0o755)
    return str(folder)


@pytest.mark.parametrize("late", [3], indirect=True)
def test_a_network_that_is_a_moment_late_costs_a_moment(late: Server, path: str, tmp_path: Path) -> None:
    text = script(
        Bootstrap(
            job="j",
            attempt=1,
            agent_url=f"http://127.0.0.1:{late.server_port}/agent",
            agent_sha256=hashlib.sha256(AGENT).hexdigest(),
            bucket="b",
            prefix="p",
            region="us-east-1",
            lease_minutes=0,
        )
    )
    begun = time.monotonic()
    subprocess.run(["sh", "-c", text], env={"PATH": path, "HOME": str(tmp_path)}, check=True, timeout=60)
    assert time.monotonic() - begun < 6
    assert late.asked == 4
    ran = tmp_path / ".runctl/jobs/j/attempt-1/ran"
    while not ran.exists():
        assert time.monotonic() - begun < 20
        time.sleep(0.02)


def test_the_whole_patience_is_a_minute() -> None:
    assert 55 <= sum(FETCH_WAITS) <= 60
    assert list(FETCH_WAITS) == sorted(FETCH_WAITS)
