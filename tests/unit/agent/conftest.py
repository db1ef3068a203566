"""A machine in a folder, a bucket and a metadata service on loopback: what an agent has around it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from runctl.agent import archive

ACCESS, SECRET, REGION = "AKIATEST", "secret", "us-east-1"


def until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """Wait for a condition; answers what it answered."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"it did not come to be in {seconds} s: {what or condition}")


class FakeBucket:
    """S3 as the agent uses it. Signatures are computed anew by botocore, checksums are verified."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.order: list[str] = []  # keys in the order of their writing
        self.away = False
        self.hanging = threading.Event()  # requests are taken and never answered
        self.faults: list[tuple[int, bytes]] = []  # answers for the next requests
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.aborted: list[str] = []
        self.copies = "sha256"  # what a copied part is answered with: sha256, md5, or no copies at all: none
        self.copied: list[tuple[str, str]] = []  # source, range
        self.asked: list[tuple[str, str, int]] = []  # method, key, bytes of its body
        self.refused: Callable[[str], bool] = lambda key: False
        self.bends: dict[int, Callable[[bytes], bytes]] = {}  # by number of the range that is sent wrongly
        self.ranges = 0
        self.owners: set[str | None] = set()  # whom requests expect the bucket to belong to
        self.problems: list[str] = []
        self.delay: Callable[[str, str], None] = lambda method, key: None
        self.lock = threading.RLock()
        self.server = _BucketServer(("127.0.0.1", 0), _BucketHandler)
        self.server.bucket = self
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def json(self, key: str) -> Any:
        with self.lock:
            return json.loads(self.objects[key]) if key in self.objects else None

    def close(self) -> None:
        self.hanging.clear()
        self.server.shutdown()
        self.server.server_close()


def etag(data: bytes) -> str:
    return '"' + hashlib.md5(data).hexdigest() + '"'


def hangs(hanging: threading.Event) -> bool:
    """Wait for as long as it hangs; whether it did."""
    did = hanging.is_set()
    while hanging.is_set():
        time.sleep(0.05)
    return did


class _BucketServer(ThreadingHTTPServer):
    daemon_threads = True
    bucket: FakeBucket


class _BucketHandler(BaseHTTPRequestHandler):
    server: _BucketServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None: ...

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # whoever sent it was killed: S3 drops a torn request
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        name, _, key = unquote(parts.path).lstrip("/").partition("/")
        assert name == "bucket"
        if self.server.bucket.away or hangs(self.server.bucket.hanging):
            self.close_connection = True
            self.connection.close()
            return
        with self.server.bucket.lock:
            self.server.bucket.asked.append((self.command, key, length))
            fault = self.server.bucket.faults.pop(0) if self.server.bucket.faults else None
        if fault:
            self.answer(*fault)
            return
        self.verify(body)
        if hashlib.sha256(body).hexdigest() != self.headers["x-amz-content-sha256"]:
            # A file that a script writes over while it is sent: nothing of it is kept.
            self.answer(400, b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>")
            return
        self.server.bucket.delay(self.command, key)
        if self.server.bucket.refused(key):
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            return
        with self.server.bucket.lock:
            getattr(self, "on_" + self.command)(key, query, body)

    def do_GET(self) -> None:
        self.serve()

    def do_PUT(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def do_DELETE(self) -> None:
        self.serve()

    def verify(self, body: bytes) -> None:
        """Compute the request's signature with botocore."""
        authorization = self.headers["Authorization"]
        names = authorization.split("SignedHeaders=")[1].split(",")[0].split(";")
        self.server.bucket.owners.add(self.headers["x-amz-expected-bucket-owner"])
        own = {name.lower() for name in self.headers if name.lower().startswith("x-amz-")}
        missing = {"host", "x-amz-content-sha256", "x-amz-date", *own} - set(names)
        stamp = self.headers["x-amz-date"]
        request = AWSRequest(
            method=self.command,
            url=f"http://{self.headers['Host']}{self.path}",
            headers={item: self.headers[item] for item in names if item != "host"},
        )
        request.context.update({"timestamp": stamp, "payload_signing_enabled": True})
        signer = S3SigV4Auth(BotoCredentials(ACCESS, SECRET), "s3", REGION)
        canonical = signer.canonical_request(request)
        expected = signer.signature(signer.string_to_sign(request, canonical), request)
        if missing or not authorization.endswith("Signature=" + expected):
            self.server.bucket.problems.append(f"signature of {self.command} {self.path}; missing {missing}")

    def checksum_is_wrong(self, body: bytes) -> bool:
        sent = self.headers["x-amz-checksum-sha256"]
        if sent is None:
            self.server.bucket.problems.append("no checksum for " + self.path)
        return sent != base64.b64encode(hashlib.sha256(body).digest()).decode()

    def on_PUT(self, key: str, query: dict[str, str], body: bytes) -> None:
        if self.headers["x-amz-copy-source"]:
            self.copy_part(query)
            return
        if self.checksum_is_wrong(body):
            self.answer(400, b"<Error><Code>BadDigest</Code></Error>")
            return
        if "uploadId" in query:
            self.server.bucket.uploads[query["uploadId"]][int(query["partNumber"])] = body
            self.answer(200, etag=etag(body))
            return
        current = self.server.bucket.objects.get(key)
        if self.headers["If-None-Match"] == "*" and current is not None:
            self.answer(412)
            return
        wanted = self.headers["If-Match"]
        if wanted and (current is None or etag(current) != wanted):
            self.answer(412)
            return
        self.server.bucket.objects[key] = body
        self.server.bucket.order.append(key)
        self.answer(200, etag=etag(body))

    def copy_part(self, query: dict[str, str]) -> None:
        bucket = self.server.bucket
        name, _, source = unquote(self.headers["x-amz-copy-source"]).removeprefix("/").partition("/")
        assert name == "bucket"
        if bucket.copies == "none":
            self.answer(501, b"<Error><Code>NotImplemented</Code></Error>")
            return
        if source not in bucket.objects:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        span = self.headers["x-amz-copy-source-range"]
        first, last = (int(number) for number in span.removeprefix("bytes=").split("-"))
        data = bucket.objects[source][first : last + 1]
        if len(data) != last + 1 - first:
            self.answer(400, b"<Error><Code>InvalidArgument</Code></Error>")
            return
        bucket.copied.append((source, span))
        bucket.uploads[query["uploadId"]][int(query["partNumber"])] = data
        proof = base64.b64encode(hashlib.sha256(data).digest()).decode()
        checksum = f"<ChecksumSHA256>{proof}</ChecksumSHA256>" if bucket.copies == "sha256" else ""
        tag = escape(etag(data), {'"': "&quot;"})
        self.answer(200, f"<CopyPartResult><ETag>{tag}</ETag>{checksum}</CopyPartResult>".encode())

    def on_POST(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploads" in query:
            upload = f"upload-{len(self.server.bucket.uploads)}"
            self.server.bucket.uploads[upload] = {}
            self.answer(200, f"<R><UploadId>{upload}</UploadId></R>".encode())
            return
        parts = self.server.bucket.uploads.pop(query["uploadId"])
        whole = b"".join(parts[number] for number in sorted(parts))
        assert body.count(b"<Part>") == len(parts)
        self.server.bucket.objects[key] = whole
        self.server.bucket.order.append(key)
        self.answer(200, b"<CompleteMultipartUploadResult/>")

    def on_DELETE(self, key: str, query: dict[str, str], body: bytes) -> None:
        self.server.bucket.uploads.pop(query["uploadId"], None)
        self.server.bucket.aborted.append(key)
        self.answer(204)

    def on_GET(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "list-type" in query:
            self.list(query)
        elif key in self.server.bucket.objects and self.headers["Range"]:
            data = self.server.bucket.objects[key]
            first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
            if first >= len(data):
                self.answer(416, b"<Error><Code>InvalidRange</Code></Error>")
            else:
                self.answer_range(data[first : last + 1])
        elif key in self.server.bucket.objects:
            self.answer(200, self.server.bucket.objects[key], etag=etag(self.server.bucket.objects[key]))
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def answer_range(self, data: bytes) -> None:
        bucket = self.server.bucket
        bent = bucket.bends.pop(bucket.ranges, lambda body: body)(data)
        bucket.ranges += 1
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(bent)
        self.close_connection = len(bent) < len(data)

    def list(self, query: dict[str, str]) -> None:
        keys = sorted(key for key in self.server.bucket.objects if key.startswith(query["prefix"]))
        keys = [key for key in keys if key > query.get("continuation-token", "")]
        page, rest = keys[:3], keys[3:]
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.bucket.objects[key])}</Size></Contents>"
            for key in page
        )
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<ListBucketResult xmlns="{space}">{items}{token}</ListBucketResult>'
        self.answer(200, body.encode(), **{"Content-Type": "application/xml"})


class FakeMetadata:
    """The instance metadata service: tokens, items, and absence."""

    def __init__(self) -> None:
        self.items = {"instance-id": "i-1", "placement/availability-zone": "us-east-1a"}
        self.away = False
        self.hanging = threading.Event()
        self.token = 0
        self.asked: list[str] = []
        self.server = _MetadataServer(("127.0.0.1", 0), _MetadataHandler)
        self.server.service = self
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def notice(self, at: float) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
        self.items["spot/instance-action"] = json.dumps({"action": "terminate", "time": stamp})

    def close(self) -> None:
        self.hanging.clear()
        self.server.shutdown()
        self.server.server_close()


class _MetadataServer(ThreadingHTTPServer):
    daemon_threads = True
    service: FakeMetadata


class _MetadataHandler(BaseHTTPRequestHandler):
    server: _MetadataServer

    def log_message(self, *_: Any) -> None: ...

    def answer(self, status: int, body: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_PUT(self) -> None:
        if self.server.service.away or hangs(self.server.service.hanging):
            return
        assert self.path == "/latest/api/token"
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.server.service.token += 1
        self.answer(200, f"token-{self.server.service.token}")

    def do_GET(self) -> None:
        if self.server.service.away or hangs(self.server.service.hanging):
            return
        item = self.path.removeprefix("/latest/meta-data/")
        self.server.service.asked.append(item)
        if self.headers["X-aws-ec2-metadata-token"] != f"token-{self.server.service.token}":
            self.answer(401)
        elif item in self.server.service.items:
            self.answer(200, self.server.service.items[item])
        else:
            self.answer(404)


@dataclass
class Attempt:
    """An attempt's folder on a machine, and the agent that runs it."""

    machine: Machine
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Attempt:
        command = [sys.executable, str(self.machine.agent), "run", str(self.folder / "spec.json")]
        self.process = self.machine.spawn(command)
        return self

    def run(self, seconds: float = 60) -> dict[str, Any]:
        """Start and wait for the end; answers the state."""
        return self.start().end(seconds)

    def end(self, seconds: float = 60) -> dict[str, Any]:
        assert self.process is not None
        self.process.wait(seconds)
        return self.state

    @property
    def state(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            state: dict[str, Any] = json.loads((self.folder / "state.json").read_bytes())
            return state
        return {}

    @property
    def log(self) -> str:
        path = self.folder / "output.log"
        return path.read_text() if path.exists() else ""

    @property
    def events(self) -> list[str]:
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        return [json.loads(line)["kind"] for line in lines]

    def stop(self) -> None:
        (self.folder / "stop").touch()

    def prints(self, text: str, seconds: float = 60) -> None:
        until(lambda: text in self.log, seconds, f"{text!r} in {self.log!r}")


@dataclass
class Machine:
    """A home folder with a `shutdown` that only writes down what was asked of it."""

    root: Path
    agent: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def job(self) -> Path:
        return self.root / "job"

    @property
    def checkpoints(self) -> Path:
        return self.job / "checkpoints"

    def speed(self, factor: float) -> None:
        """Let the cloud's clock run faster than ours."""
        path = self.root / "clock.json"
        now = time.time()
        path.write_text(json.dumps({"real": now, "cloud": now, "speed": factor}))
        self.environment["RUNCTL_CLOCK"] = str(path)

    def now(self) -> float:
        anchor = json.loads((self.root / "clock.json").read_text())
        return anchor["cloud"] + (time.time() - anchor["real"]) * anchor["speed"]

    def shutdowns(self) -> list[str]:
        path = self.root / "shutdowns"
        return path.read_text().splitlines() if path.exists() else []

    def spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.root / "agent.out").open("ab") as output:
            process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.processes.append(process)
        return process

    def attempt(self, script: str | list[str], number: int = 1, **changes: Any) -> Attempt:
        """Write the spec of an attempt; a script given as text is Python."""
        folder = self.job / f"attempt-{number}"
        folder.mkdir(parents=True)
        if isinstance(script, str):
            path = self.root / f"script-{number}.py"
            path.write_text(textwrap.dedent(script))
            script = [sys.executable, str(path)]
        spec = {
            "format": 1,
            "job": "job",
            "attempt": number,
            "command": script,
            "workdir": str(self.root),
            "environment": {},
            "python": {"kind": "none", "requirements": [], "requires_python": None, "digest": "0"},
            "bundle": None,
            "data": None,
            "checkpoint_dir": "checkpoints",
            "output_dir": "outputs",
            "store": {"kind": "folder", "path": str(self.job)},
            "resume": {"from": "newest"},
            "resume_arg": None,
            "signal": "SIGTERM",
            "grace_seconds": 20,
            "lease_seconds": 0,
            "deadline": None,
            "budget": None,
            "machine": {"disposable": False, "watch_notice": False},
            **changes,
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        return Attempt(self, folder)


@pytest.fixture(scope="session")
def agent_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("agent") / "agent.py"
    path.write_bytes(archive.build())
    return path


@pytest.fixture
def impatient(machine: Machine, agent_file: Path) -> Machine:
    """The agent gives up on a request to S3 after 1 s, not 30 s: its clock runs faster."""
    made = machine.root / "impatient.py"
    with zipfile.ZipFile(agent_file) as before, zipfile.ZipFile(made, "w") as after:
        for name in before.namelist():
            text = before.read(name).decode()
            if name.endswith("/s3.py"):
                assert "\nTIMEOUT = 30.0\n" in text
                text = text.replace("\nTIMEOUT = 30.0\n", "\nTIMEOUT = 1.0\n")
            after.writestr(name, text)
    machine.agent = made
    return machine


@pytest.fixture
def altered(machine: Machine, agent_file: Path) -> Callable[..., None]:
    """Change a line of the agent: what takes it long, or what it waits for."""

    def alter(module: str, *changes: tuple[str, str]) -> None:
        made = machine.root / "altered.py"
        before = machine.agent if machine.agent.name == "altered.py" else agent_file
        with zipfile.ZipFile(before) as old:
            texts = {name: old.read(name).decode() for name in old.namelist()}
        name = f"runctl_agent/{module}.py"
        for found, instead in changes:
            assert found in texts[name], found
            texts[name] = texts[name].replace(found, instead)
        with zipfile.ZipFile(made, "w") as new:
            for each, text in texts.items():
                new.writestr(each, text)
        machine.agent = made

    return alter


@pytest.fixture
def machine(tmp_path: Path, agent_file: Path) -> Iterator[Machine]:
    programs = tmp_path / "bin"
    programs.mkdir()
    shutdown = programs / "shutdown"
    shutdown.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/shutdowns"\n')
    shutdown.chmod(0o755)
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "AWS_ACCESS_KEY_ID": ACCESS,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    made = Machine(tmp_path, agent_file, environment)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    for pid in living(str(tmp_path)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def living(mark: str) -> list[int]:
    """Living processes whose environment or command line names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            texts = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            if f"RUNCTL_OUTPUT_DIR={mark}".encode() in texts or f"{mark}/script-".encode() in texts:
                found.append(int(entry.name))
    return found


@pytest.fixture
def bucket(machine: Machine) -> Iterator[FakeBucket]:
    made = FakeBucket()
    machine.environment["AWS_ENDPOINT_URL_S3"] = made.url
    yield made
    made.close()
    assert made.problems == []


@pytest.fixture
def metadata(machine: Machine) -> Iterator[FakeMetadata]:
    made = FakeMetadata()
    machine.environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = made.url
    yield made
    made.close()


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return until


@pytest.fixture
def still_living() -> Callable[[str], list[int]]:
    return living
