"""Another user of this computer, and web pages as browsers send their requests, before every port of ours."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from loopback_ports import JOB_SPEC, Ports, ask, opened, own_answer

pytestmark = [
    pytest.mark.xdist_group("strangers"),
    pytest.mark.skipif(sys.platform != "linux", reason="ports are found in /proc"),
]
NOBODY = 65_534
PYTHON = "/usr/bin/python3"
MULTIPART = (
    f'--b\r\nContent-Disposition: form-data; name="key"\r\n\r\n{JOB_SPEC}\r\n'
    '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nevil\r\n--b--\r\n'
).encode()
RUN = b"Action=RunInstances&Version=2016-11-15&ImageId=ami-1&MinCount=1&MaxCount=1&UserData=IyEvYmluL3No"
FORMS = {
    "application/x-www-form-urlencoded": RUN,
    "multipart/form-data; boundary=b": MULTIPART,
    "text/plain": b"{}",
    "application/json": b"{}",
}
PAGE = {
    "Origin": "https://page.example",
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "no-cors",
    "Sec-Fetch-Dest": "empty",
}
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture(params=["namespaces", "plain"], scope="module")
def ports(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    start_sandbox: Callable[..., AbstractContextManager[Any]],
) -> Iterator[Ports]:
    home = tmp_path_factory.mktemp("home")
    home.parent.chmod(0o755)  # pytest's own folders would hide what ours leave open
    home.chmod(0o755)
    if request.param == "namespaces":
        from runctl.sandbox.isolation.namespaces import refusal

        if refusal():
            pytest.skip("this host allows no namespaces")
    with start_sandbox(home, isolation=request.param) as live, opened(live, home) as found:
        yield found


def as_pages_send(port: int) -> Iterator[tuple[str, str, bytes, dict[str, str]]]:
    """Method, kind, body and headers of what a page of another origin or of a rebound name sends."""
    rebound = {"Host": f"attacker.example:{port}"}
    yield "OPTIONS", "preflight", b"", {**PAGE, "Access-Control-Request-Method": "PUT"}
    yield "GET", "image", b"", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
    yield "GET", "navigation", b"", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"}
    yield "GET", "websocket", b"", {**WEBSOCKET, "Origin": "https://page.example"}
    for method in ("GET", "PUT", "DELETE", "HEAD"):
        yield method, "fetch", b"", PAGE
        yield method, "rebound", b"", rebound
    for kind, body in FORMS.items():
        yield "POST", "form", body, {**PAGE, "Content-Type": kind}
        yield "POST", "form of a sandboxed frame", body, {"Origin": "null", "Content-Type": kind}
        yield "POST", "rebound form", body, {**rebound, "Content-Type": kind}
    for host in ("", "localhost", f"127.0.0.1:{port + 1}", f"x.localhost:{port}", "169.254.169.254"):
        yield "GET", "foreign name", b"", {"Host": host}


def test_no_page_reads_writes_or_runs_anything(ports: Ports) -> None:
    before = ports.state()
    for name, port in ports.by_name.items():
        for path in ports.paths(name):
            for method, kind, body, headers in as_pages_send(port):
                status, answer = ask(port, method, path, body, headers)
                assert status == 403, (name, path, method, kind, status)
                assert "access-control-" not in answer.lower()
                assert not [word for word in ports.secrets() if word in answer]
    assert ports.state() == before


def test_what_is_not_signed_is_refused_to_the_user_s_own_programs_too(ports: Ports) -> None:
    before = ports.state()
    port = ports.by_name["sandbox"]
    claim = (
        "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/{}/aws4_request, SignedHeaders=host, Signature=0"
    )
    for path in ports.paths("sandbox"):
        for method in ("GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"):
            for service in ("", "ec2", "s3", "ssm", "sts", "iam", "pricing"):
                headers = {"Authorization": claim.format(service)} if service else {}
                for kind, body in list(FORMS.items())[: 4 if method == "POST" else 1]:
                    status, answer = ask(port, method, path, body, {**headers, "Content-Type": kind})
                    assert status == 403, (method, path, service, kind, answer)
                    assert "access-control-" not in answer.lower()
    assert ports.state() == before


STRANGER = r"""
import http.client, json, os, socket, sys
told = []
def ask(name, port, method, path, body, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        told.append([name, method, path, answer.status, answer.read().decode(errors="replace")])
    except OSError as error:
        told.append([name, method, path, 0, str(error)])
    finally:
        connection.close()
asked = json.load(sys.stdin)
for row in asked["requests"]:
    ask(*row[:4], row[4].encode(), row[5])
# A socket that is closed at once looks like root's.
for name, port in asked["ports"].items():
    with socket.create_connection(("127.0.0.1", port)) as quick:
        quick.sendall(b"PUT /%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 0\r\n\r\n" % (b"x", port))
readable = []
for folder, _, files in os.walk(asked["home"]):
    paths = [os.path.join(folder, file) for file in files]
    readable += [path for path in paths if os.access(path, os.R_OK)]
held = [socket.create_connection(("127.0.0.1", port)) for port in asked["ports"].values() for _ in range(60)]
print(json.dumps({"uid": os.getuid(), "told": told, "readable": readable}), flush=True)
sys.stdin.close()
os.read(asked["until"], 1)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process takes root to start")
@pytest.mark.skipif(not Path(PYTHON).exists(), reason="no Python that another user may run")
def test_another_user_reads_writes_and_runs_nothing_and_holds_nobody_up(ports: Ports) -> None:
    before = ports.state()
    claim = (
        "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0"
    )
    requests = [
        (name, port, method, path, RUN.decode(), headers)
        for name, port in ports.by_name.items()
        for path in ports.paths(name)
        for method, headers in (
            ("GET", {}),
            ("PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}),
            ("POST", {"Authorization": claim, "Content-Type": "application/x-www-form-urlencoded"}),
        )
    ]
    hold, release = os.pipe()
    asked = {"requests": requests, "ports": ports.by_name, "home": str(ports.live.home), "until": hold}
    stranger = subprocess.Popen(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", PYTHON, "-I", "-c", STRANGER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        pass_fds=[hold],
    )
    assert stranger.stdin
    assert stranger.stdout
    try:
        stranger.stdin.write(json.dumps(asked).encode())
        stranger.stdin.close()
        found = json.loads(stranger.stdout.readline())
        # While it holds sixty connections to each port, ours are served.
        started = time.monotonic()
        assert own_answer(ports.by_name["transfer"], ports.staged_path) == b"staged words"
        assert ports.live.control.status()["machines"]
        assert time.monotonic() - started < 30
    finally:
        os.close(release)
        os.close(hold)
        stranger.wait(60)
        stranger.stdout.close()
    assert found["uid"] == NOBODY
    assert len(found["told"]) == len(requests)
    assert {row[3] for row in found["told"]} == {403}, found["told"]
    assert not [row for row in found["told"] if any(word in row[4] for word in ports.secrets())]
    assert found["readable"] == []
    assert ports.state() == before


def test_nothing_of_a_sandbox_may_be_entered_or_read_by_others(ports: Ports) -> None:
    top = ports.live.home / "sandbox"
    assert stat.S_IMODE(top.stat().st_mode) == 0o700
    for path in (top / "cloud.json", top / "server.log", top / "lock"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    open_to_others = [
        path
        for path in [top, *top.glob("*"), *top.glob("state/*"), *top.glob("state/machines/*/*")]
        if not path.is_symlink() and path.stat().st_mode & 0o077
    ]
    assert open_to_others == []


def test_a_machine_itself_is_served_and_its_keys_go_with_it(ports: Ports) -> None:
    live = ports.live
    machine = live.running()
    script = "import boto3; c = boto3.Session().get_credentials().get_frozen_credentials(); print(*c[:3])"
    told = live.command(machine, f'python3 -c "{script}"; umask')["StandardOutputContent"].split()
    access, secret, token, umask = told
    assert umask == "0022"

    def refusal(token: str) -> str:
        import boto3

        client = boto3.client(
            "sts",
            endpoint_url=live.record.endpoint,
            region_name=live.record.region,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            aws_session_token=token,
        )
        try:
            return live.refusal(client.get_caller_identity)
        finally:
            client.close()

    assert refusal(token) == ""
    assert refusal(token + "x") == "InvalidClientTokenId"
    live.client("ec2").terminate_instances(InstanceIds=[machine])
    live.until(lambda: live.state(machine) == "terminated")
    assert refusal(token) == "InvalidClientTokenId"
