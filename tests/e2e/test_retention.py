"""A job that keeps its newest checkpoints: older ones go by the rules, and it goes on all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_stopping import commits

from runctl.jobs import retention


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch, lab: Any) -> Any:
    """Snapshots are looked through all the time, not every ten minutes: in the command, too."""
    (lab.home / "sitecustomize.py").write_text(
        "import datetime\n"
        "import runctl.jobs.retention\n"
        "runctl.jobs.retention.EVERY = datetime.timedelta(seconds=1)\n"
    )
    lab.environment["PYTHONPATH"] = str(lab.home)
    return lab


def test_older_checkpoints_go_while_it_runs_and_it_goes_on_after_an_interruption(often: Any) -> None:
    lab = often
    options = ("--keep-last", "1", "--keep-every", "7")
    planned = lab.run(
        "train", "walk.py", "--on", "sandbox", "--instance-type", "g5.xlarge", *options, "--dry-run"
    ).stderr
    assert "retention the newest checkpoint, each whose step is a multiple of 7; older ones go" in planned
    command = lab.train("--steps", "40", "--interruptions", "1", options=options)
    lab.committed(4)
    lab.until(lambda: "older snapshots were deleted" in lab.said(), "older ones go")
    lab.interrupt(lab.first_machine())
    lab.finish(command)
    first, second = lab.report()["attempts"]
    assert second["resumed_step"] == first["last_step"] > 0
    assert lab.output() == lab.walked(40)
    kept = commits(lab)
    steps = [int(name.rpartition("-")[2].removesuffix(".zip")) for name in kept]
    assert steps[-1] == 40
    # What it began from stays as long as it lives, and a while is nothing here.
    assert {step for step in steps if step % 7} in ({40}, {40, second["resumed_step"]})
    for name in kept:
        lab.run("checkpoint", "info", "last", name, "--verify")
    assert lab.report()["retention"] == "the newest checkpoint, each whose step is a multiple of 7"
    assert "older ones go" in lab.run("jobs", "show", "last").stdout

    planned = lab.run(
        "train", "walk.py", "--on", "sandbox", "--instance-type", "g5.xlarge", "--keep-last", "3", "--dry-run"
    ).stderr
    assert "so at most about" in planned
    for more in ((), ("--offline",)):
        found = json.loads(lab.run("resources", "summary", "--on", "sandbox", *more, "-o", "json").stdout)[
            "kept"
        ]
        (own,) = found["jobs"]
        assert own["job"] == lab.job()[0]
        assert own["bytes"] == found["bytes"] > 0
        assert found["at_least"] == bool(more)
        assert float(found["usd_per_month"]) == pytest.approx(found["bytes"] * 0.023 / 1e9)
    assert "in S3" in lab.run("resources", "summary", "--on", "sandbox").stdout


def test_what_has_no_bucket_and_what_keeps_all_is_left_alone(lab: Any) -> None:
    refused = lab.run("train", "walk.py", "--keep-last", "3", code=1).stderr
    assert "of no use on this machine" in refused
    refused = lab.run(
        "train", "walk.py", "--on", "sandbox", "--gpus", "1", "--keep-best", "loss", code=1
    ).stderr
    assert "beside --keep-last" in refused
    assert retention.EVERY.total_seconds() >= 60
