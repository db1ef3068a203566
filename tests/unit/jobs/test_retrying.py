"""A script that fails just after it resumed is given another checkpoint: once, and none that is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from snapped import KEY, take

from runctl.agent.snapshot import Entry
from runctl.jobs import retrying
from runctl.jobs import spec as specs
from runctl.jobs.attempt import AgentState, Committed
from runctl.jobs.place import local_place
from runctl.jobs.spec import Accepted, JobSpec
from runctl.model import JobState
from runctl.storage.store import upload_folder

SPEC = JobSpec(name="walk", on="sandbox", root="", workdir=".", command=("true",))
FAILED = AgentState(
    job="walk",
    attempt=2,
    phase="ended",
    cause="failed",
    message="the script ended with exit code 1",
    exit_code=1,
    resumed_from="000003-best.pt",
    resumed_step=20,
    script_started=1000.0,
    ended=1010.0,
)


@pytest.mark.parametrize(
    ("fields", "at_once"),
    [
        ({}, True),
        ({"step": 21, "began_at_step": 21}, True),
        ({"step": 30, "began_at_step": 21}, False),  # it went on
        ({"exit_code": 0}, False),
        ({"cause": "notice"}, False),
        ({"resumed_from": None}, False),
        ({"ended": 2000.0}, True),  # slow to begin, and nothing came of it
        ({"ended": 2000.0, "committed": Committed(name="000004-a.pt", step=40)}, False),
    ],
)
def test_it_failed_at_once_if_nothing_came_of_the_resume(fields: dict[str, Any], at_once: bool) -> None:
    assert retrying.failed_at_once(msgspec.structs.replace(FAILED, **fields)) is at_once


def history(folder: Path, **sealed: object) -> list[Entry]:
    """Two checkpoints, the newer one in two snapshots, the second of which was made after the failure."""
    step = {"checkpoints/step_20.pt": "20"}
    take(folder, "000001-step_20.pt", step, checkpoint=("checkpoints", "step_20.pt"))
    best = take(
        folder,
        "000003-best.pt",
        {"checkpoints/best.pt": "b"},
        checkpoint=("checkpoints", "best.pt"),
        **sealed,
    )
    log = {"work/error.log": "KeyError"}
    take(folder, "000004-best.pt", log, more=tuple(best.entries), checkpoint=("checkpoints", "best.pt"))
    return best.entries


def test_the_snapshot_before_holds_another_checkpoint(tmp_path: Path) -> None:
    history(tmp_path)
    found = retrying.earlier(local_place(tmp_path), KEY, SPEC, FAILED)
    assert found is not None
    assert found.name == "000001-step_20.pt"
    assert set(found.instead_of) == {"000003-best.pt", "000004-best.pt"}


def test_a_copy_that_lies_elsewhere_is_the_same_checkpoint(tmp_path: Path) -> None:
    history(tmp_path)
    take(tmp_path, "000002-best.pt", {"checkpoints/best.pt": "b"}, checkpoint=("checkpoints", "best.pt"))
    found = retrying.earlier(local_place(tmp_path), KEY, SPEC, FAILED)
    assert found is not None
    assert found.name == "000001-step_20.pt"


@pytest.mark.parametrize(
    "asked",
    [{"resume_from": "000003-best.pt"}, {"not_from": ("000009-x.pt",)}],
    ids=["the user named it", "another one was tried"],
)
def test_it_failed_for_good(tmp_path: Path, asked: dict[str, Any]) -> None:
    history(tmp_path)
    spec = msgspec.structs.replace(SPEC, **asked)
    assert retrying.earlier(local_place(tmp_path), KEY, spec, FAILED) is None


def test_whoever_decides_again_decides_the_same(tmp_path: Path) -> None:
    history(tmp_path)
    place = local_place(tmp_path)
    found = retrying.earlier(place, KEY, SPEC, FAILED)
    assert found is not None
    spec = msgspec.structs.replace(SPEC, not_from=found.instead_of)
    assert retrying.earlier(place, KEY, spec, FAILED) == found


def test_no_snapshot_of_others_is_tried(tmp_path: Path) -> None:
    take(tmp_path, "000001-a.pt", {"checkpoints/a.pt": "a"}, seal="00", checkpoint=("checkpoints", "a.pt"))
    take(tmp_path, "000003-best.pt", {"checkpoints/best.pt": "b"}, checkpoint=("checkpoints", "best.pt"))
    assert retrying.earlier(local_place(tmp_path), KEY, SPEC, FAILED) is None
    other = msgspec.structs.replace(SPEC, accepted=Accepted(name="000001-a.pt", sha256="0" * 64))
    assert retrying.earlier(local_place(tmp_path), KEY, other, FAILED) is None


def test_the_only_checkpoint_is_not_given_up(tmp_path: Path) -> None:
    take(tmp_path, "000001-files", {"work/a.txt": "a"})
    take(tmp_path, "000003-best.pt", {"checkpoints/best.pt": "b"}, checkpoint=("checkpoints", "best.pt"))
    assert retrying.earlier(local_place(tmp_path), KEY, SPEC, FAILED) is None


def test_a_job_tries_the_snapshot_before_and_says_so(
    attempted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = attempted(max_attempts=1)
    take(
        tmp_path,
        "000001-a.pt",
        {"checkpoints/a.pt": "a"},
        under="checkpoints",
        checkpoint=("checkpoints", "a.pt"),
    )
    take(
        tmp_path,
        "000002-b.pt",
        {"checkpoints/b.pt": "b"},
        under="checkpoints",
        checkpoint=("checkpoints", "b.pt"),
    )
    upload_folder(tmp_path, attempt.place.store, "")
    said = {"message": "the script ended with exit code 1", "exit_code": 1, "resumed_from": "000002-b.pt"}
    attempt.agent("ended", cause="failed", **said)
    attempt.live.client("ec2").terminate_instances(InstanceIds=[attempt.machine])
    with pytest.raises(Exception, match="was not sent"):  # the next attempt begins, and this job has no code
        attempt.supervise()
    job = attempt.ledger.jobs.get(attempt.job)
    assert specs.decode(job.spec).not_from == ("000002-b.pt",)
    assert [event.state for event in attempt.ledger.jobs.events(job.id)][-2:] == [
        JobState.RECOVERING,
        JobState.FAILED,
    ]
    assert [text for text in attempt.warnings() if "at once from 000002-b.pt: 000001-a.pt before it" in text]
