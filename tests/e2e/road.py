"""Machines and buckets between which files travel, and the command that moves them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runctl.clouds import Cloud
from runctl.config import Protection
from runctl.events import Event, Notice
from runctl.ledger import Ledger
from runctl.providers.aws.session import Session
from runctl.resources import legs
from runctl.resources.legs import LegOptions
from runctl.resources.operation import Operation
from runctl.retry import RetryPolicy
from runctl.safety.destroy import Door
from runctl.storage.transfer import TransferReport

MIB = 1024 * 1024
QUICK = RetryPolicy(attempts=12, seconds=60.0, first_wait=0.01, longest_wait=0.2)
SLOWLY = ("--on", "sandbox", "--parallel", "1", "--bandwidth-limit", "12MiB")
"""So that a piece of 16 MiB takes longer than a look at what has arrived."""


@dataclass
class Road:
    """Two machines, a bucket of the user's, a folder, and what a transfer between them needs."""

    live: Any  # tests/conftest.py: LiveSandbox
    folder: Path
    first: str
    second: str
    bucket: str
    heard: list[Event] = field(default_factory=list[Event])
    cloud: Cloud | None = None
    """Where it is not the sandbox's own, such as with another S3."""
    through: str | None = None
    """The bucket in which files are staged; None for the jobs' own."""
    s3: Any = None
    """A client of the S3 that holds the buckets."""

    def __post_init__(self) -> None:
        self.s3 = self.s3 or self.live.client("s3")

    def operation(self) -> Operation:
        session = Session(self.cloud or self.live.cloud(), policy=QUICK)
        ledger = Ledger.open(self.folder / "ledger")
        door = Door(session, ledger, "legs", policy=Protection(), emit=self.heard.append)
        return Operation(session=session, ledger=ledger, door=door, emit=self.heard.append)

    def go(self, source: object, target: object, *, empty: bool = True, **options: Any) -> TransferReport:
        """Transfer; `empty` asks that nothing is staged afterwards."""
        operation = self.operation()
        try:
            return legs.transfer(
                operation, str(source), str(target), LegOptions(**options), bucket=self.through
            )
        finally:
            operation.ledger.close()
            assert not empty or self.staged() == []

    def said(self) -> str:
        return "\n".join(event.text for event in self.heard if isinstance(event, Notice))

    def inside(self, machine: str, path: str = "") -> Path:
        """A folder of a machine, which has the same name outside."""
        return (self.live.home / "sandbox/state/machines" / machine / "home" / path).resolve()

    def at(self, machine: str, path: str) -> str:
        return f"{machine}:{self.inside(machine, path)}"

    def staged(self) -> list[str]:
        return [
            item["Key"]
            for bucket in self.s3.list_buckets()["Buckets"]
            for item in self.s3.list_objects_v2(Bucket=bucket["Name"], Prefix="runctl/staging/").get(
                "Contents", []
            )
        ]

    def objects(self, prefix: str) -> dict[str, bytes]:
        found = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return {
            item["Key"].removeprefix(prefix): self.s3.get_object(Bucket=self.bucket, Key=item["Key"])[
                "Body"
            ].read()
            for item in found
        }

    def workers(self, machine: str) -> list[str]:
        """What works for a transfer on a machine."""
        found = self.live.command(machine, "cat $HOME/.runctl/carry/*.lock 2>/dev/null; true")
        return found["StandardOutputContent"].split()


def tree(folder: Path) -> Path:
    """Small files, an empty one, a program, names that shells fear, one file in parts."""
    (folder / "deep/er").mkdir(parents=True)
    for number in range(40):
        (folder / f"deep/{number}.txt").write_bytes(b"%d\n" % number * number)
    (folder / "deep/er/empty").write_bytes(b"")
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "a b'c\"d $(x) ß漢.txt").write_bytes(b"x")
    (folder / "-rf").write_bytes(b"y")
    (folder / "big").write_bytes(os.urandom(20 * MIB + 7))
    for path in folder.rglob("*"):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789))
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int, bool]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns, os.access(path, os.X_OK))
        for path in folder.rglob("*")
        if path.is_file()
    }


def plain(folder: Path) -> dict[str, bytes]:
    return {name: found[0] for name, found in contents(folder).items()}


@dataclass
class Command:
    """The command as a process of its own, with the road's ledger."""

    road: Road
    home: Path
    environment: dict[str, str] = field(default_factory=dict[str, str])

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "runctl", *arguments],
            env={**os.environ, "RUNCTL_HOME": str(self.home), **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=90)
        assert process.returncode == code, err.decode()
        return out.decode(), err.decode()

    def killed_in_the_middle(self, source: object, target: object, partial: Path) -> None:
        """A big file on its way; SIGKILL once a piece has arrived, and before the last has."""
        process = self.start("transfer", str(source), str(target), *SLOWLY)

        def pieces() -> int:
            records = list(partial.glob(".runctl-partial-*.parts")) if partial.is_dir() else []
            return max((record.read_bytes().count(b"\n") - 1 for record in records), default=0)

        try:
            self.road.live.until(lambda: pieces() >= 1 or process.poll() is not None, 60)
            assert process.poll() is None, process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def big(path: Path) -> Path:
    path.mkdir()
    (path / "big").write_bytes(os.urandom(50 * MIB))
    return path
