"""Every command that touches a cloud tells of high costs and of what was left unfinished, however it ends."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runctl.cli.main import run
from runctl.ledger import AttemptRecord, JobRecord, Ledger, Owner
from runctl.model import JobId, JobState

NOBODY = "i-0123456789abcdef0"
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(sandbox_cloud: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a job in the sandbox, and an operation whose process is dead."""
    found = tmp_path_factory.mktemp("attention")
    (found / "sandbox").symlink_to(sandbox_cloud.home / "sandbox", target_is_directory=True)
    sandbox_cloud.client("s3").create_bucket(Bucket="attention")
    job = JobRecord(
        id=JobId("digits-1"),
        name="digits",
        spec=b"{}",
        state=JobState.RUNNING,
        target="sandbox",
        cloud=sandbox_cloud.cloud().key,
        folder=None,
        store="s3://attention/runctl/jobs/digits-1",
        project="digits",
        user="ada",
        created=BEGUN,
        updated=BEGUN,
    )
    dead = Owner(pid=2**22 - 1, started=1.0, host=platform.node())
    with Ledger.open(found) as ledger:
        ledger.jobs.add(job, "asked for")
        attempt = AttemptRecord(job=job.id, number=1, state="running", created=BEGUN, instance_id=NOBODY)
        ledger.jobs.save_attempt(attempt)
        ledger.journal.begin("create-volume", subject="lost", payload=b"{}", owner=dead, at=BEGUN)
    return found


@pytest.fixture(autouse=True)
def asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNCTL_HOME", str(home))
    monkeypatch.setenv("RUNCTL_CLOUD", "sandbox")
    monkeypatch.setenv("RUNCTL_THRESHOLDS_USD_TOTAL", "0")
    monkeypatch.chdir(home)


@pytest.mark.parametrize(
    "words",
    [
        "aws ebs list",
        "aws ebs list --quiet",
        pytest.param("aws ebs list --output json", marks=pytest.mark.slow),
        f"aws terminate {NOBODY} --yes",
        f"aws monitor {NOBODY}",
        f"aws train {NOBODY} -- true",
        "jobs logs digits-1",
        pytest.param("jobs wait digits-1", marks=pytest.mark.slow),
        pytest.param("jobs show digits-1", marks=pytest.mark.slow),
        "resources summary",
        "s3 list s3://attention",
        f"transfer {NOBODY}:/data here",
        "train --on sandbox --instance-type m7i.large --dry-run -- true",
        pytest.param("data plan s3://attention/set", marks=pytest.mark.slow),
    ],
)
def test_a_command_that_touches_the_cloud_warns(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(words.split())
    said = capsys.readouterr()
    assert "the limit for this warning is 0 USD" in said.err
    assert said.err.count("left unfinished: create-volume of lost: runctl tx resume tx-") == 1, said.err
    assert "the limit for" not in said.out


@pytest.mark.parametrize("words", ["jobs list", "config show", "tx list", "train --dry-run -- true"])
def test_a_command_that_stays_here_says_nothing_of_it(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(words.split())
    assert "the limit for" not in capsys.readouterr().err
