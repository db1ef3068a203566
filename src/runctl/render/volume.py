"""Volumes and snapshots, as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from runctl.model import TAG_IMPORTANT, TAG_PERSISTENT, TAG_PROTECTED
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Volume
from runctl.render import figures, output
from runctl.safety.protection import marked

LOCK = "\N{LOCK}"


def show_volumes(found: Sequence[tuple[Volume, Decimal | None]], now: datetime) -> None:
    """One row each, a lock before what is kept whatever happens; the sum below."""
    rows = [
        (
            lock_of(volume),
            volume.id,
            volume.name,
            f"{volume.size_gib} GiB",
            _speed(volume),
            volume.zone,
            _place(volume),
            figures.duration(now - volume.created),
            figures.usd(rate),
        )
        for volume, rate in found
    ]
    columns = ("", "volume", "name", "size", "type", "zone", "attached to", "age", "a month")
    output.write_table(columns, rows, right=("size", "a month"))
    _sum([rate for _, rate in found])


def show_snapshots(found: Sequence[tuple[Snapshot, Decimal | None]]) -> None:
    """One row each; the sum below."""
    rows = [
        (
            snapshot.id,
            snapshot.tags.get("Name", ""),
            snapshot.volume,
            f"{snapshot.size_gib} GiB",
            snapshot.state if snapshot.state != "pending" else f"pending {snapshot.progress}",
            figures.moment(snapshot.started),
            figures.usd(rate),
        )
        for snapshot, rate in found
    ]
    columns = ("snapshot", "name", "of", "size", "state", "started", "a month")
    output.write_table(columns, rows, right=("size", "a month"))
    _sum([rate for _, rate in found])


def lock_of(volume: Volume) -> str:
    """A lock for volumes that are persistent or protected."""
    return LOCK if marked(volume.tags, TAG_PERSISTENT, TAG_PROTECTED, TAG_IMPORTANT) else ""


def _sum(rates: Sequence[Decimal | None]) -> None:
    known = sum((rate for rate in rates if rate is not None), Decimal(0))
    unknown = sum(rate is None for rate in rates)
    more = f", and {unknown} at unknown prices" if unknown else ""
    output.talk(f"{figures.usd(known)} a month{more}")


def _speed(volume: Volume) -> str:
    iops = f" {volume.iops} IOPS" if volume.iops and volume.volume_type in {"io1", "io2", "gp3"} else ""
    through = f" {volume.throughput_mibs} MiB/s" if volume.throughput_mibs else ""
    return f"{volume.volume_type}{iops}{through}"


def _place(volume: Volume) -> str:
    return ", ".join(f"{found.instance} {found.device}" for found in volume.attachments) or volume.state
