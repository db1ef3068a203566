"""A job that another home made, taken up as a user does it: by commands, and by what the user names alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import HERE, Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 6
SCRIPT = """\
import os
import shutil
import sys

import walk

code = walk.main()
if code == 0 and "RUNCTL_DATA_DIR" in os.environ:
    shutil.copytree(os.environ["RUNCTL_DATA_DIR"], walk.OUTPUTS / "seen")
sys.exit(code)
"""


@pytest.fixture
def at_home(sandbox: Any, tmp_path: Path) -> Iterator[Callable[[str, str], Lab]]:
    """Makes homes of users of one cloud, each with the project's folder of its own."""
    labs: list[Lab] = []
    bucket = sandbox.name("bucket")  # with no other test's job in it

    def make(name: str, user: str) -> Lab:
        home, project = tmp_path / name / "home", tmp_path / name / "project"
        home.mkdir(parents=True)
        (home / "sandbox").symlink_to(sandbox.home / "sandbox", target_is_directory=True)
        project.mkdir()
        shutil.copy(HERE / "walk.py", project)
        (project / "learn.py").write_text(SCRIPT)
        labs.append(Lab(home, project, sandbox, {"RUNCTL_USER": user, "RUNCTL_CLOUD": "sandbox"}))
        labs[-1].environment["RUNCTL_AWS_BUCKET"] = bucket
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


def stopped_job(lab: Lab) -> str:
    """A job that was stopped at work, with a checkpoint committed."""
    train = lab.train("--steps", str(STEPS), "--interruptions", "1", script="learn.py")
    lab.committed(1, or_step=STEPS - 3)
    lab.run("jobs", "stop", "last")
    train.wait(timeout=60)
    job = lab.job()
    assert job is not None
    assert job[1] == "stopped", lab.said()
    return job[0]


def refused(lab: Lab, *words: str) -> str:
    """What a command says that must not do what it is asked to, and launches nothing."""
    before = lab.control.history()
    done = subprocess.run(
        [sys.executable, "-m", "runctl", *words],
        cwd=lab.project,
        env={**os.environ, "RUNCTL_HOME": str(lab.home), **lab.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode not in {0, 70}, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert lab.control.history() == before
    return done.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_home_takes_a_job_up_with_what_its_user_names_and_nothing_else(
    at_home: Callable[[str, str], Lab], tmp_path: Path
) -> None:
    ada, bob = at_home("ada", "ada"), at_home("bob", "bob")
    job = stopped_job(ada)
    adopting = bob.run("resources", "adopt")
    assert f"{job} is said to be ada's" in adopting.stderr
    assert job in bob.run("jobs", "list").stdout
    shown = json.loads(bob.run("jobs", "show", job, "--output", "json").stdout)
    assert shown["report"]["state"] == "stopped"
    assert "step 1/" in bob.run("jobs", "logs", job).stdout
    assert "adopted are named by their id" in refused(bob, "jobs", "resume", "last", "--yes")

    assert "--of-user ada" in refused(bob, "jobs", "resume", job, "--root", ".", "--yes")
    mine = ("jobs", "resume", job, "--of-user", "ada")
    told = refused(bob, *mine, "--yes")
    assert "--root FOLDER" in told
    [code] = re.findall(r"--accept-code ([0-9a-f]{64})", told)
    assert code in refused(bob, *mine, "--accept-code", "0" * 64, "--yes")
    assert "exclude each other" in refused(bob, *mine, "--accept-code", code, "--root", ".", "--yes")
    assert "--yes" in refused(bob, *mine, "--accept-code", code)
    assert "There is no folder" in refused(bob, *mine, "--root", "gone", "--yes")

    data, before = bob.project / "mine", files(bob.project)
    data.mkdir()
    (data / "a.txt").write_text("bob's data\n")
    results = tmp_path / "results"
    results.mkdir()
    (results / "result.txt").write_text("bob's own\n")
    (results / "thesis.txt").write_text("unpublished\n")
    resuming = (*mine, "--accept-code", code, "--data", "mine", "--outputs", str(results), "--yes")
    bob.finish(bob.start(*resuming), seconds=400)
    found = files(results)
    assert found.pop("result.txt") == bob.walked(STEPS)
    assert found.pop("seen/a.txt") == b"bob's data\n"
    assert found.pop("thesis.txt") == b"unpublished\n"
    [(kept, content)] = found.items()
    assert content == b"bob's own\n"
    assert kept in bob.said()
    assert files(bob.project) == {**before, "mine/a.txt": b"bob's data\n"}


def test_the_owner_goes_on_from_a_new_laptop_with_the_code_that_lies_there(
    at_home: Callable[[str, str], Lab],
) -> None:
    lost, new = at_home("lost", "ada"), at_home("new", "ada")
    job = stopped_job(lost)
    new.run("resources", "adopt")
    new.run("jobs", "resume", job, "--root", ".", "--dry-run")
    before = files(new.project)
    new.finish(new.start("jobs", "resume", job, "--root", ".", "--yes"), seconds=400)
    shown = json.loads(new.run("jobs", "show", job, "--output", "json").stdout)["report"]
    assert shown["state"] == "succeeded"
    assert shown["attempts"][-1]["resumed_step"] >= 1
    assert files(new.project) == before  # no outputs' place was named
