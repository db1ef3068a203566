"""What becomes of its volumes when an instance ends, and what must outlive it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum

import msgspec

from runctl.errors import Conflict
from runctl.model import TAG_PERSISTENT, TAG_TRANSACTION
from runctl.providers.aws import instances
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.volumes import Volume
from runctl.quoting import quoted
from runctl.safety import facts
from runctl.safety.protection import marked
from runctl.safety.vocabulary import Disk

UNSEEN_PATIENCE = timedelta(seconds=15)
"""How long something that was just made may not be shown by EC2, before it is believed to be gone."""
POLL_SECONDS = 2.0
OVER = frozenset({"shutting-down", "terminated"})


class Fate(StrEnum):
    """What becomes of a volume when its instance is terminated."""

    DETACHED_AND_KEPT = "detached and kept"
    KEPT = "kept"
    DELETED = "deleted"


class VolumeFate(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one volume, and why."""

    volume: str
    device: str
    fate: Fate
    reason: str


def fate_of_volumes(instance: Instance, known: Iterable[Volume]) -> tuple[VolumeFate, ...]:
    """What a termination does to each attached volume. Pure; a volume that is not `known` is kept."""
    tags = {volume.id: volume.tags for volume in known}
    fates: list[VolumeFate] = []
    for disk in instance.disks:
        if marked(tags.get(disk.volume), TAG_PERSISTENT):
            why = "it is persistent" if disk.volume in tags else "it is not known whether it is persistent"
            fate = Fate.DETACHED_AND_KEPT
        elif disk.delete_on_termination:
            why, fate = "it is set to be deleted with its instance", Fate.DELETED
        else:
            why, fate = "it is not set to be deleted with its instance", Fate.KEPT
        fates.append(VolumeFate(volume=disk.volume, device=disk.device, fate=fate, reason=why))
    return tuple(fates)


def to_keep(session: Session, instance: Instance, made_by: str | None) -> list[Disk]:
    """What must outlive its instance. A volume whose tags stay unknown must, too.

    With `made_by` also every volume that this transaction did not make.
    """
    clock = session.cloud.clock
    begun = clock.now()
    disks = facts.disks_of(session, instance)
    while any(disk.tags is None for disk in disks) and clock.now() - begun < UNSEEN_PATIENCE:
        clock.sleep(POLL_SECONDS)
        disks = facts.disks_of(session, instance)
    return [
        disk
        for disk in disks
        if marked(disk.tags, TAG_PERSISTENT)
        or (made_by is not None and (disk.tags or {}).get(TAG_TRANSACTION) != made_by)
    ]


def require_kept(session: Session, instance: Instance, made_by: str | None) -> None:
    """Ask the cloud itself whether every volume to be kept is: a promise is no proof. Raises Conflict."""
    clock = session.cloud.clock
    begun = clock.now()
    while True:
        now = instances.get(session, instance.id)
        if now is None or now.state in OVER:
            return
        doomed = [disk.volume for disk in to_keep(session, now, made_by) if disk.dies_with_instance]
        if not doomed:
            return
        if clock.now() - begun > UNSEEN_PATIENCE:
            raise Conflict(
                f"{instance.id} is not terminated",
                why=f"{', '.join(doomed)} would be deleted with it, though persistent",
                next=f"runctl aws ebs detach {quoted(doomed[0])}",
            )
        clock.sleep(POLL_SECONDS)
