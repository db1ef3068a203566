"""`runctl aws create` and `runctl aws ebs` as users know them: what is asked for is what EC2 then has."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runctl.cli.main import run
from runctl.clock import SystemClock
from runctl.ledger import Ledger, Owner
from runctl.model import TAG_DATASET, TAG_DATASET_VERSION, TAG_MANAGED
from runctl.providers.aws.session import Session
from runctl.resources import prefixes
from runctl.resources.filling import dataset_tag
from runctl.safety.saga import Plan, PlannedStep

pytestmark = pytest.mark.xdist_group("aws product")
Command = Callable[..., Any]


@pytest.fixture
def command(
    sandbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """Runs a command in this process; answers its data, or its error where it must fail."""
    (tmp_path / "sandbox").symlink_to(sandbox.home / "sandbox", target_is_directory=True)
    for name, value in (("HOME", str(tmp_path)), ("CLOUD", "sandbox"), ("USER", "ada")):
        monkeypatch.setenv(f"RUNCTL_{name}", value)
    monkeypatch.chdir(tmp_path)

    def call(*words: str, fails: bool = False, text: bool = False) -> Any:
        code = run([*words, *([] if text else ["--output", "json"])])
        said = capsys.readouterr()
        assert (code != 0) == fails, said.err
        if fails:
            return json.loads(said.err.splitlines()[-1])["error"]
        return said.out + said.err if text else json.loads(said.out)

    yield call
    sandbox.control.clear_faults()


def test_a_machine_is_what_was_asked_for(command: Command, sandbox: Any) -> None:
    ec2, word = sandbox.client("ec2"), sandbox.name("made")
    ec2.create_key_pair(KeyName=word)
    made = command(
        "aws", "create", "--gpus", "1", "--gpu-memory", "20", "--spot", "--spot-max-price", "3.5",
        "--key", word, "--root-volume-size", "77", "--name", word, "--lease", "2",
    )["instance"]  # fmt: skip
    found = sandbox.instance(made["id"])
    assert found["InstanceType"].startswith(("g5.", "g6.", "g6e."))  # at least 24 GiB on its GPU
    assert found["InstanceLifecycle"] == "spot"
    assert found["KeyName"] == word
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    request = ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[found["SpotInstanceRequestId"]])
    assert float(request["SpotInstanceRequests"][0]["SpotPrice"]) == 3.5
    (root,) = found["BlockDeviceMappings"]
    disk = sandbox.disk(root["Ebs"]["VolumeId"])
    assert (disk["Size"], disk["Encrypted"], disk["VolumeType"]) == (77, True, "gp3")
    assert root["Ebs"]["DeleteOnTermination"]
    refused = command("aws", "create", "--gpus", "1", "--gpu-memory", "4000", fails=True)
    assert "No known machine has 1 GPUs of 4000 GiB" in refused["what"]
    ec2.terminate_instances(InstanceIds=[made["id"]])


def test_a_volume_is_what_it_is_for(command: Command, sandbox: Any) -> None:
    word = sandbox.name("for")
    for purpose, size, options, expected in (
        ("data", 9, (), ("gp3", 4000, 500)),
        ("checkpoints", 9, (), ("gp3", 3000, 250)),
        ("archive", 125, (), ("sc1", None, None)),
        ("data", 9, ("--machine", "g5.xlarge"), ("gp3", 3000, 125)),
        ("data", 9, ("--volume-type", "gp2"), ("gp2", None, None)),
    ):
        asked = ("--for", purpose, "--size", str(size), "--dry-run", *options)
        (spec,) = command("aws", "ebs", "create", *asked)["plan"]["steps"][0]["requests"]
        shape = {name: spec["spec"][name] for name in ("volume_type", "iops", "throughput_mibs")}
        assert tuple(shape.values()) == expected
        assert spec["spec"]["tags"]["runctl:purpose"] == purpose
    small = command("aws", "ebs", "create", "--for", "archive", "--size", "4", fails=True)
    assert small["next"] == "the nearest is 125"
    made = command("aws", "ebs", "create", "--for", "data", "--size", "9", "--name", word)["volume"]
    assert (made["volume_type"], made["iops"], made["throughput_mibs"]) == ("gp3", 4000, 500)
    twice = command("aws", "ebs", "create", "--size", "4", "--name", word, fails=True)
    assert made["id"] in twice["what"]
    command("aws", "ebs", "delete", made["id"], "--yes", "--force")


@pytest.mark.slow
def test_a_dry_run_of_what_changes_volumes_changes_nothing(command: Command, sandbox: Any) -> None:
    machine = sandbox.running(InstanceType="m7i.large")
    zone = sandbox.instance(machine)["Placement"]["AvailabilityZone"]
    options = ("--availability-zone", zone, "--throughput", "500")
    volume = command("aws", "ebs", "create", "--size", "8", *options)["volume"]["id"]
    seen: list[str] = []

    def dry(*words: str) -> str:
        before = state()
        said = command("aws", "ebs", *words, "--dry-run", text=True)
        assert state() == before
        seen.append(words[0])
        return said

    def state() -> Any:
        ec2 = sandbox.client("ec2")
        return ec2.describe_volumes()["Volumes"], ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]

    assert "create-volume: 8 GiB gp3" in dry("create", "--size", "8")
    assert f"mount: {volume}, {machine}, /data" in dry("attach", volume, machine, "--mount", "/data")
    assert f"{volume} size_gib: 8 -> 9" in dry("modify", volume, "--size", "9")
    assert f"create-snapshot: {volume}" in dry("snapshot", volume)
    assert "attach-volume" in dry("restore", volume, "--attach", machine)
    told = command("aws", "ebs", "attach", volume, machine, text=True)
    assert f"runctl aws ebs modify {volume} --iops 3000 --throughput 125" in told  # 0.65 Gbit/s for long
    assert f"detach-volume: {volume}" in dry("detach", volume)
    assert "15.00 USD less a month" in told  # 375 MiB/s at 0.04 USD
    assert seen == ["create", "attach", "modify", "snapshot", "restore", "detach"]
    sandbox.client("ec2").terminate_instances(InstanceIds=[machine])


@pytest.mark.slow
def test_a_dataset_comes_from_its_snapshot_at_a_rate(command: Command, sandbox: Any) -> None:
    bucket, ec2 = sandbox.name("set"), sandbox.client("ec2")
    sandbox.client("s3").create_bucket(Bucket=bucket)
    sandbox.client("s3").put_object(Bucket=bucket, Key="set/one", Body=b"1")
    dataset = prefixes.dataset_of(Session(sandbox.cloud()), f"s3://{bucket}/set")
    tags = {
        TAG_MANAGED: "true",
        TAG_DATASET: dataset_tag(dataset.location),
        TAG_DATASET_VERSION: dataset.version,
    }
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    taken = ec2.create_snapshot(
        VolumeId=sandbox.volume(), TagSpecifications=[{"ResourceType": "snapshot", "Tags": pairs}]
    )["SnapshotId"]
    done = [{"Name": "snapshot-id", "Values": [taken]}, {"Name": "status", "Values": ["completed"]}]
    sandbox.until(lambda: ec2.describe_snapshots(Filters=done)["Snapshots"])
    stage = ("data", "stage", f"s3://{bucket}/set", "--zone", "us-east-1b", "--machine", "m7i.4xlarge")
    plan = command(*stage, "--initialization-rate", "200", "--dry-run")
    assert plan["snapshot"] == taken
    (spec,) = [step["requests"][0]["spec"] for step in plan["steps"] if step["kind"] == "create-volume"]
    assert (spec["snapshot"], spec["initialization_rate_mibs"]) == (taken, 200)
    assert (spec["iops"], spec["throughput_mibs"]) == (3000, 596)
    assert "slow once; --initialization-rate" in command(*stage, text=True)


def test_a_dry_run_of_recovery_tells_the_steps_that_are_left(command: Command, tmp_path: Path) -> None:
    steps = tuple(
        PlannedStep(name=name, kind="wait-volume", requests=({"volume": "vol-1"},))
        for name in ("first", "second", "third")
    )
    plan = Plan(operation="create-volume", subject="lost", cloud="aws", region="us-east-1", steps=steps)
    dead = Owner(pid=2**22 - 1, started=1.0, host=platform.node())
    with Ledger.open(tmp_path) as ledger:
        tx = ledger.journal.begin(
            "create-volume", subject="lost", payload=msgspec.json.encode(plan), owner=dead,
            at=SystemClock().now(),
        )  # fmt: skip
        number = ledger.journal.intend(tx, "first", token="t1", request=b"{}")
        ledger.journal.done(tx, number, b"{}")
        ledger.journal.intend(tx, "second", token="t2", request=b"{}")
    assert command("tx", "resume", tx, "--dry-run", text=True) == "do second\ndo third\n"
    assert command("tx", "rollback", tx, "--dry-run")["undo"] == ["second", "first"]
    assert command("tx", "show", tx)["state"] == "left unfinished"
