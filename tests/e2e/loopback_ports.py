"""Every port that the product opens on loopback, found by looking, and what a stranger could want there."""

from __future__ import annotations

import contextlib
import http.client
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runctl.jobs.drill import LocalNotice
from runctl.storage.loopback import LoopbackStaging, serving

JOB_SPEC = "runctl/jobs/x/attempt-1/spec.json"


def listening(pid: int) -> set[int]:
    """The TCP ports on which a process listens."""
    inodes: set[str] = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(handle.readlink()).removeprefix("socket:[").removesuffix("]"))
    found: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


@dataclass
class Ports:
    """A sandbox with a bucket and a machine that runs, a transfer's server, a drill's: ports by name."""

    live: Any  # tests/conftest.py: LiveSandbox
    machine: str
    bucket: str
    staging: LoopbackStaging
    by_name: dict[str, int]

    @property
    def staged_path(self) -> str:
        """The secret way to one object of the transfer."""
        return "/" + self.staging.sign("GET", ["staged"])[0].split("/", 3)[3]

    def paths(self, name: str) -> list[str]:
        """What is worth asking for behind a port."""
        if name == "sandbox":
            return [
                "/",
                f"/{self.bucket}/{JOB_SPEC}",
                "/?Action=RunInstances&Version=2016-11-15",
                "/_sandbox/status",
                "/_sandbox/down",
                "/moto-api/data.json",
                "/moto-api/reset",
            ]
        if name == "transfer":
            return ["/", self.staged_path]
        return [
            "/latest/api/token",
            "/latest/meta-data/iam/security-credentials/runctl-instance",
            "/latest/user-data",
        ]

    def state(self) -> dict[str, Any]:
        """All that a stranger could have changed."""
        s3 = self.live.client("s3")
        buckets = sorted(bucket["Name"] for bucket in s3.list_buckets()["Buckets"])
        status = self.live.control.status()
        return {
            "objects": {
                name: sorted(item["Key"] for item in s3.list_objects_v2(Bucket=name).get("Contents", []))
                for name in buckets
            },
            "machines": {row["id"]: row["state"] for row in status["machines"]},
            "speed": status["speed"],
            "faults": status["faults"],
            "commands": len(self.live.client("ssm").list_commands()["Commands"]),
            "staged": sorted((info.key, info.size) for info in self.staging.list()),
        }

    def secrets(self) -> list[str]:
        """Words of which none may reach a stranger."""
        record = self.live.record
        return [record.secret_key, record.control_token, "of the user", "staged words", "SecretAccessKey"]


@contextlib.contextmanager
def opened(live: Any, folder: Path) -> Generator[Ports]:
    """Everything that listens, in use."""
    ec2 = live.client("ec2")
    machine = live.running(
        UserData="#!/bin/sh\n# of the user\n",
        MetadataOptions={"HttpTokens": "optional", "HttpEndpoint": "enabled"},
    )
    bucket = live.name("runctl")
    live.client("s3").create_bucket(Bucket=bucket)
    drill = LocalNotice(1.0)
    try:
        with serving(folder / "staging") as (staging, port):
            staging.write("staged", b"staged words")
            theirs = listening(live.record.pid)
            api = int(live.record.endpoint.rpartition(":")[2])
            by_name = {"sandbox": api, "transfer": port, "drill": int(drill.endpoint.rpartition(":")[2])}
            by_name |= {f"metadata {number}": one for number, one in enumerate(sorted(theirs - {api}))}
            found = Ports(live, machine, bucket, staging, by_name)
            assert any(name.startswith("metadata") for name in by_name)
            assert own_answer(by_name["transfer"], found.staged_path) == b"staged words"
            yield found
    finally:
        drill.close()
        ec2.terminate_instances(InstanceIds=[machine])


def own_answer(port: int, path: str) -> bytes:
    """What the user's own process gets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return answer.read()


def ask(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """Status, and everything that came with it, of one request as `headers` have it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, str(answer.headers) + answer.read().decode(errors="replace")
    finally:
        connection.close()
