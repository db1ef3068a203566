"""kill -9 in the middle of `runctl data pack`, then the same command: half a set is none, and what was there
and right is kept.

The moments are random in bytes that a proxy saw, so that they do not depend on how fast a machine is.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy, kill_after
from s3_server import S3Server

from runctl import datasets
from runctl.datasets import packs
from runctl.storage.access import S3Access

MIB = 1 << 20
DEFAULT_MOMENTS = 2
MOMENTS = 20


class Packing:
    """One command, given again until it ends by itself. Sources lie in a folder and in S3."""

    def __init__(self, server: S3Server, folder: Path, seed: int) -> None:
        chance = random.Random(seed)
        self.server, self.folder, self.bucket = server, folder, server.new_bucket()
        self.s3 = server.client()
        self.content = {f"{number:03}.bin": chance.randbytes(64 * 1024) for number in range(96)}
        (folder / "set").mkdir(parents=True)
        for name, data in self.content.items():
            (folder / "set" / name).write_bytes(data)
            self.s3.put_object(Bucket=self.bucket, Key=f"set/{name}", Body=data)

    def start(self, endpoint: str, source: str, target: str) -> subprocess.Popen[str]:
        options = ("--pack-size", "1MiB", "--parallel", "2", "--output", "json")
        return subprocess.Popen(
            [sys.executable, "-m", "runctl", "data", "pack", source, target, *options],
            env={
                **os.environ,
                **self.server.environment(endpoint),
                "RUNCTL_HOME": str(self.folder / "home"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def names(self, target: str) -> set[str]:
        """What lies at the target now."""
        if not target.startswith("s3://"):
            root = Path(target)
            return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        prefix = target.removeprefix(f"s3://{self.bucket}/") + "/"
        listed = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", ())
        return {one["Key"].removeprefix(prefix) for one in listed}

    def read(self, target: str) -> dict[str, bytes]:
        keys = (self.server.access_key, self.server.secret_key, None)
        access = S3Access(endpoint=self.server.endpoint, region="us-east-1", credentials=lambda: keys)
        way = "direct" if target.startswith("s3://") else "existing"
        with datasets.open(target, strategy=way, access=access) as dataset:
            return dict(dataset)


def _goes_on(server: S3Server, folder: Path, seed: int) -> int:
    chance = random.Random(f"moments {seed}")
    one = Packing(server, folder, seed)
    source, target = f"s3://{one.bucket}/set", f"s3://{one.bucket}/packed"
    match seed % 3:
        case 0:
            source = str(folder / "set")
        case 1:
            target = str(folder / "packed")
    kills = 0
    with FaultProxy(server.endpoint, seed=seed) as proxy:
        for _ in range(chance.choice([1, 2])):
            if packs.INDEX in one.names(target):
                break
            process = one.start(proxy.endpoint, source, target)
            kills += kill_after(process, proxy, chance.randint(1, 6 * MIB))
        before = one.names(target)
        if packs.INDEX in before:
            assert one.read(target) == one.content
        report = _ended(one.start(proxy.endpoint, source, target))
    whole = {name for name in before if packs.name_parts(name)}
    assert report["kept_packs"] >= len(whole), "a pack was written twice"
    assert report["other_packs"] == 0
    assert one.read(target) == one.content
    assert not [name for name in one.names(target) if "partial" in name]
    return kills


def _ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


def test_a_killed_packing_goes_on(s3_server: S3Server, tmp_path: Path) -> None:
    assert sum(_goes_on(s3_server, tmp_path / str(seed), seed) for seed in range(DEFAULT_MOMENTS))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(DEFAULT_MOMENTS, MOMENTS))
def test_a_killed_packing_goes_on_at_many_moments(s3_server: S3Server, tmp_path: Path, seed: int) -> None:
    _goes_on(s3_server, tmp_path / "one", seed)
