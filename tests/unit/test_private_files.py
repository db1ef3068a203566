"""What runctl keeps for its user is nobody else's, whatever the mask of the shell."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from runctl import private_files
from runctl.ledger import Ledger


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _open_mask() -> object:
    before = os.umask(0)
    yield None
    os.umask(before)


def test_a_ledger_is_its_user_s_alone(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "home"):
        found = {path.name: mode(path) for path in (tmp_path / "home").iterdir()}
    assert found.pop("ledger.sqlite3") == 0o600
    assert set(found.values()) <= {0o600}
    assert mode(tmp_path / "home") == 0o700


def run(home: Path, folder: Path, *arguments: str) -> None:
    """A command of a user whose mask lets everybody read."""
    subprocess.run(
        [sys.executable, "-m", "runctl", *arguments],
        cwd=folder,
        env={**os.environ, "RUNCTL_HOME": str(home)},
        umask=0o022,
        check=True,
        capture_output=True,
    )


SCRIPT = """
import os, pathlib
for folder in (os.environ["RUNCTL_CHECKPOINT_DIR"], "mine"):
    pathlib.Path(folder).mkdir(exist_ok=True)
    pathlib.Path(folder, "model.json").write_text("{}")
"""


def test_a_job_s_folder_is_its_user_s_alone_and_no_folder_of_its_script(
    tmp_path: Path,
) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text(SCRIPT)
    (project / ".runctl").mkdir(0o755)
    (project / ".runctl").chmod(0o755)
    run(home, project, "train", "train.py", "--checkpoints", "kept")
    own = [home, *home.rglob("*"), project / ".runctl", *(project / ".runctl").rglob("*")]
    assert {path.name for path in own} >= {
        "ledger.sqlite3",
        "state.json",
        "spec.json",
        "output.log",
        "model.json",
    }
    assert [str(path) for path in own if mode(path) & 0o077] == []
    for path, expected in (
        ("mine", 0o755),
        ("mine/model.json", 0o644),
        ("kept", 0o755),
        ("kept/model.json", 0o644),
    ):
        assert mode(project / path) == expected


def test_what_an_older_runctl_left_open_is_closed_at_the_next_run(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Ledger.open(home).close()
    home.chmod(0o755)
    (home / "ledger.sqlite3").chmod(0o644)
    run(home, tmp_path, "jobs", "list")
    assert mode(home) == 0o700
    assert mode(home / "ledger.sqlite3") == 0o600
    with sqlite3.connect(home / "ledger.sqlite3") as still_one:
        assert still_one.execute("SELECT count(*) FROM jobs").fetchone() == (0,)


def test_a_folder_of_everybody_s_stays_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    private_files.tighten(shared)
    assert mode(shared) == 0o1777
    (tmp_path / "link").symlink_to(tmp_path)
    before = mode(tmp_path)
    private_files.tighten(tmp_path / "link")
    assert mode(tmp_path) == before


def test_a_file_is_private_from_its_first_moment(tmp_path: Path) -> None:
    with open(tmp_path / "a", "w", opener=private_files.opener) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    with private_files.mask():
        (tmp_path / "b").touch()
    (tmp_path / "c").touch()
    assert (mode(tmp_path / "b"), mode(tmp_path / "c")) == (0o600, 0o666)
