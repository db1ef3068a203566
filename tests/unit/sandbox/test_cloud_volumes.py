"""EBS over HTTP: limits by type, one attachment in one zone, states that take time, snapshots that keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import LiveSandbox

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"Size": 0}, "InvalidParameterValue"),
    "more than gp3 holds": ({"Size": 70_000}, "InvalidParameterValue"),
    "an unknown type": ({"VolumeType": "zzz"}, "InvalidParameterValue"),
    "too many IOPS": ({"Iops": 90_000}, "InvalidParameterValue"),
    "IOPS beyond the ratio": ({"Iops": 9_000}, "InvalidParameterValue"),
    "throughput beyond the IOPS": ({"Size": 100, "Throughput": 1_000}, "InvalidParameterValue"),
    "io2 without IOPS": ({"VolumeType": "io2"}, "MissingParameter"),
    "gp2 with IOPS": ({"VolumeType": "gp2", "Iops": 500}, "InvalidParameterCombination"),
    "st1 below its least": ({"VolumeType": "st1", "Size": 100}, "InvalidParameterValue"),
    "an unknown zone": ({"AvailabilityZone": "us-east-1z"}, "InvalidZone.NotFound"),
    "a dry run": ({"DryRun": True}, "DryRunOperation"),
}


@pytest.mark.parametrize("what", BAD)
def test_disks_that_cannot_be_are_refused(sandbox_cloud: LiveSandbox, what: str) -> None:
    changes, code = BAD[what]
    asked = {"AvailabilityZone": "us-east-1a", "Size": 4, "VolumeType": "gp3", **changes}
    assert sandbox_cloud.refusal(sandbox_cloud.client("ec2").create_volume, **asked) == code


def test_a_token_makes_one_disk(sandbox_cloud: LiveSandbox) -> None:
    ec2, token = sandbox_cloud.client("ec2"), sandbox_cloud.name("token")
    asked = {"AvailabilityZone": "us-east-1a", "Size": 4, "VolumeType": "gp3", "ClientToken": token}
    first = ec2.create_volume(**asked)
    assert first["State"] == "creating"
    assert ec2.create_volume(**asked)["VolumeId"] == first["VolumeId"]
    assert sandbox_cloud.refusal(ec2.create_volume, **{**asked, "Size": 5}) == "IdempotentParameterMismatch"


def test_a_disk_goes_to_one_machine_of_its_zone(sandbox_cloud: LiveSandbox) -> None:
    ec2 = sandbox_cloud.client("ec2")
    one, other = sandbox_cloud.launch(), sandbox_cloud.launch()
    far = sandbox_cloud.volume("us-east-1b")
    disk, second = sandbox_cloud.volume(), sandbox_cloud.volume()
    for machine in (one, other):
        sandbox_cloud.until(lambda machine=machine: sandbox_cloud.state(machine) == "running")

    def refused(volume: str, machine: str, device: str = "/dev/sdf") -> str:
        asked = {"VolumeId": volume, "InstanceId": machine, "Device": device}
        return sandbox_cloud.refusal(ec2.attach_volume, **asked)

    assert refused(far, one) == "InvalidVolume.ZoneMismatch"
    assert ec2.attach_volume(VolumeId=disk, InstanceId=one, Device="/dev/sdf")["State"] == "attaching"
    assert sandbox_cloud.disk(disk)["State"] == "in-use"
    assert refused(disk, one, "/dev/sdg") == refused(disk, other) == "VolumeInUse"
    assert refused(second, one) == "InvalidParameterValue"
    sandbox_cloud.until(lambda: sandbox_cloud.disk(disk)["Attachments"][0]["State"] == "attached")
    assert sandbox_cloud.refusal(ec2.delete_volume, VolumeId=disk) == "VolumeInUse"
    wrong = {"VolumeId": disk, "InstanceId": other}
    assert sandbox_cloud.refusal(ec2.detach_volume, **wrong) == "InvalidAttachment.NotFound"
    assert ec2.detach_volume(VolumeId=disk)["State"] == "detaching"
    sandbox_cloud.until(lambda: sandbox_cloud.disk(disk)["State"] == "available")
    assert sandbox_cloud.refusal(ec2.detach_volume, VolumeId=disk) == "IncorrectState"
    ec2.delete_volume(VolumeId=disk)
    assert sandbox_cloud.refusal(ec2.describe_volumes, VolumeIds=[disk]) == "InvalidVolume.NotFound"


def test_the_root_of_a_running_machine_stays(sandbox_cloud: LiveSandbox) -> None:
    machine = sandbox_cloud.launch()
    sandbox_cloud.until(lambda: sandbox_cloud.state(machine) == "running")
    root = sandbox_cloud.instance(machine)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    detach = sandbox_cloud.client("ec2").detach_volume
    assert sandbox_cloud.refusal(detach, VolumeId=root) == "OperationNotPermitted"


def test_what_a_machine_writes_travels_with_disk_and_snapshot(each_sandbox_cloud: LiveSandbox) -> None:
    cloud, ec2 = each_sandbox_cloud, each_sandbox_cloud.client("ec2")
    disk, machine = cloud.volume(), cloud.running()
    ec2.attach_volume(VolumeId=disk, InstanceId=machine, Device="/dev/sdf")
    cloud.until(lambda: cloud.disk(disk)["Attachments"][0]["State"] == "attached")
    found = "dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_" + disk.replace("-", "")
    folder = cloud.home / f"sandbox/state/machines/{machine}"
    assert cloud.command(machine, f"echo one > {folder}/{found}/fs/file")["Status"] == "Success"
    snapshot = ec2.create_snapshot(VolumeId=disk)
    assert (snapshot["State"], snapshot["VolumeSize"]) == ("pending", 4)
    cloud.command(machine, f"echo two > {folder}/{found}/fs/file")

    def told(snapshot_id: str) -> dict[str, Any]:
        by_id = [{"Name": "snapshot-id", "Values": [snapshot_id]}]
        return ec2.describe_snapshots(OwnerIds=["self"], Filters=by_id)["Snapshots"][0]

    cloud.until(lambda: told(snapshot["SnapshotId"])["State"] == "completed")
    copied = ec2.copy_snapshot(SourceSnapshotId=snapshot["SnapshotId"], SourceRegion="us-east-1")
    cloud.until(lambda: told(copied["SnapshotId"])["State"] == "completed")
    ec2.modify_volume(VolumeId=disk, Size=9)
    assert told(snapshot["SnapshotId"])["VolumeSize"] == told(copied["SnapshotId"])["VolumeSize"] == 4
    small = {"AvailabilityZone": "us-east-1a", "Size": 2, "SnapshotId": copied["SnapshotId"]}
    assert cloud.refusal(ec2.create_volume, **small) == "InvalidParameterValue"
    restored = cloud.volume(Size=6, SnapshotId=copied["SnapshotId"])
    assert (cloud.home / f"sandbox/state/volumes/{restored}/fs/file").read_text() == "one\n"
    assert (cloud.home / f"sandbox/state/volumes/{disk}/fs/file").read_text() == "two\n"
    ec2.delete_snapshot(SnapshotId=copied["SnapshotId"])
    by_id = {"SnapshotIds": [copied["SnapshotId"]]}
    assert cloud.refusal(ec2.describe_snapshots, **by_id) == "InvalidSnapshot.NotFound"


def test_snapshots_of_self_are_ours_alone(sandbox_cloud: LiveSandbox) -> None:
    ec2 = sandbox_cloud.client("ec2")
    ours = ec2.create_snapshot(VolumeId=sandbox_cloud.volume(), Description="mine")["SnapshotId"]
    pages = ec2.get_paginator("describe_snapshots").paginate(
        OwnerIds=["self"], PaginationConfig={"PageSize": 5}
    )
    found = [row for page in pages for row in page["Snapshots"]]
    assert ours in {row["SnapshotId"] for row in found}
    assert {row["OwnerId"] for row in found} == {"123456789012"}
    of_image = ec2.describe_images(ImageIds=[sandbox_cloud.image()])["Images"][0]
    theirs = of_image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    assert sandbox_cloud.refusal(ec2.delete_snapshot, SnapshotId=theirs) == "InvalidSnapshot.InUse"


def test_a_disk_grows_one_change_at_a_time_four_times_a_day(sandbox_cloud: LiveSandbox) -> None:
    ec2, disk = sandbox_cloud.client("ec2"), sandbox_cloud.volume()
    first = ec2.modify_volume(VolumeId=disk, Size=8, Iops=3_500)["VolumeModification"]
    assert first["ModificationState"] == "modifying"
    grow = {"VolumeId": disk, "Size": 12}
    assert sandbox_cloud.refusal(ec2.modify_volume, **grow) == "IncorrectModificationState"
    assert sandbox_cloud.disk(disk)["Iops"] == 3_500

    def completed() -> bool:
        rows = ec2.describe_volumes_modifications(VolumeIds=[disk])["VolumesModifications"]
        return all(row["ModificationState"] == "completed" for row in rows)

    sandbox_cloud.until(completed)
    shrink = {"VolumeId": disk, "Size": 5}
    assert sandbox_cloud.refusal(ec2.modify_volume, **shrink) == "InvalidParameterValue"
    for size in (9, 10, 11):
        ec2.modify_volume(VolumeId=disk, Size=size)
        sandbox_cloud.until(completed)
    assert sandbox_cloud.refusal(ec2.modify_volume, **grow) == "VolumeModificationRateExceeded"


def test_disks_are_filtered_and_paged(sandbox_cloud: LiveSandbox) -> None:
    ec2, group = sandbox_cloud.client("ec2"), sandbox_cloud.name("group")
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "group", "Value": group}]}]
    asked = {"AvailabilityZone": "us-east-1a", "Size": 1, "VolumeType": "gp3", "TagSpecifications": tags}
    made = {ec2.create_volume(**asked)["VolumeId"] for _ in range(7)}
    here = {"Name": "tag:group", "Values": [group]}
    pages = [
        [row["VolumeId"] for row in page["Volumes"]]
        for page in ec2.get_paginator("describe_volumes").paginate(
            Filters=[here], PaginationConfig={"PageSize": 5}
        )
    ]
    assert [len(page) for page in pages] == [5, 2]
    assert {one for page in pages for one in page} == made
    kind = {"Name": "volume-type", "Values": ["gp3"]}
    assert len(ec2.describe_volumes(Filters=[here, kind])["Volumes"]) == 7
