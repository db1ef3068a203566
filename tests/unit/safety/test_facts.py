"""Facts as the real calls tell them: over HTTP, from the shared sandbox."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runctl.ledger import Ledger, Owner
from runctl.model import TAG_JOB, TAG_PURPOSE
from runctl.providers.aws import account
from runctl.providers.aws.session import Session
from runctl.safety import facts
from runctl.safety.facts import KnownInstance, KnownSnapshot, KnownVolume


class Seen:
    """What the facts say of resources of the shared sandbox."""

    def __init__(self, live: Any, ledger: Ledger) -> None:
        self.live, self.ledger = live, ledger
        self.session = Session(live.cloud())
        self.ec2 = live.client("ec2")

    def volume(self, id_: str) -> KnownVolume:
        found = facts.of_volume(self.session, self.ledger, id_)
        assert found is not None
        return found

    def snapshot(self, id_: str) -> KnownSnapshot:
        found = facts.of_snapshot(self.session, self.ledger, id_)
        assert found is not None
        return found

    def instance(self, id_: str) -> KnownInstance:
        found = facts.of_instance(self.session, self.ledger, id_)
        assert found is not None
        return found

    def completed(self, snapshot: str) -> bool:
        (found,) = self.ec2.describe_snapshots(Filters=[{"Name": "snapshot-id", "Values": [snapshot]}])[
            "Snapshots"
        ]
        return found["State"] == "completed"


@pytest.fixture
def seen(sandbox_cloud: Any, tmp_path: Path) -> Iterator[Seen]:
    with Ledger.open(tmp_path) as ledger:
        yield Seen(sandbox_cloud, ledger)


def tagged(live: Any, **tags: str) -> str:
    rows = [{"Key": f"runctl:{key}", "Value": value} for key, value in tags.items()]
    return live.volume(TagSpecifications=[{"ResourceType": "volume", "Tags": rows}])


def test_a_snapshot_counts_as_a_copy_once_it_is_complete(seen: Seen) -> None:
    """A volume was deleted although its snapshot had failed: what is not complete is no copy."""
    volume = tagged(seen.live, job="digits-1")
    assert seen.volume(volume).facts.only_copy_of == ("digits-1",)
    snapshot = seen.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    early = seen.volume(volume).facts
    assert early.snapshots in {(), (snapshot,)}
    assert early.only_copy_of == (() if early.snapshots else ("digits-1",))
    seen.live.until(lambda: seen.completed(snapshot))
    assert seen.volume(volume).facts.snapshots == (snapshot,)
    assert seen.volume(volume).facts.only_copy_of == ()
    seen.ec2.delete_snapshot(SnapshotId=snapshot)
    seen.ec2.delete_volume(VolumeId=volume)


def test_checkpoints_that_are_committed_in_the_bucket_are_a_copy(seen: Seen) -> None:
    job = seen.live.name("job")
    volume, unclear, plain = (
        tagged(seen.live, **{TAG_JOB.removeprefix("runctl:"): job}),
        tagged(seen.live, **{TAG_PURPOSE.removeprefix("runctl:"): "checkpoints"}),
        tagged(seen.live, user="ada"),
    )
    assert seen.volume(volume).facts.only_copy_of == (job,)
    s3, bucket = seen.live.client("s3"), account.default_bucket(seen.session)
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key=f"runctl/jobs/{job}/checkpoints/latest.json", Body=b"{}")
    assert seen.volume(volume).facts.only_copy_of == ()
    assert seen.volume(unclear).facts.only_copy_of is None  # nobody knows whose they are
    assert seen.volume(plain).facts.only_copy_of == ()
    for made in (volume, unclear, plain):
        seen.ec2.delete_volume(VolumeId=made)


def test_an_operation_that_restores_a_snapshot_is_known(seen: Seen) -> None:
    volume = tagged(seen.live, user="ada")
    snapshot = seen.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    seen.live.until(lambda: seen.completed(snapshot))
    known = seen.snapshot(snapshot).facts
    assert (known.images, known.restoring) == ((), ())
    owner = Owner(pid=1, started=0.0, host="elsewhere")
    at = seen.session.cloud.clock.now()
    journal = seen.ledger.journal
    for operation, restores in (("restore-volume", True), ("delete-volume", False)):
        payload = msgspec.json.encode({"snapshot": snapshot})
        tx = journal.begin(operation, subject=volume, payload=payload, owner=owner, at=at)
        assert seen.snapshot(snapshot).facts.restoring == ((tx,) if restores else ())
        journal.end(tx, "finished")
    tx = journal.begin("restore-volume", subject=volume, payload=b"{}", owner=owner, at=at)
    step = journal.intend(tx, "snapshot", token="t", request=b"{}")
    journal.done(tx, step, msgspec.json.encode({"id": snapshot}))
    assert seen.snapshot(snapshot).facts.restoring == (tx,)
    seen.ec2.delete_snapshot(SnapshotId=snapshot)
    seen.ec2.delete_volume(VolumeId=volume)


def test_a_machine_is_known_with_its_disks_its_protection_and_its_images(seen: Seen) -> None:
    instance = seen.live.running()
    known = seen.instance(instance)
    (root,) = known.facts.disks or ()
    assert (root.dies_with_instance, known.facts.termination_protected) == (True, False)
    assert root.tags == {}
    assert known.facts.created == known.instance.launched
    seen.ec2.modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": True})
    assert seen.instance(instance).facts.termination_protected is True
    seen.live.control.add_fault(
        "ec2", "error", operation="DescribeInstanceAttribute", code="UnauthorizedOperation", status=403
    )
    try:
        assert seen.instance(instance).facts.termination_protected is None
    finally:
        seen.live.control.clear_faults()
    seen.ec2.modify_instance_attribute(InstanceId=instance, DisableApiTermination={"Value": False})
    image = seen.ec2.create_image(InstanceId=instance, Name=seen.live.name("image"))["ImageId"]
    mappings = seen.ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"]
    (snapshot,) = [mapping["Ebs"]["SnapshotId"] for mapping in mappings if "Ebs" in mapping]
    assert seen.snapshot(snapshot).facts.images == (image,)
    seen.ec2.deregister_image(ImageId=image)
    assert seen.snapshot(snapshot).facts.images == ()
    seen.ec2.delete_snapshot(SnapshotId=snapshot)
    seen.ec2.terminate_instances(InstanceIds=[instance])


def test_what_the_cloud_does_not_show_is_not_known(seen: Seen) -> None:
    assert facts.of_volume(seen.session, seen.ledger, "vol-0123456789abcdef0") is None
    assert facts.of_snapshot(seen.session, seen.ledger, "snap-0123456789abcdef0") is None
    assert facts.of_instance(seen.session, seen.ledger, "i-0123456789abcdef0") is None
