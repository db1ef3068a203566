"""A sandbox that is killed under a job: the command says so, the job is closed, no process is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WALK = Path(__file__).with_name("walk.py")
DEADLINE = 120.0
"""Real seconds: a machine boots and a script begins, on a host that may be busy."""
TRAIN = ("--on", "sandbox", "--instance-type", "m7i.large", "--", "--steps", "5000")


def _runctl(live: Any, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "runctl", *arguments],
        env={**os.environ, "RUNCTL_HOME": str(live.home)},
        cwd=live.home.parent / "p",
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def _until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("isolation", ["plain", pytest.param("namespaces", marks=pytest.mark.slow)])
def test_a_killed_sandbox_ends_its_jobs_with_the_reason(
    start_sandbox: Callable[..., Any], tmp_path: Path, isolation: str
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/walk.py").write_bytes(WALK.read_bytes())
    with start_sandbox(tmp_path / "home", isolation=isolation) as live:
        if live.control.status()["isolation"] != isolation:
            pytest.skip("this host allows no namespaces")
        said = tmp_path / "said"
        with said.open("wb") as output:
            command = subprocess.Popen(
                [sys.executable, "-m", "runctl", "train", "walk.py", *TRAIN],
                env={**os.environ, "RUNCTL_HOME": str(live.home)},
                cwd=tmp_path / "p",
                stdout=output,
                stderr=output,
            )
        _until(lambda: "step 3/" in said.read_text(), "the script runs")
        refused = _runctl(live, "sandbox", "up", "--speed", "3", code=1).stderr
        assert "its speed is 40, not 3" in refused
        assert "next: runctl sandbox clock --speed 3" in refused
        assert "1 unfinished job" in _runctl(live, "sandbox", "down", "--dry-run").stderr

        os.kill(live.record.pid, signal.SIGKILL)
        assert command.wait(DEADLINE) == 2, said.read_text()
        told = said.read_text()
        assert "Traceback" not in told
        assert f"its process {live.record.pid} is gone" in told
        assert "next: begin anew: runctl sandbox up && runctl train walk.py --on sandbox" in told

        (job,) = json.loads(_runctl(live, "jobs", "list", "--output", "json").stdout)
        assert job["state"] == "failed"
        shown = json.loads(_runctl(live, "jobs", "show", "--output", "json").stdout)["report"]
        assert "its sandbox ended" in shown["cause"]
        assert shown["attempts"][0]["cost"] is not None
        assert shown["attempts"][0]["ended"] is not None
        _runctl(live, "jobs", "wait", code=2)
        assert "begin anew" in _runctl(live, "jobs", "resume", code=3).stderr
        assert "is failed already" in _runctl(live, "jobs", "stop", code=1).stderr
        _until(lambda: live.processes() == [], "the processes of its machines end with it")


@pytest.mark.slow
def test_a_sandbox_that_is_taken_down_closes_its_jobs_at_once(
    start_sandbox: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/walk.py").write_bytes(WALK.read_bytes())
    with start_sandbox(tmp_path / "home") as live:
        job = _runctl(live, "train", "walk.py", "--detach", "-q", *TRAIN).stdout.strip()
        down = _runctl(live, "sandbox", "down", "--output", "json")
        assert json.loads(down.stdout) == {"was_up": True, "jobs": [job]}
        assert f"job {job} is closed: its sandbox ended: it was taken down" in down.stderr
        (found,) = json.loads(_runctl(live, "jobs", "list", "--output", "json").stdout)
        assert found["state"] == "failed"
