"""`resources list|export` and what watches: jobs, platforms, what could not be read, turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runctl.cli.main import run
from runctl.ledger import JobRecord, Ledger
from runctl.model import JobId, JobState

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def job(name: str, cloud: str, state: JobState = JobState.RUNNING) -> JobRecord:
    return JobRecord(
        id=JobId(name),
        name=name,
        spec=b"{}",
        state=state,
        target=cloud.partition(":")[0],
        cloud=cloud,
        folder="/somewhere" if cloud == "local" else None,
        store=f"s3://bucket/runctl/jobs/{name}",
        project="listing",
        user="ada",
        created=BEGUN,
        updated=BEGUN,
    )


@pytest.fixture
def listed(
    sandbox_cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Any]:
    """Runs a listing in this process, over a home whose ledger has jobs of several clouds."""
    (tmp_path / "sandbox").symlink_to(sandbox_cloud.home / "sandbox", target_is_directory=True)
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path))
    monkeypatch.setenv("RUNCTL_CLOUD", "sandbox")
    monkeypatch.chdir(tmp_path)
    here = sandbox_cloud.cloud().key
    with Ledger.open(tmp_path) as ledger:
        for record in (
            job("here", here),
            job("over", here, JobState.SUCCEEDED),
            job("home", "local"),
            job("elsewhere", "sandbox:other"),
        ):
            ledger.jobs.add(record, "asked for")

    def call(*words: str) -> str:
        code = run(["resources", *words, "--project", "listing"])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    yield call
    sandbox_cloud.control.clear_faults()


def test_jobs_that_go_on_are_listed_beside_what_they_use(listed: Any) -> None:
    assert listed("list", "--quiet").split() == ["here", "home"]
    assert listed("list", "--quiet", "--kind", "job").split() == ["here", "home", "over"]
    assert listed("list", "--quiet", "--platform", "local").split() == ["home"]
    assert listed("list", "--quiet", "--platform", "aws").split() == []
    rows = json.loads(listed("list", "--output", "json"))["resources"]
    assert [(row["id"], row["platform"]) for row in rows] == [("here", "sandbox"), ("home", "local")]


def test_an_export_says_what_could_not_be_read(listed: Any, sandbox_cloud: Any) -> None:
    sandbox_cloud.control.add_fault(
        "ec2", "error", operation="DescribeVolumes", code="UnauthorizedOperation", status=403
    )
    found = json.loads(listed("export", "--format", "json"))
    assert any("volumes of us-east-1" in failure for failure in found["failures"])
    assert "not read: volumes of us-east-1" in listed("export", "--format", "html")


@pytest.mark.parametrize("words", ["resources list", "aws processes"])
def test_watching_shows_it_again_until_ctrl_c(
    listed: Any,
    words: str,
    sandbox_cloud: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    del listed
    from runctl.cli import aws_training, resources_list

    turns: list[float] = []

    def wait(seconds: float) -> None:
        turns.append(seconds)
        if len(turns) == 3:
            raise KeyboardInterrupt

    module = resources_list if words == "resources list" else aws_training
    monkeypatch.setattr(module, "time", type("Time", (), {"sleep": staticmethod(wait)}))
    machine = [sandbox_cloud.running()] if words == "aws processes" else []
    assert run([*words.split(), *machine, "--watch", "--output", "json"]) == 130
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == len(turns) == 3
    assert set(turns) == {module.WATCH_SECONDS}
