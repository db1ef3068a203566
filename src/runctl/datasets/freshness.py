"""Whether volumes and snapshots hold a dataset as it is in S3 now, by the version that staging left."""

from __future__ import annotations

import msgspec

from runctl.datasets.volumes import staleness_of
from runctl.errors import NotFound, ValidationError
from runctl.ledger import Ledger
from runctl.model import TAG_DATASET, TAG_DATASET_TIME, TAG_DATASET_VERSION, TAG_MANAGED
from runctl.providers.aws import snapshots, volumes
from runctl.providers.aws.session import Session
from runctl.quoting import quoted
from runctl.resources.filling import dataset_tag
from runctl.resources.prefixes import Dataset, dataset_of


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A volume or snapshot with a dataset: the version that it holds, the one in S3 now, why it is stale.

    `zone` is empty for a snapshot, which serves all.
    """

    id: str
    kind: str
    zone: str
    location: str
    staged: str
    version: str
    now: str
    stale: str


def holders(session: Session, dataset: Dataset) -> list[Holder]:
    """Every managed volume and snapshot of the region that was filled from a dataset."""
    wanted = {TAG_MANAGED: "true", TAG_DATASET: dataset_tag(dataset.location)}
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()]
    found = [
        _holder(volume.id, "volume", volume.zone, volume.tags, dataset)
        for volume in volumes.listing(session, filters)
        if volume.state in {"available", "in-use"}
    ]
    found += [
        _holder(snapshot.id, "snapshot", "", snapshot.tags, dataset)
        for snapshot in snapshots.listing(session, filters)
    ]
    return sorted(found, key=lambda holder: (holder.kind != "volume", holder.id))


def of_volume(session: Session, ledger: Ledger, volume_id: str) -> Holder:
    """What one volume holds against what S3 holds now. Raises NotFound, ValidationError for an unfilled one.

    A location that is longer than a tag is known by the ledger of whoever filled the volume.
    """
    volume = volumes.describe(session, volume_id)
    if volume is None:
        raise NotFound(f"There is no volume {volume_id} in {session.region}", next="runctl aws ebs list")
    location = volume.tags.get(TAG_DATASET)
    if location is None:
        raise ValidationError(
            f"{volume_id} was not filled from S3",
            why="it has no tags that say so",
            next=f"runctl aws ebs pre-warm {quoted(volume_id)} s3://BUCKET/PREFIX",
        )
    known = [record.location for record in ledger.staged.list(resource=volume_id)]
    whole = next((place for place in known if dataset_tag(place) == location), location)
    return _holder(volume.id, "volume", volume.zone, volume.tags, dataset_of(session, whole))


def _holder(holder_id: str, kind: str, zone: str, tags: dict[str, str], dataset: Dataset) -> Holder:
    return Holder(
        id=holder_id,
        kind=kind,
        zone=zone,
        location=dataset.location,
        staged=tags.get(TAG_DATASET_TIME, ""),
        version=tags.get(TAG_DATASET_VERSION, ""),
        now=dataset.version,
        stale=staleness_of(holder_id, tags, dataset),
    )
