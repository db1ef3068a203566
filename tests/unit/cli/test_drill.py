"""`runctl drill` passes whoever survives an interruption, and nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Run = Callable[..., CompletedProcess[str]]

# The run in peace leaves a mark; one that finds it waits near its end for the notice, however slow the host.
SCRIPT = """
import os, pathlib, signal, sys, time

manners = sys.argv[1].split(",")
mark = pathlib.Path(sys.argv[2])
meet, steps, told = mark.exists() and os.environ["RUNCTL_ATTEMPT"] == "1", 30, []
mark.touch()
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stuck" in manners else lambda *_: told.append(1))
came = os.environ.get("RUNCTL_RESUME_FROM") if "anew" not in manners else None
done = int(pathlib.Path(came).read_text()) if came else 0
for step in range(done + 1, steps + 1):
    time.sleep(0.01)
    until = time.monotonic() + 20
    while meet and step == steps - 1 and not told and time.monotonic() < until:
        time.sleep(0.01)
    if "quiet" not in manners:
        print(f"step {step}/{steps}", flush=True)
    if told and "deaf" not in manners:
        checkpoint = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"], f"step-{step}.json")
        checkpoint.with_suffix(".tmp").write_text(str(step))
        checkpoint.with_suffix(".tmp").replace(checkpoint)
        sys.exit(143)
if "mute" not in manners:
    result = done if "other" in manners else steps
    pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], "result.txt").write_text(f"{result}")
"""


@pytest.fixture
def script(run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "train.py").write_text(SCRIPT)
    return folder / "train.py"


def test_a_survivor_is_interrupted_at_a_step_and_loses_none(run: Run, script: Path) -> None:
    mark = str(script.parent.parent / "mark")
    done = run("drill", "train.py", "--most-steps-lost", "0", "--output", "json", "--", "good", mark)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found = told["drill"]
    assert (told["survived"], found["interrupted"], found["steps_lost"]) == (True, True, 0)
    assert 4 <= found["noticed_at_step"] <= found["last_step"] == found["resumed_step"] < 30
    assert (found["same_result"], found["began_anew"]) == (True, False)
    assert not (script.parent / ".runctl").exists()  # it worked on copies


def test_a_survivor_that_names_no_steps_is_interrupted_by_time(run: Run, script: Path) -> None:
    mark = str(script.parent.parent / "mark")
    done = run("drill", "train.py", "--output", "json", "--", "quiet", mark)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["drill"]
    assert (found["interrupted"], found["noticed_at_step"], found["same_result"]) == (True, None, True)
    assert found["noticed_after_seconds"] >= 0.3


@pytest.mark.parametrize(
    ("manners", "what", "why", "advice"),
    [
        ("anew", "does not survive", "it began anew", "RUNCTL_RESUME_FROM"),
        pytest.param(
            *("other", "does not survive", "its result differs", "all that the next step depends on"),
            marks=pytest.mark.slow,
        ),
        ("mute", "does not survive", "no output file", "RUNCTL_OUTPUT_DIR"),
    ],
)
def test_whose_work_is_lost_does_not_survive(
    run: Run, script: Path, manners: str, what: str, why: str, advice: str
) -> None:
    done = run("drill", "train.py", "--", manners, str(script.parent.parent / "mark"))
    assert done.returncode == 4, done.stdout
    assert "NOT survived" in done.stdout
    assert what in done.stderr
    assert why in done.stderr
    assert advice in done.stderr


def test_a_script_that_does_not_listen_and_comes_to_its_end_proves_nothing(run: Run, script: Path) -> None:
    done = run("drill", "train.py", "--", "deaf", str(script.parent.parent / "mark"))
    assert done.returncode == 4, done.stdout
    assert "went on to its end after the notice" in done.stderr
    assert "--notice" in done.stderr


def test_a_script_that_is_cut_off_without_a_checkpoint_loses_its_work(run: Run, script: Path) -> None:
    mark = str(script.parent.parent / "mark")
    done = run("drill", "train.py", "--notice", "5", "--output", "json", "--", "stuck", mark)
    assert done.returncode == 4, done.stdout
    found = json.loads(done.stdout.splitlines()[-1])["drill"]
    assert (found["interrupted"], found["began_anew"], found["steps_lost"]) == (
        True,
        True,
        found["last_step"],
    )


def test_a_script_that_is_over_before_its_notice_proves_nothing(run: Run, script: Path) -> None:
    # The second run never comes to the step of its notice, on whatever host.
    script.write_text(
        "import pathlib, sys\nmark = pathlib.Path(sys.argv[1])\nif not mark.exists():\n"
        "    mark.touch()\n    for n in range(9): print('step', n)\n"
    )
    mark = str(script.parent.parent / "mark")
    done = run("drill", "train.py", "--most-steps-lost", "0", "--", mark)
    assert done.returncode == 4, done.stdout
    assert "The drill interrupted nothing" in done.stderr
    assert "give it more to do" in done.stderr


def test_a_script_that_fails_in_peace_is_told_so(run: Run, script: Path) -> None:
    script.write_text("raise SystemExit(3)\n")
    done = run("drill", "train.py")
    assert done.returncode == 4
    assert "fails without any interruption" in done.stderr
