"""EC2 instances over HTTP: tokens, states that take time, what a launch brings, who may do what when."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import LiveSandbox

GP3 = {"VolumeSize": 20, "VolumeType": "gp3", "Iops": 4000, "Throughput": 250, "Encrypted": True}


def tagged(*kinds: str, **tags: str) -> list[dict[str, Any]]:
    rows = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": kind, "Tags": rows} for kind in kinds]


def ids(answer: dict[str, Any]) -> list[str]:
    return [one["InstanceId"] for group in answer["Reservations"] for one in group["Instances"]]


def test_a_machine_is_pending_then_runs_then_is_online(sandbox_cloud: LiveSandbox) -> None:
    machine = sandbox_cloud.launch()
    assert sandbox_cloud.state(machine) == "pending"
    assert not sandbox_cloud.is_online(machine)
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "running")
    assert not sandbox_cloud.is_online(machine)
    sandbox_cloud.until(lambda: sandbox_cloud.is_online(machine))
    told = {row["state"]: row["at"] for row in sandbox_cloud.control.history() if row["instance"] == machine}
    assert 8 < told["running"] - told["pending"] < 25


def test_a_token_makes_one_machine_even_when_it_runs_and_none_when_it_is_gone(
    sandbox_cloud: LiveSandbox,
) -> None:
    token = sandbox_cloud.name("token")
    ec2 = sandbox_cloud.client("ec2")
    machine = sandbox_cloud.launch(ClientToken=token)
    assert sandbox_cloud.launch(ClientToken=token) == machine
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "running")
    assert sandbox_cloud.launch(ClientToken=token) == machine
    assert (
        sandbox_cloud.refusal(sandbox_cloud.launch, ClientToken=token, InstanceType="m7i.xlarge")
        == "IdempotentParameterMismatch"
    )
    found = ec2.describe_instances(Filters=[{"Name": "client-token", "Values": [token]}])
    assert ids(found) == [machine]
    ec2.terminate_instances(InstanceIds=[machine])
    assert sandbox_cloud.refusal(sandbox_cloud.launch, ClientToken=token) == "IdempotentInstanceTerminated"


def test_a_new_id_is_unknown_for_a_moment_to_calls_that_name_it(sandbox_cloud: LiveSandbox) -> None:
    ec2 = sandbox_cloud.client("ec2")
    seen: set[str] = set()
    for _ in range(20):  # the moment may be shorter than a call on a busy host
        machine = sandbox_cloud.launch()
        seen.add(sandbox_cloud.refusal(ec2.describe_instances, InstanceIds=[machine]))
        assert sandbox_cloud.instance(machine)
        sandbox_cloud.until(
            lambda machine=machine: not sandbox_cloud.refusal(ec2.describe_instances, InstanceIds=[machine])
        )
        ec2.terminate_instances(InstanceIds=[machine])
        if "InvalidInstanceID.NotFound" in seen:
            break
    assert "InvalidInstanceID.NotFound" in seen


def test_a_launch_brings_disks_and_tags_as_asked(sandbox_cloud: LiveSandbox) -> None:
    machine = sandbox_cloud.launch(
        BlockDeviceMappings=[
            {"DeviceName": "/dev/xvda", "Ebs": GP3},
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 5, "DeleteOnTermination": False}},
        ],
        TagSpecifications=tagged("instance", "volume", "network-interface", who="me"),
    )
    told = sandbox_cloud.instance(machine)
    assert told["Tags"] == [{"Key": "who", "Value": "me"}]
    disks = {row["DeviceName"]: row["Ebs"] for row in told["BlockDeviceMappings"]}
    assert {name: disk["DeleteOnTermination"] for name, disk in disks.items()} == {
        "/dev/xvda": True,
        "/dev/sdf": False,
    }
    root = sandbox_cloud.disk(disks["/dev/xvda"]["VolumeId"])
    assert (root["Size"], root["Iops"], root["Throughput"], root["Encrypted"]) == (20, 4000, 250, True)
    assert root["Tags"] == [{"Key": "who", "Value": "me"}]
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "running")
    sandbox_cloud.client("ec2").terminate_instances(InstanceIds=[machine])
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "terminated")
    assert not sandbox_cloud.disk(disks["/dev/xvda"]["VolumeId"])
    left = sandbox_cloud.disk(disks["/dev/sdf"]["VolumeId"])
    assert left["State"] == "available"


def test_without_a_word_about_disks_there_is_one_root_of_the_image(sandbox_cloud: LiveSandbox) -> None:
    told = sandbox_cloud.instance(sandbox_cloud.launch())
    [root] = told["BlockDeviceMappings"]
    assert root["DeviceName"] == told["RootDeviceName"] == "/dev/xvda"
    disk = sandbox_cloud.disk(root["Ebs"]["VolumeId"])
    assert (disk["Size"], disk["VolumeType"]) == (8, "gp3")
    assert "StateReason" not in told
    assert "Platform" not in told


BAD = {
    "an unknown type": ({"InstanceType": "zz9.large"}, "InvalidParameterValue"),
    "an unknown zone": ({"Placement": {"AvailabilityZone": "us-east-1z"}}, "InvalidParameterValue"),
    "a type that the zone has not": (
        {"InstanceType": "g5.xlarge", "Placement": {"AvailabilityZone": "us-east-1e"}},
        "Unsupported",
    ),
    "an unknown image": ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
    "an unknown profile": ({"IamInstanceProfile": {"Name": "nobody"}}, "InvalidParameterValue"),
    "too much user data": ({"UserData": "x" * 16_500}, "InvalidParameterValue"),
    "a root below the image": (
        {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 4}}]},
        "InvalidBlockDeviceMapping",
    ),
    "a disk that cannot be": (
        {"BlockDeviceMappings": [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 5, "VolumeType": "io2"}}]},
        "MissingParameter",
    ),
    "a disk of no snapshot": (
        {
            "BlockDeviceMappings": [
                {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-0123456789abcdef0"}}
            ]
        },
        "MissingParameter",
    ),
    "too many": ({"InstanceType": "p5.48xlarge", "MinCount": 60, "MaxCount": 60}, "VcpuLimitExceeded"),
    "a dry run": ({"DryRun": True}, "DryRunOperation"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_launch_that_is_refused_leaves_nothing(sandbox_cloud: LiveSandbox, what: str) -> None:
    changes, code = BAD[what]
    name = sandbox_cloud.name("refused")
    tags = tagged("instance", "volume", Name=name)
    assert sandbox_cloud.refusal(sandbox_cloud.launch, TagSpecifications=tags, **changes) == code
    ec2, filters = sandbox_cloud.client("ec2"), [{"Name": "tag:Name", "Values": [name]}]
    assert ids(ec2.describe_instances(Filters=filters)) == []
    assert ec2.describe_volumes(Filters=filters)["Volumes"] == []


def test_an_image_may_be_named_by_its_parameter(sandbox_cloud: LiveSandbox) -> None:
    name = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"
    machine = sandbox_cloud.launch(ImageId=f"resolve:ssm:{name}")
    assert sandbox_cloud.instance(machine)["ImageId"] == sandbox_cloud.image(name)


def test_stop_and_start_keep_the_machine_and_renew_its_launch_time(sandbox_cloud: LiveSandbox) -> None:
    ec2 = sandbox_cloud.client("ec2")
    machine = sandbox_cloud.running()
    sandbox_cloud.command(machine, "echo kept > $HOME/file")
    before = sandbox_cloud.instance(machine)["LaunchTime"]
    asked = ec2.stop_instances(InstanceIds=[machine])["StoppingInstances"][0]
    assert (asked["PreviousState"]["Name"], asked["CurrentState"]["Name"]) == ("running", "stopping")
    assert sandbox_cloud.state(machine) == "stopping"
    assert sandbox_cloud.refusal(ec2.start_instances, InstanceIds=[machine]) == "IncorrectInstanceState"
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "stopped")
    told = sandbox_cloud.instance(machine)
    assert told["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert re.fullmatch(
        r"User initiated \(2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d GMT\)", told["StateTransitionReason"]
    )
    assert len(told["BlockDeviceMappings"]) == 1
    ec2.start_instances(InstanceIds=[machine])
    assert sandbox_cloud.state(machine) == "pending"
    sandbox_cloud.until(lambda: sandbox_cloud.is_online(machine))
    assert sandbox_cloud.command(machine, "cat $HOME/file")["StandardOutputContent"] == "kept\n"
    again = sandbox_cloud.instance(machine)
    assert again["LaunchTime"] > before
    assert "StateReason" not in again


def test_the_end_of_a_machine_kills_it_and_stays_to_be_seen(each_sandbox_cloud: LiveSandbox) -> None:
    cloud, ec2 = each_sandbox_cloud, each_sandbox_cloud.client("ec2")
    machine = cloud.running()
    cloud.command(machine, "setsid sleep 600 >/dev/null 2>&1 </dev/null &")
    alive = cloud.processes()
    ec2.terminate_instances(InstanceIds=[machine])
    assert cloud.state(machine) == "shutting-down"
    assert cloud.refusal(ec2.stop_instances, InstanceIds=[machine]) == "IncorrectInstanceState"
    cloud.until(lambda: cloud.state(machine) == "terminated")
    cloud.until(lambda: len(cloud.processes()) < len(alive))
    cloud.until(lambda: not (cloud.home / f"sandbox/state/machines/{machine}").exists())
    for call in (ec2.start_instances, ec2.stop_instances):
        assert cloud.refusal(call, InstanceIds=[machine]) == "IncorrectInstanceState"
    assert ids(ec2.describe_instances(InstanceIds=[machine])) == [machine]
    ec2.terminate_instances(InstanceIds=[machine])


def test_a_machine_that_is_terminated_while_it_stops_ends(sandbox_cloud: LiveSandbox) -> None:
    machine, ec2 = sandbox_cloud.running(), sandbox_cloud.client("ec2")
    ec2.stop_instances(InstanceIds=[machine])
    assert sandbox_cloud.state(machine) == "stopping"
    ec2.terminate_instances(InstanceIds=[machine])
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "terminated")
    with pytest.raises(AssertionError, match="did not come true"):
        sandbox_cloud.until(lambda: sandbox_cloud.state(machine) != "terminated", 1.0)


@pytest.mark.parametrize(("behaviour", "end"), [("terminate", "terminated"), ("stop", "stopped")])
def test_a_machine_that_ends_itself_ends_as_it_was_told_to(
    each_sandbox_cloud: LiveSandbox, behaviour: str, end: str
) -> None:
    script = "#!/bin/sh\nsleep 0.3; shutdown -h now\n"
    machine = each_sandbox_cloud.launch(InstanceInitiatedShutdownBehavior=behaviour, UserData=script)
    each_sandbox_cloud.until(lambda: each_sandbox_cloud.state(machine) == end)
    told = each_sandbox_cloud.instance(machine)
    assert told["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_protection_and_dry_runs_hold(sandbox_cloud: LiveSandbox) -> None:
    ec2 = sandbox_cloud.client("ec2")
    machine = sandbox_cloud.launch()
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "running")
    assert sandbox_cloud.refusal(ec2.terminate_instances, InstanceIds=[machine], DryRun=True) == (
        "DryRunOperation"
    )
    ec2.modify_instance_attribute(InstanceId=machine, DisableApiTermination={"Value": True})
    assert sandbox_cloud.refusal(ec2.terminate_instances, InstanceIds=[machine]) == "OperationNotPermitted"
    assert sandbox_cloud.state(machine) == "running"
    ec2.modify_instance_attribute(InstanceId=machine, DisableApiTermination={"Value": False})
    ec2.terminate_instances(InstanceIds=[machine])


def test_pages_count_machines_and_filters_combine(sandbox_cloud: LiveSandbox) -> None:
    ec2, group = sandbox_cloud.client("ec2"), sandbox_cloud.name("group")
    answer = ec2.run_instances(
        ImageId=sandbox_cloud.image(),
        InstanceType="c6i.large",
        MinCount=1,
        MaxCount=12,
        TagSpecifications=tagged("instance", group=group),
    )
    made = [one["InstanceId"] for one in answer["Instances"]]
    assert len(set(made)) == 12
    here = {"Name": "tag:group", "Values": [group[:-4] + "*"]}
    pages = [
        ids(page)
        for page in ec2.get_paginator("describe_instances").paginate(
            Filters=[here], PaginationConfig={"PageSize": 5}
        )
    ]
    assert [len(page) for page in pages] == [5, 5, 2]
    assert sorted(one for page in pages for one in page) == sorted(made)
    live = {"Name": "instance-state-name", "Values": ["pending", "running"]}
    assert len(ids(ec2.describe_instances(Filters=[here, live]))) == 12
    spot = {"Name": "instance-lifecycle", "Values": ["spot"]}
    assert ids(ec2.describe_instances(Filters=[here, spot])) == []
    assert sandbox_cloud.refusal(ec2.describe_instances, MaxResults=4) == "InvalidParameterValue"
    nonsense = [{"Name": "colour", "Values": ["red"]}]
    assert sandbox_cloud.refusal(ec2.describe_instances, Filters=nonsense) == "InvalidParameterValue"
    sandbox_cloud.until(lambda: not sandbox_cloud.refusal(ec2.terminate_instances, InstanceIds=made))


def test_ids_that_are_none_are_told_from_ids_of_nothing(sandbox_cloud: LiveSandbox) -> None:
    describe = sandbox_cloud.client("ec2").describe_instances
    assert sandbox_cloud.refusal(describe, InstanceIds=["hello"]) == "InvalidInstanceID.Malformed"
    assert sandbox_cloud.refusal(describe, InstanceIds=["i-0123456789abcdef0"]) == (
        "InvalidInstanceID.NotFound"
    )


def test_a_machine_finds_its_role_and_its_cloud(each_sandbox_cloud: LiveSandbox) -> None:
    bucket = each_sandbox_cloud.name("bucket")
    each_sandbox_cloud.client("s3").create_bucket(Bucket=bucket)
    machine = each_sandbox_cloud.running(MetadataOptions={"HttpTokens": "required"})
    script = f"""python3 -c '
import boto3
boto3.client("s3").put_object(Bucket="{bucket}", Key="from", Body=b"inside")
print(boto3.client("ec2").describe_instances()["ResponseMetadata"]["HTTPStatusCode"])
'"""
    done = each_sandbox_cloud.command(machine, script)
    assert (done["StandardOutputContent"], done["Status"]) == ("200\n", "Success"), done
    got = each_sandbox_cloud.client("s3").get_object(Bucket=bucket, Key="from")
    assert got["Body"].read() == b"inside"


def cpu_seconds(pid: int) -> float:
    """That a process has spent, however busy the machine is."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_describing_is_quick_and_connections_stay_open(sandbox_cloud: LiveSandbox) -> None:
    machine = sandbox_cloud.launch()
    before = cpu_seconds(sandbox_cloud.record.pid)
    for _ in range(15):
        sandbox_cloud.instance(machine)
    assert cpu_seconds(sandbox_cloud.record.pid) - before < 15 * 0.1
    answer = sandbox_cloud.client("ec2").describe_regions()
    assert answer["ResponseMetadata"]["HTTPHeaders"].get("connection") != "close"


def test_an_instant_fleet_takes_the_next_pool_where_one_is_empty(sandbox_cloud: LiveSandbox) -> None:
    ec2, name = sandbox_cloud.client("ec2"), sandbox_cloud.name("template")
    ec2.create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={"ImageId": sandbox_cloud.image(), "InstanceType": "c6i.large"},
    )
    sandbox_cloud.control.add_fault(
        "ec2", "no-capacity", operation="RunInstances", instance_type="g4dn.xlarge"
    )
    try:
        answer = ec2.create_fleet(
            Type="instant",
            TargetCapacitySpecification={"TotalTargetCapacity": 2, "DefaultTargetCapacityType": "spot"},
            LaunchTemplateConfigs=[
                {
                    "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "$Latest"},
                    "Overrides": [{"InstanceType": "g4dn.xlarge"}, {"InstanceType": "g5.xlarge"}],
                }
            ],
        )
    finally:
        sandbox_cloud.control.clear_faults()
    assert [row["ErrorCode"] for row in answer["Errors"]] == ["InsufficientInstanceCapacity"]
    [made] = answer["Instances"]
    assert (made["InstanceType"], len(made["InstanceIds"])) == ("g5.xlarge", 2)
    assert sandbox_cloud.instance(made["InstanceIds"][0])["InstanceLifecycle"] == "spot"


def test_a_reset_is_a_boot_of_which_no_process_heard_and_the_console_tells_of_both(
    sandbox_cloud: LiveSandbox,
) -> None:
    ec2 = sandbox_cloud.client("ec2")
    text = (
        "#!/bin/sh\ntrap 'echo signalled' TERM\nshutdown -P +60\n"
        'printf \'#!/bin/sh\\necho booted again\\n\' >"$RUNCTL_PER_BOOT/x"; chmod 755 "$RUNCTL_PER_BOOT/x"\n'
        "echo user data; while :; do sleep 0.1; done\n"
    )
    machine = sandbox_cloud.running(UserData=text)

    def console() -> str:
        return ec2.get_console_output(InstanceId=machine)["Output"]

    sandbox_cloud.until(lambda: "user data" in console())
    sandbox_cloud.control.reset(machine)
    sandbox_cloud.until(lambda: "booted again" in console())
    assert console().count("user data") == 1
    assert "signalled" not in console()
    assert sandbox_cloud.state(machine) == "running"
    ec2.terminate_instances(InstanceIds=[machine])
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "terminated")
    assert "booted again" in console()
