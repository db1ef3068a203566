"""How a job's machine gets data from S3: streamed, cached, or on a volume that outlives every machine."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

READS = """
import json, os, pathlib, runpy
folder = os.environ.get("RUNCTL_DATA_DIR")
files = {}
if folder:
    root = pathlib.Path(folder)
    plain = (path for path in sorted(root.rglob("*")) if path.is_file() and ".runctl" not in path.parts[-3:])
    files = {str(path.relative_to(root)): path.read_text() for path in plain}
print("seen", json.dumps([folder, os.environ.get("RUNCTL_DATA_LOCATION"), files]), flush=True)
runpy.run_path("walk.py", run_name="__main__")
"""
FILES = {"a.csv": "1,2", "deep/b.csv": "3"}


@pytest.fixture
def location(lab: Any) -> str:
    s3, bucket = lab.cloud.client("s3"), lab.cloud.name("data")
    s3.create_bucket(Bucket=bucket)
    for key, text in FILES.items():
        s3.put_object(Bucket=bucket, Key=f"set/{key}", Body=text.encode())
    (lab.project / "reads.py").write_text(READS)
    return f"s3://{bucket}/set"


def seen(lab: Any) -> list[list[Any]]:
    return [json.loads(found) for found in re.findall(r"^seen (.*)$", lab.said(), re.MULTILINE)]


def train(lab: Any, location: str, *options: str, steps: int = 3, interruptions: int = 0) -> Any:
    words = ("--steps", str(steps), "--interruptions", str(interruptions))
    return lab.train(*words, script="reads.py", options=("--data", location, *options))


def test_without_a_volume_the_data_is_cached_on_the_machine(lab: Any, location: str) -> None:
    lab.finish(train(lab, location))
    [(folder, place, files)] = seen(lab)
    assert "/.runctl/cache/datasets/" in folder
    assert (place, files) == (location, FILES)
    assert f"data      {location}, local-cache: the way to a folder" in lab.said()


@pytest.mark.slow
def test_a_script_that_streams_gets_the_place_alone(lab: Any, location: str) -> None:
    lab.finish(train(lab, location, "--data-strategy", "direct-s3"))
    assert seen(lab) == [[None, location, {}]]


@pytest.mark.slow
def test_a_pre_warmed_volume_serves_both_attempts_and_is_there_afterwards(lab: Any, location: str) -> None:
    volume = warm(lab, location)
    command = train(lab, location, "--data-strategy", "prewarmed-ebs", steps=20, interruptions=1)
    lab.stepped(3)
    lab.interrupt(lab.first_machine())
    lab.finish(command)
    report = lab.report()
    assert (report["state"], report["interruptions"], report["steps_lost"]) == ("succeeded", 1, 0)
    assert [(place, files) for _, place, files in seen(lab)] == [(location, FILES)] * 2
    assert all(folder.endswith("/mnt/runctl-data") for folder, _, _ in seen(lab))
    assert f"prewarmed-ebs: as asked, on {volume} in us-east-1a" in lab.said()
    lab.until(lambda: lab.cloud.disk(volume).get("State") == "available", "the volume is free again")
    assert lab.live() == []


@pytest.mark.slow
def test_a_volume_that_is_stale_or_not_there_is_told_before_anything_is_launched(
    lab: Any, location: str
) -> None:
    options = ("--data-strategy", "prewarmed-ebs")
    lab.finish(train(lab, location, *options), code=1)
    assert f"runctl data stage {location} --zone ZONE" in lab.said()
    tags = {"runctl:managed": "true", "runctl:dataset": location, "runctl:dataset-version": "older"}
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    volume = lab.cloud.volume(TagSpecifications=[{"ResourceType": "volume", "Tags": pairs}])
    lab.finish(train(lab, location, "--data-volume", volume), code=1)
    assert f"{volume} holds version older" in lab.said()
    assert f"runctl aws ebs pre-warm {volume} {location}" in lab.said()
    assert lab.machines() == []


def warm(lab: Any, location: str) -> str:
    command = lab.start("data", "stage", location, "--zone", "us-east-1a", "--on", "sandbox", "--quiet")
    lab.finish(command)
    found = re.findall(r"^vol-[0-9a-f]+$", lab.said(), re.MULTILINE)
    return str(found[-1])


@pytest.mark.slow
def test_a_volume_that_another_machine_keeps_ends_the_job_and_its_machine(lab: Any, location: str) -> None:
    cloud, volume = lab.cloud, lab.cloud.volume()
    other = cloud.running(Placement={"AvailabilityZone": "us-east-1a"})
    try:
        cloud.client("ec2").attach_volume(VolumeId=volume, InstanceId=other, Device="/dev/sdf")
        lab.finish(train(lab, location, "--data-volume", volume), code=2)
        assert f"{volume} with the data could not be attached" in lab.said()
        assert "--data-strategy local-cache, or free the volume" in lab.said()
        lab.until(lambda: not lab.live(), "the machine is ended")
        assert [one["InstanceId"] for one in cloud.disk(volume)["Attachments"]] == [other]
    finally:
        cloud.client("ec2").terminate_instances(InstanceIds=[other])
