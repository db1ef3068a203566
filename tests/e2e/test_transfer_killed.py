"""kill -9 in the middle of `runctl transfer`, then the same command: it finishes, and sends no part again.

What the proxy between saw is the witness: a part that was on its way when the process died may go again, and
no other. The moments are random in bytes, so that they do not depend on how fast a machine is.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, bytes_moved, kill_after
from s3_server import S3Server

MIB = 1024 * 1024
PARALLEL = 2
OPTIONS = ("--parallel", str(PARALLEL), "--output", "json")
DEFAULT_MOMENTS = 3
"""Moments of each direction in the default run; 25 in all."""
MOMENTS = 25
PART = {"up": 16 * MIB, "down": 8 * MIB}


class Transfer:
    """One command, given again until it ends by itself."""

    def __init__(self, server: S3Server, folder: Path, direction: str, seed: int) -> None:
        self.chance = random.Random(f"{direction} {seed}")
        self.server = server
        self.direction = direction
        self.folder = folder
        self.client = server.client()
        self.bucket = server.new_bucket()
        self.big = {"up": 4 * PART["up"] + 1, "down": 6 * PART["down"] + 1}[direction]
        self.content = {f"small/{number}": self.chance.randbytes(3000) for number in range(8)}
        self.content["big"] = hashlib.shake_256(f"{seed}".encode()).digest(MIB) * (self.big // MIB) + b"."
        self.source, self.target = (folder / "here", folder / "there")

    def prepare(self) -> list[str]:
        place = f"s3://{self.bucket}/data"
        if self.direction == "up":
            for name, data in self.content.items():
                (self.source / name).parent.mkdir(parents=True, exist_ok=True)
                (self.source / name).write_bytes(data)
            return [str(self.source), place]
        for name, data in self.content.items():
            self._put(f"data/{name}", data)
        return [place, str(self.target)]

    def _put(self, key: str, data: bytes) -> None:
        from boto3.s3.transfer import TransferConfig

        path = self.folder / "body"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        parts = TransferConfig(multipart_chunksize=PART["down"])
        self.client.upload_file(str(path), self.bucket, key, Config=parts)

    def start(self, endpoint: str, arguments: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "runctl", "transfer", *arguments, *OPTIONS],
            env={
                **os.environ,
                **self.server.environment(endpoint),
                "RUNCTL_HOME": str(self.folder / "home"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def arrived(self) -> dict[str, bytes]:
        if self.direction == "down":
            return {
                path.relative_to(self.target).as_posix(): path.read_bytes()
                for path in self.target.rglob("*")
                if path.is_file()
            }
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix="data/")["Contents"]
        return {
            one["Key"].removeprefix("data/"): self.client.get_object(Bucket=self.bucket, Key=one["Key"])[
                "Body"
            ].read()
            for one in listed
        }


def _goes_on(server: S3Server, folder: Path, direction: str, seed: int) -> None:
    one = Transfer(server, folder, direction, seed)
    arguments = one.prepare()
    kills = 0
    with FaultProxy(server.endpoint, seed=seed) as proxy:
        for _ in range(one.chance.choice([1, 1, 2])):
            process = one.start(proxy.endpoint, arguments)
            kills += kill_after(process, proxy, one.chance.randint(1, one.big))
        last = one.start(proxy.endpoint, arguments)
        told, errors = last.communicate(timeout=100)
        moved = proxy.moved()
    assert last.returncode == 0, told or errors
    assert json.loads(told)["failed"] == []
    assert one.arrived() == one.content
    assert not list(folder.rglob(".runctl-partial-*"))
    assert "Uploads" not in one.client.list_multipart_uploads(Bucket=one.bucket)
    again = {part: times for part, times in moved.items() if times > 1}
    assert sum(times - 1 for times in again.values()) <= kills * PARALLEL, (kills, again)
    size = sum(len(data) for data in one.content.values())
    assert bytes_moved(proxy) <= size + kills * PARALLEL * PART[direction], (kills, moved)
    one.client.close()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_killed_transfer_goes_on(s3_server: S3Server, tmp_path: Path, direction: str) -> None:
    for seed in range(DEFAULT_MOMENTS):
        _goes_on(s3_server, tmp_path / str(seed), direction, seed)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_source_that_changed_since_the_kill_starts_anew_and_says_so(
    s3_server: S3Server, tmp_path: Path, direction: str
) -> None:
    one = Transfer(s3_server, tmp_path, direction, 0)
    arguments = one.prepare()
    with FaultProxy(s3_server.endpoint) as proxy:
        killed = kill_after(one.start(proxy.endpoint, arguments), proxy, one.big * 3 // 4)
        fresh = one.content["big"][::-1]
        one.content["big"] = fresh
        if direction == "up":
            (one.source / "big").write_bytes(fresh)
        else:
            one._put("data/big", fresh)
        last = one.start(proxy.endpoint, arguments)
        told, errors = last.communicate(timeout=100)
    assert killed
    assert last.returncode == 0, told or errors
    assert "changed since its transfer was interrupted: it starts anew" in errors
    assert one.arrived() == one.content
    assert not list(tmp_path.rglob(".runctl-partial-*"))
    assert "Uploads" not in one.client.list_multipart_uploads(Bucket=one.bucket)
    one.client.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_killed_transfer_goes_on_from_any_moment(
    s3_server: S3Server, tmp_path: Path, direction: str
) -> None:
    for seed in range(DEFAULT_MOMENTS, MOMENTS):
        _goes_on(s3_server, tmp_path / str(seed), direction, seed)
