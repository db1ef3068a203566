"""The bucket that jobs and transfers would use belongs to somebody else: refused, and nothing is sent."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STRANGER = "999999999999"
REFUSED = 3


def of_a_stranger(live: Any) -> Any:
    """A client of the sandbox's S3 that is another account's; moto takes its word for that."""
    from botocore.session import Session

    client = Session().create_client(
        "s3",
        region_name=live.record.region,
        endpoint_url=live.record.s3_endpoint,
        aws_access_key_id=live.record.access_key,
        aws_secret_access_key=live.record.secret_key,
    )

    def as_stranger(request: Any, **_: Any) -> None:
        request.headers["x-moto-account-id"] = STRANGER

    client.meta.events.register("before-send.s3", as_stranger)
    return client


@pytest.fixture(scope="module")
def sandbox(own_cloud: Any) -> Any:
    """One in which nobody has made the default bucket."""
    return own_cloud


@pytest.fixture(params=["default", pytest.param("configured", marks=pytest.mark.slow)])
def theirs(request: pytest.FixtureRequest, lab: Any) -> Iterator[tuple[str, Any]]:
    """A bucket of another account, open to all, with the name that would be used; and its owner's client."""
    account = lab.cloud.client("sts").get_caller_identity()["Account"]
    name = f"runctl-{account}-{lab.cloud.record.region}"
    if request.param == "configured":
        name = lab.cloud.name("theirs")
        lab.run("config", "set", "aws.bucket", name)
    stranger = of_a_stranger(lab.cloud)
    stranger.create_bucket(Bucket=name, ACL="public-read-write")
    yield name, stranger
    for item in stranger.list_objects_v2(Bucket=name).get("Contents", []):
        stranger.delete_object(Bucket=name, Key=item["Key"])
    stranger.delete_bucket(Bucket=name)


def refused(lab: Any, name: str, *arguments: str) -> None:
    """The command ends with what, why and next, for people and in JSON."""
    account = lab.cloud.client("sts").get_caller_identity()["Account"]
    said = lab.run(*arguments, code=REFUSED)
    assert "Traceback" not in said.stderr
    for text in (name, f"it does not belong to account {account}", "runctl config set aws.bucket NAME"):
        assert text in " ".join(said.stderr.split())
    told = json.loads(lab.run(*arguments, "--output", "json", code=REFUSED).stderr.splitlines()[-1])
    assert name in told["error"]["what"]
    assert "does not belong to account" in told["error"]["why"]
    assert "runctl config set aws.bucket NAME" in told["error"]["next"]


def test_a_job_sends_nothing_to_a_bucket_of_somebody_else(lab: Any, theirs: tuple[str, Any]) -> None:
    name, stranger = theirs
    refused(lab, name, "train", "walk.py", "--on", "sandbox", "--instance-type", "g5.xlarge")
    assert stranger.list_objects_v2(Bucket=name).get("KeyCount") == 0
    assert lab.machines() == []


def test_a_transfer_sends_nothing_to_a_bucket_of_somebody_else(
    lab: Any, theirs: tuple[str, Any], tmp_path: Path
) -> None:
    name, stranger = theirs
    lab.environment["PATH"] = str(tmp_path)  # without a bucket it could go over SSH, if that were here
    machine = lab.cloud.launch()
    try:
        refused(lab, name, "transfer", "walk.py", f"{machine}:/tmp/there/", "--on", "sandbox")
    finally:
        with contextlib.suppress(Exception):
            lab.cloud.client("ec2").terminate_instances(InstanceIds=[machine])
    assert stranger.list_objects_v2(Bucket=name).get("KeyCount") == 0
    assert json.loads(lab.run("tx", "list", "--output", "json").stdout) == []
