"""The contracts between layers hold, and a wrong import breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = str(Path(sys.executable).parent / "lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(
        [LINT, "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ledger/jobs.py", "import runctl.cli.main"),
        ("jobs/plan.py", "import boto3"),
        ("agent/run.py", "import runctl.errors"),
        ("jobs/supervise.py", "import runctl.sandbox.control"),
        ("sandbox/state.py", "import runctl.ledger"),
        ("pricing/meter.py", "import rich"),
    ],
)
def test_a_wrong_import_breaks_them(tree: Path, module: str, line: str) -> None:
    path = tree / "src" / "runctl" / module
    path.write_text(path.read_text() + f"\n{line}\n")
    done = lint(tree)
    assert done.returncode != 0, done.stdout
    assert "BROKEN" in done.stdout
