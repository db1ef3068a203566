"""EBS snapshots and the images that stand on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from runctl.errors import CloudError, NotFound
from runctl.events import Emit, Progress
from runctl.model import TAG_STEP, TAG_TRANSACTION
from runctl.providers.aws.session import Session
from runctl.providers.aws.waiting import Pause

UNSEEN_PATIENCE = timedelta(seconds=60)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What EC2 says of a snapshot: size in GiB of its volume, `stored_bytes` of its own blocks where told."""

    id: str
    region: str
    volume: str
    size_gib: int
    state: str
    progress: str
    started: datetime
    encrypted: bool
    description: str
    tags: dict[str, str]
    stored_bytes: int | None = None

    @property
    def name(self) -> str:
        return self.tags.get("Name", "")


class MachineImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the account's own, and the snapshots that it needs."""

    id: str
    region: str
    name: str
    created: datetime | None
    snapshots: tuple[str, ...]
    tags: dict[str, str]


def create(session: Session, volume_id: str, *, description: str, tags: dict[str, str]) -> Snapshot:
    """Take a snapshot. It carries no client token: a lost answer is found again by its tags.

    Raises CloudError.
    """
    row = session.call(
        "ec2",
        "create_snapshot",
        repeatable=False,
        VolumeId=volume_id,
        Description=description,
        TagSpecifications=[
            {
                "ResourceType": "snapshot",
                "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            }
        ],
    )
    return _snapshot(session, row)


def find(session: Session, *, tx: str, step: str) -> Snapshot | None:
    """The snapshot that a step of a transaction made, by the tags that it was given at birth."""
    found = _listing(
        session,
        [
            {"Name": f"tag:{TAG_TRANSACTION}", "Values": [tx]},
            {"Name": f"tag:{TAG_STEP}", "Values": [step]},
        ],
    )
    return found[0] if found else None


def describe(session: Session, snapshot_id: str) -> Snapshot | None:
    """What EC2 says of a snapshot, whoever owns it; None where it knows none of this id."""
    # By id and not by filter: that looks through every snapshot that anybody has made public.
    try:
        answer = session.call("ec2", "describe_snapshots", SnapshotIds=[snapshot_id])
    except NotFound:
        return None
    return next((_snapshot(session, row) for row in answer["Snapshots"]), None)


def listing(session: Session, filters: Sequence[dict[str, Any]] = ()) -> list[Snapshot]:
    """Every snapshot of the account in the region."""
    return _listing(session, filters)


def delete(session: Session, snapshot_id: str) -> None:
    """Delete a snapshot; one that is gone is fine. To be called by `safety.destroy` alone."""
    try:
        session.call(
            "ec2",
            "delete_snapshot",
            SnapshotId=snapshot_id,
            exists=lambda: describe(session, snapshot_id) is not None,
        )
    except NotFound:
        return


def images(session: Session) -> list[MachineImage]:
    """Every image of the account's own in the region."""
    rows = session.pages("ec2", "describe_images", "Images", Owners=["self"])
    return [_image(session, row) for row in rows]


def images_using(session: Session, snapshot_id: str) -> list[str]:
    """The account's images that need a snapshot."""
    return sorted(image.id for image in images(session) if snapshot_id in image.snapshots)


def wait_completed(session: Session, snapshot_id: str, *, timeout: timedelta, emit: Emit) -> Snapshot:
    """Wait until a snapshot is whole. Raises CloudError for one in `error`, and after `timeout`."""
    begun, pause = session.cloud.clock.now(), Pause(session.cloud.clock)
    while True:
        found = describe(session, snapshot_id)
        waited = session.cloud.clock.now() - begun
        if found is not None and found.state == "completed":
            return found
        if found is not None and found.state == "error":
            raise _error(snapshot_id, "SnapshotError", "EBS put it into the state `error`")
        if found is None and waited > UNSEEN_PATIENCE:
            raise _error(snapshot_id, "SnapshotGone", "it is not there any more")
        if waited > timeout:
            raise _error(snapshot_id, "TimedOut", f"it is not complete after {timeout}")
        done = found.progress if found else ""
        emit(Progress(task=f"snapshot {snapshot_id} {done}", done=_percent(done), total=100.0, unit="%"))
        pause.take()


def _percent(progress: str) -> float:
    try:
        return float(progress.rstrip("%"))
    except ValueError:
        return 0.0


def _error(snapshot_id: str, code: str, why: str) -> CloudError:
    return CloudError(
        f"{snapshot_id} is not complete",
        service="ec2",
        operation="describe_snapshots",
        code=code,
        why=why,
        next="runctl aws ebs snapshot-list",
    )


def _listing(session: Session, filters: Sequence[dict[str, Any]]) -> list[Snapshot]:
    parameters = {"Filters": list(filters), "MaxResults": 1000, "OwnerIds": ["self"]}
    rows = session.pages("ec2", "describe_snapshots", "Snapshots", **parameters)
    return [_snapshot(session, row) for row in rows]


def _snapshot(session: Session, row: dict[str, Any]) -> Snapshot:
    return Snapshot(
        id=row["SnapshotId"],
        region=session.region,
        volume=row.get("VolumeId", ""),
        size_gib=row.get("VolumeSize", 0),
        state=row.get("State", "pending"),
        progress=row.get("Progress", ""),
        started=row["StartTime"].astimezone(UTC),
        encrypted=bool(row.get("Encrypted")),
        description=row.get("Description", ""),
        tags={tag["Key"]: tag["Value"] for tag in row.get("Tags", [])},
        stored_bytes=row.get("FullSnapshotSizeInBytes"),
    )


def _image(session: Session, row: dict[str, Any]) -> MachineImage:
    created = row.get("CreationDate")
    disks = [mapping.get("Ebs", {}).get("SnapshotId") for mapping in row.get("BlockDeviceMappings", [])]
    return MachineImage(
        id=row["ImageId"],
        region=session.region,
        name=row.get("Name", ""),
        created=datetime.fromisoformat(created) if created else None,
        snapshots=tuple(snapshot for snapshot in disks if snapshot),
        tags={tag["Key"]: tag["Value"] for tag in row.get("Tags", [])},
    )
