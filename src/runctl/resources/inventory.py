"""What there is, read from every region at once, and noted in the ledger with its price."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import msgspec

from runctl.errors import NotFound, TrainctlError
from runctl.events import Emit, Notice
from runctl.ledger import InstanceFacts, Ledger, ResourceRecord, SnapshotFacts, VolumeFacts
from runctl.ledger.prices import spot_pool
from runctl.model import TAG_ATTEMPT, TAG_JOB, TAG_PROJECT, TAG_USER, Market, Price
from runctl.pricing import live
from runctl.providers.aws import instances, market, snapshots, volumes
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.snapshots import MachineImage, Snapshot
from runctl.providers.aws.volumes import Volume
from runctl.resources import costs, prices

THREADS = 16
SHOWN_LATE = timedelta(seconds=15)
"""How long EC2 may not show what was just made; it tells when that was in whole seconds."""

_OVER = frozenset({"shutting-down", "terminated"})
_READERS: Mapping[str, Callable[[Session], Sequence[Any]]] = {
    "instance": instances.listing,
    "volume": volumes.listing,
    "snapshot": snapshots.listing,
    "image": snapshots.images,
}


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a cloud showed at `taken`. `unread` names the region and kind of what did not answer."""

    cloud: str
    regions: tuple[str, ...]
    taken: datetime
    instances: tuple[Instance, ...]
    volumes: tuple[Volume, ...]
    snapshots: tuple[Snapshot, ...]
    images: tuple[MachineImage, ...] = ()
    failures: tuple[str, ...] = ()
    unread: tuple[tuple[str, str], ...] = ()


def read(sessions: Sequence[Session], *, emit: Emit) -> Inventory:
    """Read every region and kind at once, each in full; what does not answer is a failure, never nothing."""
    cloud = sessions[0].cloud
    taken = cloud.clock.now()
    asked = [(session, kind) for session in sessions for kind in _READERS]
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(_read, *zip(*asked, strict=True)))
    found: dict[str, list[Any]] = {kind: [] for kind in _READERS}
    failures: list[str] = []
    unread: list[tuple[str, str]] = []
    for (session, kind), answer in zip(asked, answers, strict=True):
        if isinstance(answer, TrainctlError):
            failures.append(f"{kind}s of {session.region}: {answer}")
            unread.append((session.region, kind))
            emit(Notice(text=f"not read: {failures[-1]}", warning=True))
        else:
            found[kind].extend(answer)
    if len(unread) == len(asked):
        raise next(answer for answer in answers if isinstance(answer, TrainctlError))
    return Inventory(
        cloud=cloud.key,
        regions=tuple(session.region for session in sessions),
        taken=taken,
        instances=tuple(found["instance"]),
        volumes=tuple(found["volume"]),
        snapshots=tuple(found["snapshot"]),
        images=tuple(found["image"]),
        failures=tuple(failures),
        unread=tuple(unread),
    )


def _read(session: Session, kind: str) -> Sequence[Any] | TrainctlError:
    try:
        return _READERS[kind](session)
    except TrainctlError as error:
        return error


def refresh(ledger: Ledger, sessions: Sequence[Session], seen: Inventory) -> None:
    """Note a whole inventory, with live prices where AWS tells them.

    What vanished from a region that answered is closed when it was last seen.
    """
    for session in sessions:
        here = [one for one in seen.instances if one.region == session.region and one.state not in _OVER]
        disks = {one.volume_type for one in seen.volumes if one.region == session.region}
        if any(one.region == session.region for one in seen.snapshots):
            disks.add(live.SNAPSHOT)
        prices.learn(session, {one.instance_type for one in here}, disks)
    note(ledger, sessions, seen)
    shown = {one.id for one in (*seen.instances, *seen.volumes, *seen.snapshots)}
    unread = set(seen.unread)
    with ledger.resources.together():
        for record in ledger.resources.list(cloud=seen.cloud, live_only=True):
            known = record.region in seen.regions and (record.region, record.kind) not in unread
            if not known or record.id in shown or "/" in record.id or record.kind not in _READERS:
                continue
            last = record.seen or record.created
            # Else another process has made or seen it since this look began. Who noted it may have begun to
            # look before it was made, so that the one time says nothing without the other.
            if max(last, record.created + SHOWN_LATE) < seen.taken:
                _close(ledger, record.id, at=last)


def note(
    ledger: Ledger, sessions: Sequence[Session], seen: Inventory, *, asked: Collection[str] = ()
) -> None:
    """Note what is shown. Of what was `asked` for by id and is not shown, the end is noted as now."""
    by_region = {session.region: session for session in sessions}
    _note_spot_prices(ledger, by_region, seen)
    shown = [*seen.instances, *seen.volumes, *seen.snapshots]
    known = {record.id: record for record in ledger.resources.list(cloud=seen.cloud)}
    with ledger.resources.together():
        for instance in seen.instances:
            _note_instance(ledger, by_region[instance.region], seen, instance, known.get(instance.id))
        for volume in seen.volumes:
            _note_volume(ledger, seen, volume, known.get(volume.id))
        for snapshot in seen.snapshots:
            _note_snapshot(ledger, seen, snapshot, known.get(snapshot.id))
        ledger.resources.seen([one.id for one in shown], seen.taken)
        for resource_id in set(asked) - {one.id for one in shown}:
            if resource_id in known:
                _close(ledger, resource_id, at=seen.taken)


def _note_instance(
    ledger: Ledger, session: Session, seen: Inventory, found: Instance, known: ResourceRecord | None
) -> None:
    if known is not None and known.ended is not None:
        return
    if known is None:
        facts = InstanceFacts(instance_type=found.instance_type, market=found.market, region=found.region)
        created = min([found.launched, seen.taken])
        _save(ledger, seen, found, "instance", found.zone, created, msgspec.json.encode(facts))
    if found.state == "pending":
        _note_pending(ledger, found)
        return
    if found.state == "running" or known is None or _is_pending(ledger, found.id):
        # One that is first seen when it has stopped ran from its last launch on.
        price = costs.running_rate(session, found)
        pool = spot_pool(seen.cloud, found.zone, found.instance_type) if found.market is Market.SPOT else None
        since = _running_since(ledger, seen, found, known)
        _observe(ledger, found.id, "running", at=since, billable=True, price=price, pool=pool)
    if found.state in _OVER:
        _close(ledger, found.id, at=found.ended or seen.taken, ended_by=found.ended_by)
    elif found.state != "running":
        _observe(ledger, found.id, "stopped", at=found.ended or seen.taken, billable=False, price=None)


def _note_pending(ledger: Ledger, found: Instance) -> None:
    """A machine that boots is not billed; one that is on the books as running already stays so."""
    last = ledger.resources.open_interval(found.id)
    if last is None or not last.billable or last.start < found.launched:
        _observe(ledger, found.id, "pending", at=found.launched, billable=False, price=None)


def _is_pending(ledger: Ledger, instance_id: str) -> bool:
    last = ledger.resources.open_interval(instance_id)
    return last is not None and last.state == "pending"


def _running_since(
    ledger: Ledger, seen: Inventory, found: Instance, known: ResourceRecord | None
) -> datetime:
    """From when on a run is counted.

    EC2 bills from `running` on and does not tell when that was. It was after the machine was last seen to be
    pending; where nobody looked, after the launch. Counted from there, a run is never too short, and too
    long by the boot (or the time between two looks) at most. A run that began and ended between two looks
    leaves no trace in EC2's answers and none here. A price that changes in mid-run counts from when it was
    heard of: what was paid before is not worked out anew.
    """
    last = ledger.resources.open_interval(found.id)
    if last is not None and last.state == "running" and last.price and last.start >= found.launched:
        return seen.taken
    if known is not None and known.seen is not None and last is not None and last.state == "pending":
        return max(found.launched, known.seen)
    return found.launched


def _note_volume(ledger: Ledger, seen: Inventory, found: Volume, known: ResourceRecord | None) -> None:
    if found.state in {"deleting", "deleted"}:
        if known is not None:
            _close(ledger, found.id, at=seen.taken)
        return
    dies_with = next((one.instance for one in found.attachments if one.delete_on_termination), "")
    facts = VolumeFacts(volume_type=found.volume_type, size_gib=found.size_gib, instance=dies_with)
    if known is None:
        _save(ledger, seen, found, "volume", found.zone, found.created, msgspec.json.encode(facts))
    at = seen.taken if known else found.created
    _observe(ledger, found.id, found.state, at=at, billable=True, price=costs.volume_rate(found, seen.cloud))


def _note_snapshot(ledger: Ledger, seen: Inventory, found: Snapshot, known: ResourceRecord | None) -> None:
    facts = SnapshotFacts(volume=found.volume, stored_bytes=found.stored_bytes)
    if known is None:
        _save(ledger, seen, found, "snapshot", "", found.started, msgspec.json.encode(facts))
    at = seen.taken if known else found.started
    _observe(
        ledger, found.id, found.state, at=at, billable=True, price=costs.snapshot_rate(found, seen.cloud)
    )


def _save(
    ledger: Ledger,
    seen: Inventory,
    found: Instance | Volume | Snapshot,
    kind: str,
    zone: str,
    created: datetime,
    facts: bytes,
) -> None:
    ledger.resources.save(
        ResourceRecord(
            id=found.id,
            kind=kind,
            cloud=seen.cloud,
            region=found.region,
            zone=zone,
            name=found.name,
            project=found.tags.get(TAG_PROJECT, ""),
            user=found.tags.get(TAG_USER, ""),
            job=found.tags.get(TAG_JOB),
            attempt=int(attempt) if (attempt := found.tags.get(TAG_ATTEMPT, "")).isdigit() else None,
            facts=facts,
            created=created,
            seen=seen.taken,
        )
    )


def _observe(
    ledger: Ledger,
    resource_id: str,
    state: str,
    *,
    at: datetime,
    billable: bool,
    price: Price | None,
    pool: str | None = None,
) -> None:
    """Note a state; the cloud's word on a time before what is known already counts from there on."""
    last = ledger.resources.last_start(resource_id)
    since = max(at, last) if last else at
    ledger.resources.observe(resource_id, state, at=since, billable=billable, price=price, pool=pool)


def _close(ledger: Ledger, resource_id: str, *, at: datetime, ended_by: str | None = None) -> None:
    last = ledger.resources.last_start(resource_id)
    try:
        ledger.resources.close(resource_id, at=max(at, last) if last else at, ended_by=ended_by)
    except NotFound:
        return


def _note_spot_prices(ledger: Ledger, sessions: Mapping[str, Session], seen: Inventory) -> None:
    """The prices in force over the life of every spot machine, a call for each type and region."""
    wanted: dict[tuple[str, str], list[Instance]] = {}
    for instance in seen.instances:
        if instance.market is Market.SPOT:
            wanted.setdefault((instance.region, instance.instance_type), []).append(instance)
    for (region, kind), found in wanted.items():
        try:
            history = market.spot_history(
                sessions[region], kind, start=min(one.launched for one in found), end=seen.taken
            )
        except TrainctlError:
            continue  # the price that the interval began with stands until the history answers
        for zone, points in history.items():
            ledger.prices.add(spot_pool(seen.cloud, zone, kind), points)
