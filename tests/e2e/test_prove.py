"""`runctl prove` on scripts with one fault of resuming each, and on sound ones: all of them real runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "provable"
CULPRITS = {
    "metrics_overwritten": "metrics file overwritten",
    "not_atomic": "save is not atomic",
    "optimizer": "optimizer not restored",
    "order_of_data": "order of data",
    "random_state": "random state not restored",
    "schedule": "schedule restarted",
    "skipped_data": "data skipped",
    "wrong_file": "wrong file chosen",
}
SOUND = sorted(path.stem for path in (SCRIPTS / "sound").glob("*.py"))


def prove(tmp_path: Path, script: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    shutil.copy(script, tmp_path / "train.py")
    done = subprocess.run(
        [sys.executable, "-m", "runctl", "prove", "train.py", "--output", "json", *arguments],
        cwd=tmp_path,
        env={**os.environ, "RUNCTL_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[0])["proof"]


def test_a_fault_is_named_and_a_sound_script_is_not_accused(tmp_path: Path) -> None:
    faulty, sound = tmp_path / "faulty", tmp_path / "sound"
    faulty.mkdir()
    sound.mkdir()
    code, found = prove(faulty, SCRIPTS / "faulty" / "optimizer.py", "--at", "23")
    assert (code, [one["culprit"] for one in found["findings"]]) == (4, ["optimizer not restored"])  # type: ignore[attr-defined, index]
    code, found = prove(sound, SCRIPTS / "sound" / "plain_numbered.py", "--cuts", "1")
    assert (code, found["findings"], len(found["cuts"])) == (0, [], 1)  # type: ignore[arg-type]
    assert not (sound / "out").exists(), "the user's own folder is left alone"


def test_the_sixteen_are_there() -> None:
    assert sorted(path.stem for path in (SCRIPTS / "faulty").glob("*.py")) == sorted(CULPRITS)
    assert len(SOUND) == len(CULPRITS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(CULPRITS))
def test_each_planted_fault_is_named(name: str, tmp_path: Path) -> None:
    code, found = prove(tmp_path, SCRIPTS / "faulty" / f"{name}.py")
    culprits = [one["culprit"] for one in found["findings"]]  # type: ignore[attr-defined, index]
    assert (code, culprits[:1]) == (4, [CULPRITS[name]]), found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SOUND)
def test_no_sound_script_is_accused(name: str, tmp_path: Path) -> None:
    code, found = prove(tmp_path, SCRIPTS / "sound" / f"{name}.py")
    assert (code, found["findings"]) == (0, []), found
    assert found["cuts"]
