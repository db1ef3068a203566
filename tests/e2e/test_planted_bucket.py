"""A bucket in which a stranger wrote whatever a field can hold: taken in, looked at and refused by commands.

Each hostile value lies in a job of its own, in one field of one object. The objects, fields and values are
those of `tests/unit/trust`, found from the types.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import hostile
import pytest

from runctl.jobs.attempt import AgentState
from runctl.jobs.claimed import ClaimedSpec
from runctl.storage import claims
from runctl.storage.manifests import Manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

COMMIT = "000001-step.pt"
INTERNAL = 70
VALUES_A_FIELD = 3
SPEC = {
    "name": "digits",
    "on": "sandbox",
    "root": "/gone",
    "workdir": ".",
    "command": ["python3", "train.py"],
    "instance_type": "g5.xlarge",
    "project": "vision",
    "user": "ada",
    "checkpoints": "kept",
}
STATE = {"job": "any", "attempt": 1, "phase": "ended", "cause": "notice", "started": 1e3, "ended": 1.6e3}
OWN: dict[type[Any], tuple[str, dict[str, Any]]] = {
    ClaimedSpec: ("spec.json", SPEC),
    AgentState: ("attempt-1/state.json", STATE),
    Manifest: (f"checkpoints/{COMMIT}/manifest.json", {}),
}
"""Where an object of each kind lies below its job, and what makes a job out of the kind's example."""


class Plant(NamedTuple):
    """One job of the bucket: its objects, and which field of which kind is the stranger's."""

    job: str
    kind: type[Any]
    path: tuple[str | int, ...]
    objects: dict[str, bytes]

    @property
    def is_refused(self) -> bool:
        """Whether the object is none of its kind."""
        key = OWN[self.kind][0]
        try:
            claims.decode(self.objects[key], self.kind, key)
        except claims.Unbelievable:
            return True
        return False


def plants() -> list[Plant]:
    """Each field with some of the values, every value somewhere; each kind with what is no object at all."""
    found: list[Plant] = []
    for kind, (key, fixed) in OWN.items():
        fields: dict[tuple[str | int, ...], list[Any]] = {}
        for planted in hostile.planted(kind):
            fields.setdefault(planted.path, []).append(planted)
        wholes: list[tuple[tuple[str | int, ...], bytes]] = [((), raw) for raw in hostile.RAW]
        for number, (path, each) in enumerate(fields.items()):
            light = [one for one in each if one.value is not hostile.HUGE]
            chosen = [light[(number * VALUES_A_FIELD + at) % len(light)] for at in range(VALUES_A_FIELD)]
            if number == 0:
                chosen += [one for one in each if one.value is hostile.HUGE]
            for one in chosen:
                whole = {**one.whole, **{name: value for name, value in fixed.items() if name != path[0]}}
                wholes.append((path, json.dumps(whole).encode()))
        for path, data in wholes:
            job = f"planted-{len(found):05}"
            objects = {
                "spec.json": json.dumps(SPEC).encode(),
                "attempt-1/state.json": json.dumps(STATE).encode(),
                "attempt-1/log/000000000000": b"\x1b]0;owned\x07 step 1\n",
                f"checkpoints/{COMMIT}/step.pt": b"pickled",
            }
            found.append(Plant(job, kind, path, {**objects, key: data}))
    return found


class Laptop:
    """A home, a folder that commands stand in, and the bucket that they are told of."""

    def __init__(self, cloud: Any, folder: Path) -> None:
        self.cloud, self.folder, self.bucket = cloud, folder, cloud.name("bucket")
        for name in ("home", "me", "here"):
            (folder / name).mkdir()
        (folder / "me/.bashrc").write_text("# mine\n")
        (folder / "here/thesis.txt").write_text("unpublished\n")
        (folder / "here/train.py").write_text("print('mine')\n")
        (folder / "home/sandbox").symlink_to(cloud.home / "sandbox", target_is_directory=True)
        self.s3 = cloud.client("s3", max_pool_connections=8)
        self.s3.create_bucket(Bucket=self.bucket)

    def plant(self, all_of_them: list[Plant]) -> None:
        def put(item: tuple[str, bytes]) -> None:
            self.s3.put_object(Bucket=self.bucket, Key=item[0], Body=item[1])

        items = [
            (f"runctl/jobs/{one.job}/{key}", data) for one in all_of_them for key, data in one.objects.items()
        ]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, items))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command, which may refuse, and neither breaks nor gives the terminal orders."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("RUNCTL_", "AWS_"))}
        own = {
            "RUNCTL_HOME": str(self.folder / "home"),
            "RUNCTL_CONFIG": os.devnull,
            "RUNCTL_AWS_BUCKET": self.bucket,
            "RUNCTL_CLOUD": "sandbox",
            "RUNCTL_USER": "ada",
            "HOME": str(self.folder / "me"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "runctl", *words],
            cwd=self.folder / "here",
            env=clean | own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=600,
        )
        assert done.returncode != INTERNAL, (words, done.stderr[-3000:])
        assert "Traceback" not in done.stderr, (words, done.stderr[-3000:])
        said = done.stderr if words[1] == "logs" else done.stdout + done.stderr  # a log in a pipe is exact
        assert not set(said) & set("\x1b\x07\0\u202e"), (words, said[-3000:])
        return done

    def outside(self) -> dict[str, Any]:
        """All files but those of the ledger and its copies, all objects, and every machine there ever was."""
        found: dict[str, Any] = {}
        for parent, _, leaves in os.walk(self.folder):
            if Path(parent) not in {self.folder / "home", self.folder / "home/ledger-copies"}:
                found |= {f"{parent}/{leaf}": Path(parent, leaf).read_bytes() for leaf in leaves}
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        found |= {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])}
        found["buckets"] = [one["Name"] for one in self.s3.list_buckets()["Buckets"]]
        found["machines"] = self.cloud.control.history()
        found["beyond"] = [path for path in ("/etc/x", "/x") if Path(path).exists()]
        return found


def test_a_planted_bucket_writes_sends_and_runs_nothing_and_each_plant_is_named(
    sandbox: Any, tmp_path: Path
) -> None:
    laptop, planted = Laptop(sandbox, tmp_path), plants()
    laptop.plant(planted)
    before = laptop.outside()
    found = json.loads(laptop.run("resources", "adopt", "--output", "json").stdout)
    taken, told = set(found["new"]), "\n".join(found["failures"])
    assert [one for one in planted if one.job not in taken and one.job not in told] == []
    assert [
        one for one in planted if one.is_refused and one.kind is not Manifest and one.job not in told
    ] == []
    assert {one.kind for one in planted if one.job in taken} == set(OWN)
    assert {one.kind for one in planted if one.job in told} == {ClaimedSpec, AgentState}
    assert laptop.outside() == before

    # One job for each field, first those whose value is not of its type.
    looked: dict[tuple[Any, ...], Plant] = {}
    for one in sorted(planted, key=lambda one: not one.is_refused):
        if one.job in taken:
            looked.setdefault((one.kind, one.path), one)
    assert {kind for kind, _ in looked} == set(OWN)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: look(laptop, one), looked.values()))
    assert laptop.outside() == before


def look(laptop: Laptop, one: Plant) -> None:
    """What a user does with a job that was taken in: each command names it, and none acts."""
    shown = laptop.run("jobs", "show", one.job)
    assert one.job in shown.stdout + shown.stderr, one
    refused = laptop.run("jobs", "resume", one.job, "--yes")
    assert refused.returncode != 0, one
    assert one.job in refused.stderr, one
    if one.kind is not Manifest:
        laptop.run("jobs", "logs", one.job)
        laptop.run("jobs", "wait", one.job)
    else:
        planned = laptop.run("jobs", "resume", one.job, "--from", COMMIT, "--root", ".", "--dry-run")
        assert (planned.returncode != 0) or not one.is_refused, one
        assert COMMIT in planned.stdout + planned.stderr, one
