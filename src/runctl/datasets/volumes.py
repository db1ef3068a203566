"""Volumes that hold a dataset: found by the tags that pre-warming leaves, and judged by its version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runctl.datasets.situation import OwnVolume, exact
from runctl.errors import NotFound
from runctl.model import TAG_DATASET, TAG_DATASET_VERSION, TAG_MANAGED
from runctl.providers.aws import volumes
from runctl.providers.aws.session import Session
from runctl.providers.aws.volumes import Volume
from runctl.resources import fillers
from runctl.resources.filling import dataset_tag
from runctl.resources.prefixes import Dataset


def holding(session: Session, dataset: Dataset) -> list[Volume]:
    """Managed volumes of the region with this very version, those at no machine first."""
    wanted = {
        TAG_MANAGED: "true",
        TAG_DATASET: dataset_tag(dataset.location),
        TAG_DATASET_VERSION: dataset.version,
    }
    filters: list[dict[str, Any]] = [
        {"Name": f"tag:{key}", "Values": [value]} for key, value in wanted.items()
    ]
    found = [
        volume
        for volume in volumes.listing(session, filters)
        if volume.state in {"available", "in-use"} and volume.tags.get(TAG_DATASET_VERSION) == dataset.version
    ]
    return sorted(found, key=lambda volume: (volume.state != "available", volume.created))


def named(session: Session, volume_id: str, dataset: Dataset) -> OwnVolume:
    """A volume that the user names. Raises NotFound.

    What it holds is known by its tags alone: one without them is taken at the user's word.
    """
    volume = volumes.describe(session, volume_id)
    if volume is None or volume.state not in {"available", "in-use"}:
        raise NotFound(f"There is no volume {volume_id} in {session.region}", next="runctl aws ebs list")
    return as_own(volume, obstacle=staleness(volume, dataset))


def as_own(volume: Volume, *, obstacle: str = "") -> OwnVolume:
    mibs = exact(fillers.volume_mibs(volume))
    return OwnVolume(id=volume.id, zone=volume.zone, mibs=mibs, obstacle=obstacle)


def staleness(volume: Volume, dataset: Dataset) -> str:
    """Why a volume does not hold this version, by its tags; empty where they do not say so."""
    return staleness_of(volume.id, volume.tags, dataset)


def staleness_of(holder_id: str, tags: Mapping[str, str], dataset: Dataset) -> str:
    location, version = tags.get(TAG_DATASET), tags.get(TAG_DATASET_VERSION)
    if location is not None and location != dataset_tag(dataset.location):
        return f"{holder_id} holds another dataset, {location}"
    if location is not None and version != dataset.version:
        known = f"version {version[:12]}" if version else "no whole version"
        return f"{holder_id} holds {known}, and the dataset is at {dataset.version[:12]} now"
    return ""
