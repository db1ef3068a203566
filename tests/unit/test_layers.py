"""The contracts between layers hold, and a wrong import breaks them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = str(Path(sys.executable).parent / "lint-imports")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = {found["id"]: found["name"] for found in SETTINGS["tool"]["importlinter"]["contracts"]}


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


WRONG = [
    ("ledger/jobs.py", "import runctl.cli.main", "layers"),
    ("render/job.py", "import runctl.cli.main", "layers"),
    ("providers/local.py", "import runctl.storage.store", "layers"),
    ("agent/run.py", "import runctl.errors", "agent"),
    ("agent/run.py", "import msgspec", "agent"),
    ("sandbox/state.py", "import runctl.ledger", "sandbox-below"),
    ("jobs/supervise.py", "import runctl.sandbox.control", "sandbox-above"),
    ("jobs/plan.py", "import boto3", "boto3"),
    ("providers/local.py", "import botocore", "boto3"),
    ("jobs/plan.py", "import obstore", "obstore"),
    ("cli/train.py", "import sqlite3", "sqlite3"),
    ("pricing/meter.py", "import rich", "rich"),
    ("jobs/plan.py", "import click", "rich"),
    ("providers/aws/session.py", "import moto", "moto"),
]


@pytest.mark.parametrize(("module", "line", "contract"), WRONG)
def test_a_wrong_import_breaks_its_contract(tree: Path, module: str, line: str, contract: str) -> None:
    path = tree / "src" / "runctl" / module
    path.write_text(path.read_text() + f"\n{line}\n")
    done = lint(tree)
    assert done.returncode != 0, done.stdout
    assert f"{CONTRACTS[contract]} BROKEN" in done.stdout
    assert "1 broken" in done.stdout


def test_every_contract_has_a_wrong_import_that_breaks_it() -> None:
    assert {contract for _, _, contract in WRONG} == set(CONTRACTS)
