"""Commands in a clone whose links lead elsewhere: nothing is written there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from runctl.errors import ValidationError
from runctl.render import output

from .conftest import Run

SCRIPT = """import os, pathlib
for name in ("RUNCTL_OUTPUT_DIR", "RUNCTL_CHECKPOINT_DIR"):
    pathlib.Path(os.environ[name], "made").write_text("x")
"""


def plant(project: Path, name: str, target: Path) -> None:
    """Make the project a clone of a repository with this link."""
    theirs = project.parent / "theirs"
    git("init", "-q", str(theirs))
    (theirs / name).parent.mkdir(parents=True, exist_ok=True)
    (theirs / name).symlink_to(target)
    (theirs / "train.py").write_text(SCRIPT)
    git("-C", str(theirs), "add", "-Af")
    git("-C", str(theirs), "commit", "-qm", "all")
    for path in project.iterdir():
        path.unlink()
    git("clone", "-q", str(theirs), str(project))


def git(*arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("link", "command"),
    [
        (".runctl", ["train", "train.py"]),
        (".runctl/jobs", ["train", "train.py"]),
        (".runctl/.gitignore", ["train", "train.py"]),
        ("checkpoints", ["train", "train.py", "--checkpoints", "checkpoints"]),
        ("checkpoints", ["train", "train.py", "--checkpoints", "checkpoints/deeper"]),
        ("results", ["train", "train.py", "--output", "results"]),
        ("results", ["train", "train.py", "--output", "results/a/b"]),
        ("results", ["transfer", "train.py", "results/"]),
        ("results", ["transfer", "train.py", "results/copy.py"]),
        ("results/a", ["transfer", "train.py", "results/a/b/c.py"]),
        ("results", ["data", "pack", "theirs", "results"]),
        ("results", ["train", "train.py", "--data", "results"]),
        ("results", ["transfer", "results", "copy"]),
        (".runctl.toml", ["config", "set", "train.spot", "true"]),
    ],
)
def test_nothing_is_written_through_a_link_that_came_with_a_clone(
    run: Run, project: Path, tmp_path: Path, link: str, command: list[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "bashrc").write_text("mine\n")
    plant(project, link, outside / "bashrc" if link.rpartition("/")[2].startswith(".git") else outside)
    (project / "theirs").mkdir()
    (project / "theirs" / "data.bin").write_bytes(b"x")
    done = run(*command)
    assert done.returncode != 0, done.stdout
    assert "Nothing is " in done.stderr
    assert f" through {project / link}" in done.stderr or link in {".runctl.toml", "results/a"}
    assert not (project / "copy").exists()
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"bashrc": "mine\n"}


def test_a_link_of_the_users_own_is_followed(run: Run, project: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    plant(project, "elsewhere", tmp_path / "elsewhere")
    for name in ("checkpoints", "results", ".runctl"):
        (tmp_path / f"big-{name}").mkdir()
        (project / name).symlink_to(tmp_path / f"big-{name}")
    done = run("train", "train.py", "--checkpoints", "checkpoints", "--output", "results")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "big-checkpoints" / "made").exists()
    assert (tmp_path / "big-results" / "made").exists()
    assert (tmp_path / "big-.runctl" / "jobs").is_dir()


def test_a_file_that_a_command_writes_is_not_a_link_of_the_repository(project: Path, tmp_path: Path) -> None:
    target = tmp_path / "bashrc"
    target.write_text("mine\n")
    plant(project, "graph.json", target)
    with pytest.raises(ValidationError, match="Nothing is written through"):
        output.write_file(project / "graph.json", b"{}")
    assert target.read_text() == "mine\n"
