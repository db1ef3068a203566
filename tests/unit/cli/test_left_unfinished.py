"""A command that was killed says with its next run how to go on: never "choose another name"."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runctl.cli.main import run
from runctl.ledger import DONE, Ledger, Owner
from runctl.safety.saga import Plan, PlannedStep

DEAD = Owner(pid=2**22 - 1, started=1.0, host=platform.node())
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
ZONE: str = "us-east-1a"


@pytest.fixture
def home(sandbox_cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sandbox").symlink_to(sandbox_cloud.home / "sandbox", target_is_directory=True)
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path))
    monkeypatch.setenv("RUNCTL_CLOUD", "sandbox")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _left(home: Path, live: Any, subject: str, *, operation: str = "create-volume", made: str = "") -> str:
    """What a killed process leaves: an intent, or one whose result is known."""
    request = {"spec": {"zone": ZONE}}
    plan = Plan(
        operation=operation,
        subject=subject,
        cloud=live.cloud().key,
        region=live.record.region,
        steps=(PlannedStep(name="volume", kind="create-volume", requests=(request,)),),
    )
    with Ledger.open(home) as ledger:
        tx = ledger.journal.begin(
            operation, subject=subject, payload=msgspec.json.encode(plan), owner=DEAD, at=BEGUN
        )
        number = ledger.journal.intend(tx, "volume", token=f"{tx}-volume-0", request=b"{}")
        if made:
            ledger.journal.done(tx, number, json.dumps({"id": made}).encode())
    return tx


def _error(capsys: pytest.CaptureFixture[str], words: str) -> dict[str, Any]:
    assert run([*words.split(), "--output", "json"]) != 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    return json.loads(last)["error"]


@pytest.mark.parametrize("is_there", [True, False], ids=["made", "not-yet-made"])
def test_the_same_name_again_goes_on_with_what_was_left(
    home: Path, sandbox_cloud: Any, capsys: pytest.CaptureFixture[str], is_there: bool
) -> None:
    name = sandbox_cloud.name("data")
    if is_there:
        tags = [{"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": name}]}]
        sandbox_cloud.volume(TagSpecifications=tags)
    tx = _left(home, sandbox_cloud, name)
    error = _error(capsys, f"aws ebs create --size 1 --name {name} --availability-zone {ZONE}")
    assert error["next"] == f"runctl tx resume {tx}"
    assert tx in error["why"]


def test_one_without_a_name_is_known_by_what_it_makes(
    home: Path, sandbox_cloud: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tx = _left(home, sandbox_cloud, "3 GiB")
    assert _error(capsys, f"aws ebs create --size 3 --availability-zone {ZONE}")["next"].endswith(tx)
    assert run(f"aws ebs create --size 4 --availability-zone {ZONE} --quiet".split()) == 0, "another one"


def test_what_stands_in_the_way_of_another_command_is_told_by_its_id(
    home: Path, sandbox_cloud: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = sandbox_cloud.volume()
    tx = _left(home, sandbox_cloud, "imagenet", operation="pre-warm-volume", made=volume)
    error = _error(capsys, f"aws ebs detach {volume}")
    assert error["what"] == f"{volume} is not attached"
    assert error["next"] == f"runctl tx resume {tx}"


def test_what_is_being_undone_is_undone_to_its_end(
    home: Path, sandbox_cloud: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tx = _left(home, sandbox_cloud, "half", made="vol-0123456789abcdef0")
    with Ledger.open(home) as ledger:
        ledger.journal.undoing(tx, 1)
    error = _error(capsys, f"aws ebs create --size 1 --name half --availability-zone {ZONE}")
    assert error["next"] == f"runctl tx rollback {tx}"


def test_another_matter_is_left_alone(
    home: Path, sandbox_cloud: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = sandbox_cloud.volume()
    _left(home, sandbox_cloud, "unrelated")
    assert _error(capsys, f"aws ebs detach {volume}")["next"] == f"runctl aws ebs attach {volume} INSTANCE"


def test_one_that_was_killed_before_it_could_say_that_it_was_done_says_so_now(
    home: Path, sandbox_cloud: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    again = f"aws ebs create --size 1 --name {sandbox_cloud.name('done')} --availability-zone {ZONE}"
    assert run([*again.split(), "--quiet"]) == 0
    error = _error(capsys, again)
    assert "create-volume made it, and is finished: tx-" in error["why"]
    assert error["next"].startswith("runctl aws ebs list")


def test_what_was_done_and_never_told_is_not_done_twice(
    home: Path, sandbox_cloud: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between the last step and the last line: the next run tells what it came to."""
    tx = _left(home, sandbox_cloud, "2 GiB", made="vol-0123456789abcdef0")
    with Ledger.open(home) as ledger:
        ledger.journal.end(tx, DONE)
    again = f"aws ebs create --size 2 --availability-zone {ZONE}"
    error = _error(capsys, again)
    assert error["what"] == "create-volume of 2 GiB is done already"
    assert "vol-0123456789abcdef0" in error["why"]
    assert error["next"] == f"runctl tx resume {tx}"
    assert run(["tx", "resume", tx]) == 0
    assert capsys.readouterr().out == f"{tx} is finished: vol-0123456789abcdef0\n"
    assert run([*again.split(), "--quiet"]) == 0, "a second one, for the first is known"
    with Ledger.open(home) as ledger:
        assert not ledger.journal.untold(), "this command has said so itself"


@pytest.mark.parametrize("end", ["killed", "reader gone"])
def test_nobody_was_told_before_the_output_has_left(
    home: Path, sandbox_cloud: Any, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    """A snapshot that is there, and whose line nobody has read, is not taken a second time."""
    volume = sandbox_cloud.volume()
    again = f"aws ebs snapshot {volume} --quiet".split()
    reader, writer = os.pipe()
    if end == "killed":
        _fill(writer)
    else:
        os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-m", "runctl", *again], stdout=writer, stderr=subprocess.DEVNULL
    )
    os.close(writer)
    if end == "killed":
        _wait_for_writing(home, process.pid)
        process.kill()
    process.wait(60)
    error = _error(capsys, " ".join(again))
    assert error["what"] == f"create-snapshot of {volume} is done already"
    assert run(error["next"].split()[1:]) == 0
    (snapshot,) = _snapshots(sandbox_cloud, volume)
    assert snapshot in capsys.readouterr().out
    assert run(again) == 0, "the first is known"
    assert len(_snapshots(sandbox_cloud, volume)) == 2


def test_what_was_resumed_is_told_once_its_output_has_left(
    home: Path, sandbox_cloud: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """`tx resume` can be killed before its line just as well: it is repeated then, not what it finished."""
    tx = _left(home, sandbox_cloud, "2 GiB", made=sandbox_cloud.volume())
    reader, writer = os.pipe()
    os.close(reader)
    resume = [sys.executable, "-m", "runctl", "tx", "resume", tx]
    process = subprocess.Popen(resume, stdout=writer, stderr=subprocess.DEVNULL)
    os.close(writer)
    process.wait(60)
    error = _error(capsys, f"aws ebs create --size 2 --availability-zone {ZONE}")
    assert error["next"] == f"runctl tx resume {tx}"
    assert run(["tx", "resume", tx]) == 0
    assert capsys.readouterr().out.startswith(f"{tx} is finished: vol-")


def _fill(writer: int) -> None:
    """A pipe into which nothing goes any more: whoever writes waits."""
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)


def _wait_for_writing(home: Path, pid: int) -> None:
    """Until the operation of a process is over and the process does no more: its line waits in the pipe."""
    end, quiet, before = time.monotonic() + 60, 0, ""
    while quiet < 10:
        assert time.monotonic() < end, "it never came to its output"
        time.sleep(0.05)
        with Ledger.open(home) as ledger:
            found = [one for one in ledger.journal.newest() if one.owner.pid == pid]
        used = " ".join(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
        quiet = quiet + 1 if found and found[0].outcome and used == before else 0
        before = used


def _snapshots(live: Any, volume: str) -> list[str]:
    found = live.client("ec2").describe_snapshots(Filters=[{"Name": "volume-id", "Values": [volume]}])
    return [one["SnapshotId"] for one in found["Snapshots"]]
