"""A job that is stopped, interrupted by Ctrl-C or at its limit is saved, costs nothing more and can go on."""

from __future__ import annotations

import json
import os
import signal
from decimal import Decimal
from typing import Any

import pytest

STEPS = 30
WALK = ("--steps", str(STEPS), "--interruptions", "1")
"""It goes on until it is told to stop, and then to its end."""
LOCAL = ("train", "walk.py", "--", *WALK, "--seconds", "0.05")
INTERRUPTED = 130
LIMIT = 5
INSTANCE_TYPE = "g5.xlarge"
DEAR = "p4d.24xlarge"


def at_work(lab: Any, command: Any) -> Any:
    """A job of which some steps are done, and a checkpoint is safe."""
    lab.stepped(3)
    assert command.poll() is None, lab.said()
    return command


def local_result(lab: Any) -> bytes:
    return (lab.project / lab.report()["store"] / "outputs" / "result.txt").read_bytes()


def test_a_local_job_is_stopped_followed_and_resumed(lab: Any) -> None:
    command = at_work(lab, lab.start(*LOCAL))
    log = lab.start("jobs", "logs", "last", "-f")
    assert "asked to save" in lab.run("jobs", "stop", "last", "--dry-run").stderr
    lab.run("jobs", "stop", "last")
    lab.finish(command, INTERRUPTED)
    lab.finish(log)
    assert lab.report()["state"] == "stopped"
    assert lab.home.joinpath("command-1.log").read_text() == lab.run("jobs", "logs", "last").stdout

    lab.run("jobs", "resume", "last")
    first, second = lab.report()["attempts"]
    assert (first["cause"], second["cause"]) == ("stop", "finished")
    assert second["resumed_step"] == first["last_step"] >= 3
    assert local_result(lab) == lab.walked(STEPS)
    assert "is succeeded already" in lab.run("jobs", "stop", "last", code=1).stderr


def test_ctrl_c_saves_a_local_job(lab: Any) -> None:
    command = at_work(lab, lab.start(*LOCAL))
    os.kill(command.pid, signal.SIGINT)
    lab.finish(command, INTERRUPTED)
    assert "is stopped; its work is kept" in lab.said()
    lab.run("jobs", "resume", "last")
    first, second = lab.report()["attempts"]
    assert second["resumed_step"] == first["last_step"] >= 3
    assert local_result(lab) == lab.walked(STEPS)


def test_a_machine_is_ended_by_jobs_stop_and_the_outputs_of_the_rest_come_home(lab: Any) -> None:
    command = at_work(lab, lab.train(*WALK, options=("--output", "results")))
    os.kill(command.pid, signal.SIGINT)
    lab.finish(command, INTERRUPTED)
    assert "goes on without this command" in lab.said()
    assert len(lab.live()) == 1
    lab.run("jobs", "stop", "last")
    assert (lab.report()["state"], lab.live()) == ("stopped", [])
    assert_corrupt_commits_are_refused(lab)
    planned = json.loads(lab.run("jobs", "resume", "last", "--dry-run", "-o", "json").stdout)
    assert planned["plan"]["offers"][0]["instance_type"] == INSTANCE_TYPE
    assert planned["resume_from"] == commits(lab)[-1]
    assert (lab.report()["state"], len(lab.machines())) == ("stopped", 1)
    lab.run("jobs", "resume", "last")
    first, second = lab.report()["attempts"]
    assert second["resumed_step"] == first["last_step"] >= 3
    assert (lab.project / "results" / "result.txt").read_bytes() == lab.walked(STEPS)
    assert (lab.live(), lab.most_at_once()) == ([], 1)
    lab.until(lambda: not lab.volumes(), "no disk is left")


def newest_commit(lab: Any) -> tuple[str, str]:
    """Bucket and key of the newest checkpoint's file."""
    bucket, _, prefix = lab.report()["store"].removeprefix("s3://").partition("/")
    found = lab.cloud.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/checkpoints/")
    return bucket, max(item["Key"] for item in found["Contents"] if item["Key"].endswith(".zip"))


def assert_corrupt_commits_are_refused(lab: Any) -> None:
    """The newest commit in the bucket, with one byte changed, and as it was afterwards."""
    bucket, key = newest_commit(lab)
    s3, name = lab.cloud.client("s3"), key.partition("/checkpoints/")[2].split("/")[0]
    data = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.put_object(Bucket=bucket, Key=key, Body=data[:-1] + bytes([data[-1] ^ 1]))
    refused = lab.run("jobs", "resume", "last", "--from", name, code=1)
    assert f"The checkpoint {name} is corrupt" in refused.stderr
    assert "--from" in refused.stderr.rpartition("next:")[2]
    assert (lab.report()["state"], len(lab.machines())) == ("stopped", 1)
    s3.put_object(Bucket=bucket, Key=key, Body=data)


@pytest.mark.slow
def test_a_job_at_its_last_hour_is_resumed_with_more_hours_alone(lab: Any) -> None:
    command = lab.train("--steps", "600", options=("--max-hours", "0.03"))
    lab.finish(command, LIMIT)
    assert "--max-hours HOURS" in lab.said()
    assert (lab.report()["attempts"][0]["cause"], lab.live()) == ("deadline", [])

    refused = lab.run("jobs", "resume", "last", code=LIMIT)
    assert "its 0.03 hours are over" in refused.stderr
    lab.run("jobs", "resume", "last", "--budget", "5", code=LIMIT)
    assert (len(lab.machines()), lab.report()["state"]) == (1, "over-budget")

    lab.run("jobs", "resume", "last", "--max-hours", "0.06", code=LIMIT)
    first, second = lab.report()["attempts"]
    assert second["resumed_step"] == first["last_step"] > 0
    assert second["last_step"] > first["last_step"]
    assert lab.live() == []


@pytest.mark.slow
def test_a_spent_budget_ends_the_machine(lab: Any) -> None:
    command = lab.train("--steps", "600", options=("--budget", "0.15"), kind=DEAR)
    lab.finish(command, LIMIT)
    assert "--budget USD" in lab.said()
    report = lab.report()
    assert (report["attempts"][0]["cause"], lab.live()) == ("budget", [])
    assert abs(Decimal(report["cost"]) - Decimal("0.15")) < Decimal("0.10")
    lab.run("jobs", "resume", "last", code=LIMIT)
    assert len(lab.machines()) == 1


OWN_WAYS = """
import os, signal, sys, time, zipfile
from pathlib import Path

folder = Path("kept")
folder.mkdir(exist_ok=True)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
step, begun = 0, sys.argv[sys.argv.index("--go-on-from") + 1] if "--go-on-from" in sys.argv else ""
if begun:
    with zipfile.ZipFile(begun) as archive:
        step = int(archive.read("step"))
while step < 10:
    time.sleep(0.05)
    step += 1
    with zipfile.ZipFile(folder / "new.tmp", "w") as archive:
        archive.writestr("step", str(step))
    (folder / "new.tmp").rename(folder / f"step-{step:02}.zip")
    print(f"step {step}/10", flush=True)
    while step == 5 and not begun and not stop:
        time.sleep(0.05)
    if stop:
        sys.exit(143)
Path(os.environ["RUNCTL_OUTPUT_DIR"]).mkdir(parents=True, exist_ok=True)
Path(os.environ["RUNCTL_OUTPUT_DIR"], "result.txt").write_text(f"{step} from {Path(begun).name}")
"""
THEIR_NAMES = ("--checkpoints", "kept", "--resume-arg", "--go-on-from")


def test_a_script_with_its_own_folder_and_flag_goes_on_where_it_was(lab: Any) -> None:
    (lab.project / "own.py").write_text(OWN_WAYS)
    command = lab.start("train", "own.py", *THEIR_NAMES, "--output", "results")
    lab.stepped(5)
    lab.run("jobs", "stop", "last")
    lab.finish(command, INTERRUPTED)
    lab.run("jobs", "resume", "last")
    assert (lab.project / "results" / "result.txt").read_text() == "10 from step-05.zip"


@pytest.mark.slow
def test_it_does_so_on_another_machine_with_its_outputs_in_a_bucket(lab: Any) -> None:
    (lab.project / "own.py").write_text(OWN_WAYS)
    s3, bucket = lab.cloud.client("s3"), lab.cloud.name("results")
    s3.create_bucket(Bucket=bucket)
    options = (*THEIR_NAMES, "--output", f"s3://{bucket}/here")
    command = lab.train(script="own.py", options=options)
    lab.stepped(5)
    lab.interrupt(lab.first_machine())
    lab.finish(command)
    found = s3.get_object(Bucket=bucket, Key="here/result.txt")["Body"].read()
    assert found == b"10 from step-05.zip"
    assert lab.report()["steps_lost"] == 0


def without_capacity(lab: Any) -> Any:
    """A job for which there is no machine anywhere."""
    lab.control.add_fault("ec2", "no-capacity", operation="RunInstances")
    command = lab.train("--steps", "5")
    lab.until(lambda: "no capacity anywhere" in lab.said(), "it waits for capacity")
    assert lab.machines() == []
    return command


def test_a_job_takes_the_offer_that_there_is_and_waits_where_there_is_none(lab: Any) -> None:
    command = without_capacity(lab)
    lab.control.clear_faults()
    lab.control.add_fault("ec2", "no-capacity", operation="RunInstances", market="spot")
    lab.finish(command)
    (attempt,) = lab.report()["attempts"]
    assert "on-demand" in attempt["machine"]
    assert lab.output() == lab.walked(5)


@pytest.mark.slow
def test_a_job_that_waits_for_capacity_can_be_stopped_and_goes_on_later(lab: Any) -> None:
    command = without_capacity(lab)
    lab.run("jobs", "stop", "last")
    lab.finish(command, INTERRUPTED)
    assert (lab.report()["state"], lab.machines()) == ("stopped", [])
    lab.control.clear_faults()
    lab.run("jobs", "resume", "last")
    assert lab.output() == lab.walked(5)


def test_ctrl_c_while_there_is_no_capacity_stops_the_job(lab: Any) -> None:
    command = without_capacity(lab)
    os.kill(command.pid, signal.SIGINT)
    lab.finish(command, INTERRUPTED)
    assert "is stopped" in lab.said()
    assert "needs nobody" not in lab.said()
    assert (lab.report()["state"], lab.machines()) == ("stopped", [])


@pytest.mark.slow
def test_who_only_looks_on_is_told_that_there_is_no_machine(lab: Any) -> None:
    command = without_capacity(lab)
    waiting = lab.start("jobs", "wait", "last")
    lab.until(lambda: (lab.home / "command-1.log").stat().st_size, "it follows")
    os.kill(waiting.pid, signal.SIGINT)
    lab.finish(waiting, INTERRUPTED)
    assert "has no machine" in (lab.home / "command-1.log").read_text()
    lab.run("jobs", "stop", "last")
    lab.finish(command, INTERRUPTED)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_a_launch_that_is_under_way_is_known_before_its_machine_is_stopped(lab: Any, killed: bool) -> None:
    lab.control.add_fault("ec2", "latency", operation="RunInstances", latency=3.0, count=1)
    command = lab.train("--steps", "100")
    lab.until(lambda: lab.control.status()["faults"][0]["hits"], "the call has arrived")
    if killed:
        lab.kill(command)
    lab.run("jobs", "stop", "last")
    if not killed:
        lab.finish(command, INTERRUPTED)
    assert lab.report()["state"] == "stopped"
    assert len(lab.machines()) == 1
    lab.until(lambda: not lab.live(), "no machine is left")


@pytest.mark.slow
def test_no_further_attempt_follows_a_stop_that_an_interruption_overtakes(lab: Any) -> None:
    command = at_work(lab, lab.train("--steps", "400", "--deaf"))
    lab.interrupt(lab.first_machine(), notice=120)
    lab.until(lambda: lab.report()["state"] == "ending", "the notice is seen")
    lab.run("jobs", "stop", "last")
    lab.finish(command, INTERRUPTED)
    assert (lab.report()["state"], len(lab.machines())) == ("stopped", 1)


@pytest.mark.slow
def test_a_machine_that_shall_be_kept_is_kept(lab: Any) -> None:
    lab.finish(lab.train("--steps", "3", options=("--keep",)))
    (machine,) = lab.machines()
    assert lab.live() == [machine]
    assert f"{machine} is kept, and goes on costing" in lab.said()


def commits(lab: Any) -> list[str]:
    """The names of the committed checkpoints, the oldest first."""
    bucket, _, prefix = lab.report()["store"].removeprefix("s3://").partition("/")
    found = lab.cloud.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/checkpoints/")
    return sorted(
        item["Key"].split("/")[-2] for item in found["Contents"] if item["Key"].endswith("/manifest.json")
    )


@pytest.mark.slow
def test_after_a_step_back_an_interruption_loses_nothing_that_was_done_since(lab: Any) -> None:
    command = lab.train("--steps", str(STEPS), "--interruptions", "2")
    lab.stepped(8)
    lab.until(lambda: len(commits(lab)) >= 3, "some checkpoints are safe")
    lab.run("jobs", "stop", "last")
    lab.finish(command, INTERRUPTED)
    before = commits(lab)
    oldest = int(before[0].rpartition("-")[2].removesuffix(".zip"))
    command = lab.start("jobs", "resume", "last", "--from", before[0])
    machine = lab.until(lambda: lab.machines()[1:], "the next machine")[0]
    lab.until(lambda: commits(lab)[len(before) :], "something is committed since")
    lab.interrupt(machine)
    lab.finish(command)
    first, second, third = lab.report()["attempts"]
    assert second["resumed_step"] == oldest < first["last_step"]
    assert (second["cause"], third["cause"]) == ("notice", "finished")
    assert third["resumed_step"] == second["last_step"] > oldest
    assert lab.output() == lab.walked(STEPS)
