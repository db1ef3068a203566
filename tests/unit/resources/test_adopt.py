"""A lost laptop: the ledger is gone, and everything is found again in the cloud."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runctl.jobs.adopt import Adopted, adopt
from runctl.ledger import Ledger
from runctl.model import JobState
from runctl.providers.aws.session import Session
from runctl.providers.aws.spot_requests import SpotRequest
from runctl.render.adopted import show_adopted
from runctl.resources import costs

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
SCRIPT = """\
import os
import sys
import time

print("step 1", flush=True)
while not os.path.exists(sys.argv[1]):  # the machine works until it was adopted, however slow the host
    time.sleep(0.1)
"""


class Laptop:
    """A home of its own on a shared sandbox."""

    def __init__(self, live: Any, folder: Path, user: str) -> None:
        self.home, self.project, self._user = folder / "home", folder / "project", user
        (self.home / "sandbox").mkdir(parents=True)
        shutil.copy(live.home / "sandbox/cloud.json", self.home / "sandbox/cloud.json")
        self.project.mkdir()
        (self.project / ".runctl.toml").touch()
        (self.project / "train.py").write_text(SCRIPT)

    def run(self, *words: str) -> str:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("RUNCTL_", "AWS_"))}
        done = subprocess.run(
            [sys.executable, "-m", "runctl", *words],
            cwd=self.project,
            env=clean
            | {"RUNCTL_HOME": str(self.home), "RUNCTL_USER": self._user, "RUNCTL_CONFIG": os.devnull},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--output", "json"))


@pytest.fixture
def left_behind(sandbox_cloud: Any, ledger: Ledger) -> Any:
    """A bucket of its own, taken in by an empty ledger."""
    bucket = sandbox_cloud.name("bucket")
    s3 = sandbox_cloud.client("s3")
    s3.create_bucket(Bucket=bucket)
    session = Session(sandbox_cloud.cloud())

    class Left:
        cloud = session.cloud

        @staticmethod
        def put(key: str, body: bytes | dict[str, Any], *, folder: str = "jobs") -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            s3.put_object(Bucket=bucket, Key=f"runctl/{folder}/{key}", Body=data)

        @staticmethod
        def adopted() -> Adopted:
            return adopt(ledger, [session], bucket=bucket, user="ada", emit=lambda _: None)

    return Left


def spec(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "on": "sandbox",
        "root": "/gone",
        "workdir": ".",
        "command": ["python3", "train.py"],
        "instance_type": "g5.xlarge",
        "project": "vision",
        "user": "ada",
    }


def state(phase: str, cause: str | None = None, **more: Any) -> dict[str, Any]:
    times = {"started": 1000.0, "heartbeat": 1600.0, "ended": 1600.0 if cause else None}
    return {"job": "any", "attempt": 1, "phase": phase, "cause": cause, **times, **more}


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (state("ended", "finished", exit_code=0), JobState.SUCCEEDED),
        (state("ended", "failed", exit_code=3), JobState.FAILED),
        (state("ended", "budget"), JobState.OVER_BUDGET),
        (state("ended", "notice"), JobState.STOPPED),  # nothing is launched by looking
        (state("running"), JobState.STOPPED),
        (None, JobState.STOPPED),
    ],
)
def test_a_job_whose_machine_is_gone_stands_as_its_agent_left_it(
    left_behind: Any, ledger: Ledger, agent: dict[str, Any] | None, expected: JobState
) -> None:
    left_behind.put("digits-1/spec.json", spec("digits"))
    if agent is not None:
        left_behind.put("digits-1/attempt-1/spec.json", {})
        left_behind.put("digits-1/attempt-1/state.json", agent)
    found = left_behind.adopted()
    assert found.jobs == ("digits-1",)
    job = ledger.jobs.get("digits-1")
    assert (job.state, job.project, job.user, job.name) == (expected, "vision", "ada", "digits")
    assert [one.number for one in ledger.jobs.attempts(job.id)] == ([] if agent is None else [1])


def test_what_a_lost_machine_cost_is_unknown_and_not_nothing(left_behind: Any, ledger: Ledger) -> None:
    left_behind.put("digits-1/spec.json", spec("digits"))
    left_behind.put("digits-1/attempt-1/state.json", state("ended", "finished"))
    left_behind.adopted()
    [mine] = [
        account
        for account in costs.accounts(ledger, left_behind.cloud.key, datetime(2030, 1, 1, tzinfo=UTC))
        if account.resource.id.startswith("lost/digits-1/")
    ]
    assert mine.sums.unknown == 1
    assert [(stretch.seconds, stretch.usd_per_hour) for stretch in mine.stretches] == [(600, None)]


def test_adopting_twice_changes_nothing(left_behind: Any, ledger: Ledger) -> None:
    left_behind.put("digits-1/spec.json", spec("digits"))
    left_behind.put("digits-1/attempt-1/state.json", state("ended", "finished"))
    assert "digits-1" in left_behind.adopted().new
    before = ledger.jobs.get("digits-1"), ledger.jobs.events(ledger.jobs.get("digits-1").id)
    again = left_behind.adopted()
    assert "digits-1" in again.jobs
    assert "digits-1" not in again.new
    assert (ledger.jobs.get("digits-1"), ledger.jobs.events(before[0].id)) == before


def test_one_torn_job_does_not_hide_the_others(left_behind: Any) -> None:
    left_behind.put("broken-1/spec.json", b'{"name": ')
    left_behind.put("staged-1/bundle.json", b"{}")
    left_behind.put("whole-1/spec.json", spec("whole"))
    found = left_behind.adopted()
    assert "whole-1" in found.new
    assert "broken-1" not in found.new
    assert any("broken-1" in failure for failure in found.failures)
    assert {place.job: place.objects for place in found.staging} == {
        "broken-1": 1,
        "staged-1": 1,
        "whole-1": 1,
    }


def test_what_a_transfer_staged_is_found_and_an_open_request_can_be_cancelled(
    left_behind: Any, sandbox_cloud: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    left_behind.put("0123abcd/file", b"12345", folder="staging")
    left_behind.put("0123abcd/uploads/1", b"1", folder="staging")
    found = left_behind.adopted()
    [place] = [place for place in found.staging if not place.job]
    assert (place.location.partition("/runctl/")[2], place.objects, place.bytes) == ("staging/0123abcd", 2, 6)
    request = SpotRequest(
        id="sir-1", region="us-east-1", state="open", status="", created=EPOCH, instance=None, job=""
    )
    show_adopted(msgspec.structs.replace(found, spot_requests=(request,)), costs.Sums())
    said = capsys.readouterr()
    assert f"aws s3 rm --recursive {place.location}" in said.err
    command = "aws ec2 cancel-spot-instance-requests --region us-east-1 --spot-instance-request-ids sir-1"
    assert command in said.err


def test_adopted_disks_cost_from_the_cloud_s_own_times(
    left_behind: Any, sandbox_cloud: Any, ledger: Ledger
) -> None:
    mine = [{"Key": "runctl:managed", "Value": "true"}]
    tags = {kind: [{"ResourceType": kind, "Tags": mine}] for kind in ("volume", "snapshot")}
    volume = sandbox_cloud.volume(Size=100, TagSpecifications=tags["volume"])
    ec2 = sandbox_cloud.client("ec2")
    taken = ec2.create_snapshot(VolumeId=volume, TagSpecifications=tags["snapshot"])
    begun = {
        volume: sandbox_cloud.disk(volume)["CreateTime"].astimezone(UTC),
        taken["SnapshotId"]: taken["StartTime"].astimezone(UTC),
    }
    clock = sandbox_cloud.cloud().clock
    adopting = clock.now() + timedelta(minutes=1)
    sandbox_cloud.until(lambda: clock.now() > adopting)
    found = left_behind.adopted()
    assert volume in found.new
    assert taken["SnapshotId"] in found.new
    later = adopting + timedelta(hours=2)
    accounts = {one.resource.id: one for one in costs.accounts(ledger, left_behind.cloud.key, later)}
    for one, since in begun.items():
        stretches = accounts[one].stretches
        assert abs((stretches[0].start - since).total_seconds()) < 1
        seconds = float(sum(stretch.seconds for stretch in stretches))
        assert seconds == pytest.approx((later - since).total_seconds(), abs=1)
    hours = (later - begun[volume]).total_seconds() / 3600
    assert float(accounts[volume].sums.usd_total) == pytest.approx(100 * 0.08 / 730 * hours, rel=1e-3)


def test_a_job_goes_on_from_a_laptop_that_never_saw_it(sandbox_cloud: Any, tmp_path: Path) -> None:
    user = sandbox_cloud.name("user")
    lost, new = (Laptop(sandbox_cloud, tmp_path / name, user) for name in ("lost", "new"))
    where = ["--on", "sandbox", "--spot", "--instance-type", "g5.xlarge", "--detach"]
    go = f"/tmp/{sandbox_cloud.name('adopted')}"
    job = lost.run("train", "train.py", *where, "--", go).strip()
    found = new.json("resources", "adopt", "--on", "sandbox")
    assert job in found["new"]
    mine = [one for one in found["spot_requests"] if one["job"] == job]
    assert len(mine) == 1
    assert mine[0]["instance"] in found["instances"]
    assert sandbox_cloud.command(mine[0]["instance"], f"touch {go}")["Status"] == "Success"
    new.run("jobs", "wait", job)
    report = new.json("jobs", "show", job)["report"]
    assert report["state"] == "succeeded"
    [attempt] = report["attempts"]
    assert attempt["machine"].startswith("g5.xlarge spot")
