"""Every option of `runctl transfer` between a folder and S3 does what it says, or is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def place(s3_server: S3Server) -> str:
    return f"s3://{s3_server.new_bucket()}/set"


@pytest.fixture
def run(s3_server: S3Server, tmp_path: Path) -> Run:
    environment = {**os.environ, **s3_server.environment(), "RUNCTL_HOME": str(tmp_path / "home")}

    def transfer(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runctl", "transfer", *map(str, words), "--output", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr or done.stdout
        return done

    return transfer


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    return json.loads(done.stdout)


def _same_size_and_time(path: Path, data: bytes) -> None:
    status = path.stat()
    assert status.st_size == len(data)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_checksum_compares_by_content(run: Run, place: str, tmp_path: Path) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    here.mkdir()
    (here / "a").write_bytes(b"1111")
    (here / "b").write_bytes(b"same")
    run(here, place)
    run(place, back)
    _same_size_and_time(here / "a", b"2222")
    assert report(run(here, place))["moved_files"] == 0
    up = report(run(here, place, "--checksum"))
    assert (up["moved_files"], up["equal_files"]) == (1, 1)
    run(place, back)
    _same_size_and_time(back / "a", b"3333")
    assert report(run(place, back))["moved_files"] == 0
    down = report(run(place, back, "--checksum"))
    assert (down["moved_files"], down["equal_files"]) == (1, 1)
    assert (back / "a").read_bytes() == b"2222"


def test_a_bandwidth_limit_is_kept_both_ways(run: Run, place: str, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(os.urandom(300_000))
    for words in ((source, f"{place}/file"), (f"{place}/file", tmp_path / "back")):
        done = run(*words, "--bandwidth-limit", "300k")
        assert report(done)["seconds"] >= 0.95
        told = [json.loads(line) for line in done.stderr.splitlines()]
        last = [event for event in told if event["event"] == "Progress"][-1]
        assert last["rate"] > 0
        assert last["seconds_left"] >= 0


def test_what_speaks_of_folders_is_refused_for_a_single_file(run: Run, place: str, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"x")
    run(source, f"{place}/file")
    up = run(source, f"{place}/other", "--exclude", "*.tmp", code=1)
    assert "--exclude is for folders" in up.stderr
    down = run(f"{place}/file", tmp_path / "back", "--delete", "--yes", code=1)
    assert "--delete is for folders" in down.stderr
    assert not (tmp_path / "back").exists()


def test_no_verify_is_refused_on_the_way_up(run: Run, place: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_bytes(b"x")
    assert "for downloads" in run(tmp_path / "here", place, "--no-verify", code=1).stderr
    assert "for downloads" in run(tmp_path / "here" / "file", f"{place}/f", "--no-verify", code=1).stderr
    run(tmp_path / "here", place)
    assert report(run(place, tmp_path / "back", "--no-verify"))["moved_files"] == 1
