"""The command line as a user meets it: a real process, a home and a project of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
RUNCTL = str(Path(sys.executable).parent / "runctl")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `runctl` in an empty project; keyword arguments become environment variables."""
    project = tmp_path / "project"
    project.mkdir()
    (project / ".runctl.toml").touch()

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("RUNCTL_", "AWS_"))}
        clean |= {"RUNCTL_HOME": str(tmp_path / "home"), "RUNCTL_CONFIG": str(tmp_path / "user.toml")}
        clean |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": str(tmp_path / "aws")}
        clean |= {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), **environment}
        return subprocess.run(
            [RUNCTL, *arguments],
            cwd=project,
            env=clean,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


@pytest.fixture
def project(run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "train.py").write_text("print('hello from the script')\n")
    return folder
