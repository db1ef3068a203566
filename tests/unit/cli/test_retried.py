"""A checkpoint that the script cannot go on from does not end the job: the snapshot before is tried."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runctl.errors import ExitCode

Run = Callable[..., subprocess.CompletedProcess[str]]
SCRIPT = """
import os, pathlib, sys, time, zipfile

folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
given = os.environ.get("RUNCTL_RESUME_FROM", "")
step = int(given.rpartition("_")[2].partition(".")[0]) if given else 0
batch = 100 * step
if step >= int(os.environ["BAD_FROM"]):
    sys.exit("KeyError: 'model'")
while step < 3:
    step += 1
    with zipfile.ZipFile(folder / "new.tmp", "w") as archive:
        archive.writestr("archive/data.pkl", f"{step} {time.time()}")
    (folder / "new.tmp").rename(folder / f"step_{step}.pt")
    until = time.time() + 60
    while time.time() < until and not list(folder.parent.glob(f"committed/*step_{step}.pt/manifest.json")):
        batch += 1
        print("step", batch, flush=True)
        time.sleep(0.1)
sys.exit(1 if not given else 0)
"""


def attempts(run: Run) -> list[tuple[str, str | None]]:
    told = json.loads(run("jobs", "show", "last", "-o", "json").stdout)["report"]["attempts"]
    return [(one["cause"], (one["resumed_from"] or "").partition("-")[2]) for one in told]


def test_the_snapshot_before_is_tried_once_and_said_so(run: Run, project: Path) -> None:
    (project / "train.py").write_text(SCRIPT)
    assert run("train", "train.py", BAD_FROM="3").returncode == ExitCode.JOB_FAILED
    resumed = run("jobs", "resume", "last", BAD_FROM="3")
    assert resumed.returncode == 0, resumed.stderr
    assert attempts(run) == [("failed", ""), ("failed", "step_3.pt"), ("finished", "step_2.pt")]
    assert "at once from 000003-step_3.pt: 000002-step_2.pt before it is tried" in resumed.stderr
    assert "from the snapshot before" in run("jobs", "show", "last").stdout


@pytest.mark.slow
def test_it_is_tried_once_alone(run: Run, project: Path) -> None:
    (project / "train.py").write_text(SCRIPT)
    run("train", "train.py", BAD_FROM="1")
    assert run("jobs", "resume", "last", BAD_FROM="1").returncode == ExitCode.JOB_FAILED
    assert attempts(run) == [("failed", ""), ("failed", "step_3.pt"), ("failed", "step_2.pt")]


@pytest.mark.slow
def test_a_snapshot_that_the_user_named_is_what_the_user_wants(run: Run, project: Path) -> None:
    (project / "train.py").write_text(SCRIPT)
    run("train", "train.py", BAD_FROM="3")
    assert run("jobs", "resume", "last", "--from", "000003", BAD_FROM="3").returncode == ExitCode.JOB_FAILED
    assert attempts(run) == [("failed", ""), ("failed", "step_3.pt")]
