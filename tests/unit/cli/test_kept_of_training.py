"""What is asked to be kept of training is what the plan says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runctl.cli.train import request, train
from runctl.config import Settings, Values
from runctl.errors import ExitCode

Run = Callable[..., subprocess.CompletedProcess[str]]


def asked(*words: str) -> dict[str, object]:
    as_ours = ["-h", "--help"]  # click keeps what it made of the first context
    return train.make_context("train", ["train.py", *words], help_option_names=as_ours).params


@pytest.mark.parametrize(
    ("said", "count"), [("50GiB", 50 * 2**30), ("20GB", 20 * 10**9), ("0", 0), ("1.5TiB", 1536 * 2**30)]
)
def test_a_size_is_understood_in_both_kinds_of_units(said: str, count: int) -> None:
    assert request(Settings(Values(), {}), asked("--on", "aws", "--keep-written", said)).keep_written == count


def test_the_plan_names_what_is_kept(run: Run, project: Path) -> None:
    shown = run("train", "train.py", "--checkpoints", "out", "--checkpoint-pattern", "ckpt_*.pt", "--dry-run")
    assert "keeps     out and RUNCTL_OUTPUT_DIR" in shown.stderr
    plan = json.loads(
        run("train", "train.py", "--checkpoint-pattern", "a*", "--dry-run", "-o", "json").stdout
    )
    assert plan["plan"]["spec"]["checkpoint_pattern"] == "a*"


@pytest.mark.parametrize("pattern", ["", "/tmp/*.pt", "../*.pt"])
def test_a_pattern_that_leads_out_of_the_folder_is_refused(run: Run, project: Path, pattern: str) -> None:
    refused = run("train", "train.py", "--checkpoint-pattern", pattern, "--dry-run")
    assert refused.returncode == ExitCode.INPUT
    assert "matches no checkpoint" in refused.stderr


def test_a_bound_is_of_no_use_where_nothing_ends_with_a_machine(run: Run, project: Path) -> None:
    assert "of no use on this machine" in run("train", "train.py", "--keep-written", "1GB").stderr
