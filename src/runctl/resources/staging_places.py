"""Where a state of a dataset lies already: volumes of a zone, and snapshots, which serve every zone."""

from __future__ import annotations

from typing import Any

import msgspec

from runctl.model import TAG_DATASET, TAG_DATASET_EXTRA, TAG_DATASET_VERSION, TAG_MANAGED
from runctl.providers.aws import snapshots, volumes
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Volume
from runctl.resources import volumes as own_volumes
from runctl.resources.filling import dataset_tag
from runctl.resources.operation import Operation
from runctl.resources.prefixes import Dataset
from runctl.resources.volumes import VolumeRequest
from runctl.safety.saga import Plan, PlannedStep, result_of


def volume_with(operation: Operation, dataset: Dataset, zone: str) -> Volume | None:
    """A managed volume of a zone that holds this state; one that is at no machine before others."""
    found = [
        volume
        for volume in volumes.listing(operation.session, _filters(dataset))
        if volume.zone == zone and volume.state in {"available", "in-use"}
    ]
    return min(found, key=lambda volume: (volume.state != "available", volume.created), default=None)


def snapshot_with(operation: Operation, dataset: Dataset) -> Snapshot | None:
    """The newest managed snapshot that holds this state and is complete."""
    found = [
        snapshot
        for snapshot in snapshots.listing(operation.session, _filters(dataset))
        if snapshot.state == "completed"
    ]
    return max(found, key=lambda snapshot: snapshot.started, default=None)


def plan_restore(operation: Operation, dataset: Dataset, snapshot_id: str, request: VolumeRequest) -> Plan:
    """The steps of a volume from a snapshot that holds the dataset, marked as such."""
    source = own_volumes.existing_snapshot(operation, snapshot_id)
    size = max(source.size_gib, request.size_gib or 0)
    wanted = msgspec.structs.replace(request, snapshot=snapshot_id, size_gib=size)
    spec: dict[str, Any] = msgspec.to_builtins(own_volumes.spec_of(operation, wanted))
    staged = {
        "version": dataset.version,
        "files": dataset.files,
        "bytes": dataset.bytes,
        "left_out_files": len(dataset.refused),
        "extra_files": int(source.tags.get(TAG_DATASET_EXTRA, "0")),
    }
    volume = result_of("volume")
    return operation.plan(
        "restore-volume",  # so called, it keeps the snapshot from being deleted meanwhile
        snapshot_id,
        [
            PlannedStep(name="complete", kind="wait-snapshot", requests=({"snapshot": snapshot_id},)),
            PlannedStep(name="volume", kind="create-volume", requests=({"spec": spec},)),
            PlannedStep(name="available", kind="wait-volume", requests=({"volume": volume},)),
            PlannedStep(
                name="mark",
                kind="mark-volume",
                requests=({"volume": volume, "location": dataset.location, "stagings": [staged]},),
            ),
        ],
    )


def _filters(dataset: Dataset) -> list[dict[str, Any]]:
    wanted = {
        TAG_MANAGED: "true",
        TAG_DATASET: dataset_tag(dataset.location),
        TAG_DATASET_VERSION: dataset.version,
    }
    return [{"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()]
