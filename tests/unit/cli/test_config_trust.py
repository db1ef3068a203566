"""A cloned repository's own settings, as the user meets them: real clones, real commands, a real terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import click
import pytest

from runctl.cli.root import root
from runctl.cli.trusting import GOES_ON

from .conftest import RUNCTL, Run

HOSTILE = (
    'project = "theirs"\n[train]\non = "sandbox"\ninstance_type = "p5.48xlarge"\n[aws]\nbucket = "theirs"\n'
)


def git(*arguments: str | Path) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def clone(run: Run, project: Path, tmp_path: Path) -> Path:
    """The project as a clone of somebody's repository."""
    theirs = tmp_path / "theirs"
    git("init", "-q", theirs)
    (theirs / ".runctl.toml").write_text(HOSTILE)
    (theirs / "train.py").write_text("print('theirs')\n")
    git("-C", theirs, "add", "-A")
    git("-C", theirs, "commit", "-qm", "all")
    for path in project.iterdir():
        path.unlink()
    git("clone", "-q", theirs, project)
    return project


def test_what_would_act_is_refused_and_names_the_settings_and_the_one_command(run: Run, clone: Path) -> None:
    done = run("train", "train.py")
    assert done.returncode == 3
    assert "train.on = 'sandbox'" in done.stderr
    assert "sends: the bucket that code, data and results are sent to" in done.stderr
    assert f"runctl config trust {clone / '.runctl.toml'}" in done.stderr
    error = json.loads(run("train", "train.py", "--output", "json").stderr)["error"]
    assert error["kind"] == "NotTrusted"
    assert {item["key"]: item["value"] for item in error["settings"]} == {
        "train.on": "sandbox",
        "train.instance_type": "p5.48xlarge",
        "aws.bucket": "theirs",
    }
    assert not (clone / ".runctl").exists()


def test_what_only_looks_goes_on_without_them(run: Run, clone: Path) -> None:
    assert run("jobs", "list").returncode == 0
    shown = json.loads(run("config", "show", "--output", "json").stdout)
    assert shown["aws.bucket"]["value"] is None
    assert shown["aws.bucket"]["not_trusted"] == "theirs"
    assert shown["aws.bucket"]["set_in"] == f"{clone / '.runctl.toml'}:6"
    assert shown["project"] == {"value": "theirs", "origin": f"{clone / '.runctl.toml'}:1"}
    assert "not trusted: 'theirs'" in run("config", "show").stdout
    assert run("config", "validate").returncode == 0


def test_a_yes_counts_for_this_content_alone_and_shows_in_the_plan(run: Run, clone: Path) -> None:
    (clone / ".runctl.toml").write_text('project = "ours"\n[train]\nspot = true\nmax_hours = 2\n')
    told = run("config", "trust")
    assert told.returncode == 0
    assert "spends: how machines are bought" in told.stderr
    plan = run("train", "train.py", "--dry-run")
    assert f"setting   train.max_hours = 2.0  ({clone / '.runctl.toml'}:4)" in plan.stderr
    found = json.loads(run("train", "train.py", "--dry-run", "--output", "json").stdout)
    assert [item["key"] for item in found["from_project"]] == ["project", "train.max_hours", "train.spot"]
    assert found["plan"]["spec"]["max_hours"] == 2.0
    with (clone / ".runctl.toml").open("a") as file:
        file.write("# pulled\n")
    assert run("train", "train.py", "--dry-run").returncode == 3
    (row,) = json.loads(run("config", "trusted", "--output", "json").stdout)
    assert (row["file"], row["trusted"]) == (str(clone / ".runctl.toml"), True)
    assert row["now"].startswith("changed")


def test_a_no_goes_on_without_them(run: Run, clone: Path) -> None:
    assert run("config", "untrust").returncode == 0
    done = run("train", "train.py")
    assert done.returncode == 0
    assert "theirs" in done.stdout
    assert "no" in run("config", "trusted").stdout.splitlines()[2].split()


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 130), ("", 130)])
def test_a_terminal_is_asked_once(run: Run, clone: Path, tmp_path: Path, answer: str, code: int) -> None:
    (clone / ".runctl.toml").write_text("[train]\nspot = true\n")
    said, status = on_terminal(["train", "train.py", "--dry-run"], answer, clone, tmp_path)
    assert "spends: how machines are bought" in said
    assert "count from now on?" in said
    assert status == code
    if code == 0:
        again, status = on_terminal(["train", "train.py", "--dry-run"], "", clone, tmp_path)
        assert status == 0
        assert "count from now on?" not in again


def on_terminal(arguments: list[str], answer: str, folder: Path, tmp_path: Path) -> tuple[str, int]:
    ours, theirs = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RUNCTL_", "AWS_"))}
    clean |= {"RUNCTL_HOME": str(tmp_path / "home"), "RUNCTL_CONFIG": str(tmp_path / "user.toml")}
    process = subprocess.Popen(
        [RUNCTL, *arguments], cwd=folder, env=clean, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, answer.encode() + b"\n")
    said = b""
    try:
        while data := os.read(ours, 4096):
            said += data
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return said.decode(), process.wait(60)


def test_a_file_that_all_may_write_is_never_trusted(run: Run, clone: Path) -> None:
    (clone / ".runctl.toml").chmod(0o666)
    refused = run("config", "trust")
    assert refused.returncode == 3
    assert "everybody may write to it" in refused.stderr
    assert run("train", "train.py").returncode == 3
    assert run("config", "untrust").returncode == 0
    assert run("train", "train.py").returncode == 0


def test_what_the_user_sets_counts_unless_the_file_was_somebody_elses(run: Run, clone: Path) -> None:
    done = run("config", "set", "aws.region", "us-east-1")
    assert done.returncode == 0
    assert "has no yes" in done.stderr
    assert run("train", "train.py").returncode == 3
    (clone / ".runctl.toml").unlink()
    assert "has no yes" not in run("config", "set", "aws.region", "us-east-1").stderr
    assert "has no yes" not in run("config", "set", "train.spot", "true").stderr
    shown = json.loads(run("config", "show", "--output", "json").stdout)
    assert (shown["aws.region"]["value"], shown["train.spot"]["value"]) == ("us-east-1", True)


def test_a_runctlignore_is_trusted_in_the_same_way(run: Run, clone: Path) -> None:
    (clone / ".runctlignore").write_text("*.log\n!.env\n")
    told = run("config", "trust", ".runctlignore")
    assert told.returncode == 0
    assert "'!.env'" in told.stderr
    (row,) = json.loads(run("config", "trusted", "--output", "json").stdout)
    assert row["file"] == str(clone / ".runctlignore")
    assert run("config", "trust", "train.py").returncode == 1
    assert run("config", "trust", "nothing/.runctl.toml").returncode == 1


def test_every_command_that_goes_on_is_one() -> None:
    assert set(_commands(root, ())) >= GOES_ON


def _commands(command: click.Command, way: tuple[str, ...]) -> list[str]:
    if not isinstance(command, click.Group):
        return [" ".join(way)]
    context = click.Context(command)
    children = ((name, command.get_command(context, name)) for name in command.list_commands(context))
    return [path for name, child in children if child for path in _commands(child, (*way, name))]
