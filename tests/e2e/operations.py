"""Every operation on several resources, as a story that can be cut short at any call and told to its end."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
from botocore.exceptions import ClientError

from runctl.clock import FileClock
from runctl.clouds import Cloud
from runctl.config import Protection
from runctl.errors import Conflict
from runctl.events import ignore
from runctl.ledger import Ledger
from runctl.providers.aws import disks as mounts
from runctl.providers.aws.session import Session
from runctl.resources import instances as life
from runctl.resources import prefixes, warming
from runctl.resources import volumes as disks
from runctl.resources.instances import InstanceRequest, Limits
from runctl.resources.operation import Operation
from runctl.resources.survey import for_cleanup, survey
from runctl.resources.volumes import VolumeRequest
from runctl.resources.warming import WarmRequest
from runctl.retry import RetryPolicy
from runctl.safety import cleanup, cleanup_plan
from runctl.safety.destroy import Door
from runctl.safety.protection import Request

USER = "crash"
YOUTH = timedelta(seconds=65)
ZONE = "us-east-1a"
LONGEST = 60
TURNS = 8
QUICK = RetryPolicy(attempts=12, seconds=60.0, first_wait=0.01, longest_wait=0.2)
Row = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """What the cloud lists as alive, whoever made it and whatever its tags are: rows of describe calls."""

    instances: list[Row]
    volumes: list[Row]
    snapshots: list[Row]
    requests: list[Row]
    """Spot requests that hold or could still start a machine."""

    def ids(self) -> set[str]:
        return {
            *(row["InstanceId"] for row in self.instances),
            *(row["VolumeId"] for row in self.volumes),
            *(row["SnapshotId"] for row in self.snapshots),
            *(row["SpotInstanceRequestId"] for row in self.requests),
        }

    def without(self, ids: set[str]) -> Shown:
        return Shown(
            [row for row in self.instances if row["InstanceId"] not in ids],
            [row for row in self.volumes if row["VolumeId"] not in ids],
            [row for row in self.snapshots if row["SnapshotId"] not in ids],
            [row for row in self.requests if row["SpotInstanceRequestId"] not in ids],
        )

    def counts(self) -> tuple[int, int, int, int]:
        return len(self.instances), len(self.volumes), len(self.snapshots), len(self.requests)


def shown(live: Any) -> Shown:
    """Everything that lives in a cloud, as its own API lists it."""
    ec2 = live.client("ec2")
    living = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
    reservations = ec2.describe_instances(Filters=living)["Reservations"]
    volumes = ec2.describe_volumes()["Volumes"]
    requests = ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    return Shown(
        [row for group in reservations for row in group["Instances"]],
        [row for row in volumes if row["State"] not in {"deleting", "deleted"}],
        ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"],
        [row for row in requests if row["State"] in {"open", "active"}],
    )


@dataclass
class World:
    """What was there before an operation, and what it was asked for."""

    live: Any  # tests/conftest.py: LiveSandbox
    folder: Path
    word: str = field(default_factory=lambda: f"m{uuid.uuid4().hex[:10]}")
    instance: str = ""
    volumes: dict[str, str] = field(default_factory=dict[str, str])
    snapshot: str = ""
    before: set[str] = field(default_factory=set[str])
    transactions: set[str] = field(default_factory=set[str])

    def cloud(self) -> Cloud:
        record = self.live.record
        return Cloud(
            name="sandbox",
            key=f"sandbox:{record.id}",
            clock=FileClock(Path(record.clock)),
            region=record.region,
            endpoint=record.endpoint,
            s3_endpoint=record.s3_endpoint,
            access_key=record.access_key,
            secret_key=record.secret_key,
        )

    def operation(self, session: type[Session] = Session) -> Operation:
        """The operation of a new process, with a ledger and a session of its own."""
        own = session(self.cloud(), policy=QUICK)
        ledger = Ledger.open(self.folder)
        door = Door(own, ledger, USER, policy=Protection(young_minutes=1), emit=ignore)
        return Operation(session=own, ledger=ledger, door=door, emit=ignore)

    # What is there

    def mark(self) -> None:
        """Remember what is there and what the journal knows: all else comes of the operation."""
        self.before = shown(self.live).ids()
        self.transactions = set(self._journal())

    def made(self) -> Shown:
        """What has appeared since, found without the help of any tag."""
        return shown(self.live).without(self.before)

    def outcome(self) -> str | None:
        """How the last transaction since ended: `never begun` where there is none, None while it has not."""
        found = [outcome for tx, outcome in self._journal().items() if tx not in self.transactions]
        return found[0] if found else "never begun"

    def _journal(self) -> dict[str, str | None]:
        with Ledger.open(self.folder) as ledger:
            newest = ledger.journal.newest(limit=100)
            return {record.id: None if record.outcome is None else str(record.outcome) for record in newest}

    def disk(self, name: str) -> Row:
        """A volume that was there before; empty when it is gone."""
        return self.live.disk(self.volumes[name])

    def is_free(self, name: str) -> bool:
        return self.disk(name).get("State") == "available"

    def is_attached(self, name: str) -> bool:
        return is_at(self.disk(name), self.instance)

    def is_mounted(self, name: str) -> bool:
        return is_mounted(self, self.instance, self.volumes[name])

    def is_over(self) -> bool:
        """Whether the instance that was there before has ended."""
        return self.live.state(self.instance) in {"shutting-down", "terminated", ""}

    def clear(self) -> None:
        """End the machines of a story that is told: the next one needs the room."""
        own = [row["InstanceId"] for row in self.made().instances]
        if ids := [*own, *([self.instance] if self.instance else [])]:
            with contextlib.suppress(ClientError):
                self.live.client("ec2").terminate_instances(InstanceIds=ids)


def is_at(volume: Row, instance: str) -> bool:
    """Whether a volume is attached to this instance, and to it alone."""
    found = [(row["InstanceId"], row["State"]) for row in volume.get("Attachments", [])]
    return found == [(instance, "attached")]


def is_mounted(world: World, instance: str, volume: str) -> bool:
    return mounts.mounted_at(Session(world.cloud(), policy=QUICK), instance, volume) == MOUNT


def tags_of(row: Row) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in row.get("Tags", [])}


def _tags(world: World, kind: str, **more: str) -> list[dict[str, Any]]:
    tags = {"Name": world.word, "runctl:managed": "true", "runctl:user": USER, **more}
    # Older than any rule about young resources.
    tags["runctl:created"] = "2020-01-01T00:00:00Z"
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": kind, "Tags": pairs}]


def with_instance(world: World) -> None:
    world.instance = world.live.running(TagSpecifications=_tags(world, "instance"))


def with_volume(world: World, name: str, *, zone: str | None = None, **more: str) -> None:
    place = zone or (
        world.live.instance(world.instance)["Placement"]["AvailabilityZone"] if world.instance else ZONE
    )
    specifications = _tags(world, "volume", **more)
    world.volumes[name] = world.live.volume(place, TagSpecifications=specifications)


def with_snapshot(world: World, volume: str) -> None:
    ec2 = world.live.client("ec2")
    tags = _tags(world, "snapshot")
    world.snapshot = ec2.create_snapshot(VolumeId=volume, TagSpecifications=tags)["SnapshotId"]
    world.live.until(lambda: _snapshot(world).get("State") == "completed")


def _snapshot(world: World) -> Row:
    """The snapshot that was there before; empty when it is gone."""
    asked = [{"Name": "snapshot-id", "Values": [world.snapshot]}]
    found = world.live.client("ec2").describe_snapshots(Filters=asked)["Snapshots"]
    return next(iter(found), {})


def _attach(world: World, name: str, device: str) -> None:
    ec2 = world.live.client("ec2")
    ec2.attach_volume(VolumeId=world.volumes[name], InstanceId=world.instance, Device=device)
    world.live.until(lambda: world.is_attached(name))


Check = Callable[["World", Shown], bool]


@dataclass(frozen=True)
class Story:
    """An operation: what is there before, what is done, how its end and its undoing look, to the last row."""

    prepare: Callable[[World], None]
    act: Callable[[World, Operation], None]
    is_done: Check
    is_undone: Check


def begin(live: Any, folder: Path, name: str) -> World:
    """A world in which an operation may be carried out."""
    folder.mkdir(parents=True)
    world = World(live, folder)
    STORIES[name].prepare(world)
    world.mark()
    return world


def require_end(world: World, name: str, outcome: str | None) -> None:
    """What is there is what this outcome means, and nothing besides."""
    assert outcome in {"finished", "rolled-back", "never begun", "ended"}, outcome
    is_so = STORIES[name].is_done if outcome == "finished" else STORIES[name].is_undone
    try:
        world.live.until(lambda: is_so(world, world.made()), LONGEST)
    except AssertionError as error:
        there = {kept: world.disk(kept) for kept in world.volumes}
        error.add_note(f"{name}, {outcome}: {world.made()}; before it: {there}")
        raise
    world.clear()


FORCED = Request(force=True, user=USER)
MOUNT = "/data"


def _nothing(world: World) -> None:
    del world


def _none_made(world: World, made: Shown) -> bool:
    del world
    return made.counts() == (0, 0, 0, 0)


def _create(world: World, operation: Operation) -> None:
    request = InstanceRequest(
        instance_type="m7i.large",
        data_volume_gib=8,
        persistent=True,
        name=world.word,
        profile="runctl-instance",
        user=USER,
    )
    operation.carry_out(life.plan_create(operation, request, Limits(1000, 1000)))


def _create_done(world: World, made: Shown) -> bool:
    """One machine that runs with its root and its data volume, which outlives it."""
    del world
    if made.counts() != (1, 2, 0, 0):
        return False
    (machine,) = made.instances
    (root,) = [row for row in made.volumes if row["Size"] != 8]
    (data,) = [row for row in made.volumes if row["Size"] == 8]
    both = [is_at(row, machine["InstanceId"]) for row in (root, data)]
    dies = [row["Attachments"][0]["DeleteOnTermination"] for row in (root, data) if all(both)]
    is_kept = tags_of(data).get("runctl:persistent") == "true"
    return machine["State"]["Name"] == "running" and all(both) and dies == [True, False] and is_kept


def _create_spot(world: World, operation: Operation) -> None:
    request = InstanceRequest(
        instance_type="m7i.large",
        spot=True,
        fallback=False,
        data_volume_gib=8,
        persistent=True,
        mount=MOUNT,
        name=world.word,
        profile="runctl-instance",
        user=USER,
    )
    operation.carry_out(life.plan_create(operation, request, Limits(1000, 1000)))


def _create_spot_done(world: World, made: Shown) -> bool:
    """The same, bought by one request, and its data volume mounted."""
    if len(made.requests) != 1 or not _create_done(world, replace(made, requests=[])):
        return False
    (machine,), (request,) = made.instances, made.requests
    (data,) = [row for row in made.volumes if row["Size"] == 8]
    bought = (request["InstanceId"], machine.get("InstanceLifecycle")) == (machine["InstanceId"], "spot")
    return bought and is_mounted(world, machine["InstanceId"], data["VolumeId"])


def _before_terminate(world: World) -> None:
    with_instance(world)
    with_volume(world, "kept", **{"runctl:persistent": "true"})
    with_volume(world, "other")
    _attach(world, "kept", "/dev/sdf")
    _attach(world, "other", "/dev/sdg")
    session = Session(world.cloud(), policy=QUICK)
    mounts.mount(session, world.instance, world.volumes["kept"], MOUNT)


def _terminate(world: World, operation: Operation) -> None:
    operation.carry_out(life.plan_terminate(operation, world.instance, FORCED))


def _terminate_done(world: World, made: Shown) -> bool:
    # Neither of the two was to be deleted with it.
    return _none_made(world, made) and world.is_over() and world.is_free("kept") and world.is_free("other")


def _terminate_undone(world: World, made: Shown) -> bool:
    attached = world.is_attached("kept") and world.is_attached("other") and world.is_mounted("kept")
    return _none_made(world, made) and world.live.state(world.instance) == "running" and attached


def _before_restore(world: World) -> None:
    with_instance(world)
    here = world.live.instance(world.instance)["Placement"]["AvailabilityZone"]
    elsewhere = next(zone for zone in ("us-east-1a", "us-east-1b") if zone != here)
    with_volume(world, "kept", zone=elsewhere, **{"runctl:persistent": "true"})


def _restore(world: World, operation: Operation) -> None:
    request = VolumeRequest(name=f"{world.word}-moved", user=USER)
    plan = disks.plan_restore(operation, world.volumes["kept"], request, attach=world.instance)
    operation.carry_out(plan)


def _restore_done(world: World, made: Shown) -> bool:
    """One snapshot of the volume, and one volume of the snapshot at the machine; the first is as it was."""
    if made.counts() != (0, 1, 1, 0):
        return False
    (volume,), (snapshot,) = made.volumes, made.snapshots
    chain = (snapshot["VolumeId"], volume["SnapshotId"]) == (world.volumes["kept"], snapshot["SnapshotId"])
    return chain and is_at(volume, world.instance) and world.is_free("kept")


def _restore_undone(world: World, made: Shown) -> bool:
    return _none_made(world, made) and world.is_free("kept")


def _before_restore_snapshot(world: World) -> None:
    with_instance(world)
    with_volume(world, "kept", **{"runctl:persistent": "true"})
    with_snapshot(world, world.volumes["kept"])


def _restore_snapshot(world: World, operation: Operation) -> None:
    request = VolumeRequest(name=f"{world.word}-copy", user=USER)
    plan = disks.plan_restore(operation, world.snapshot, request, attach=world.instance, mount=MOUNT)
    operation.carry_out(plan)


def _restore_snapshot_done(world: World, made: Shown) -> bool:
    if made.counts() != (0, 1, 0, 0):
        return False
    (volume,) = made.volumes
    restored = volume["SnapshotId"] == world.snapshot and is_at(volume, world.instance)
    return restored and is_mounted(world, world.instance, volume["VolumeId"]) and world.is_free("kept")


def _restore_snapshot_undone(world: World, made: Shown) -> bool:
    return _restore_undone(world, made) and _snapshot(world).get("State") == "completed"


def _before_delete(world: World) -> None:
    with_volume(world, "old")


def _delete(world: World, operation: Operation) -> None:
    plan = disks.plan_delete(
        operation, world.volumes["old"], FORCED, snapshot_first=True, own=VolumeRequest(user=USER)
    )
    operation.carry_out(plan)


def _delete_done(world: World, made: Shown) -> bool:
    gone = world.disk("old").get("State", "deleted") in {"deleting", "deleted"}
    if not gone or made.counts() != (0, 0, 1, 0):
        return False
    (snapshot,) = made.snapshots
    return (snapshot["VolumeId"], snapshot["State"]) == (world.volumes["old"], "completed")


def _delete_undone(world: World, made: Shown) -> bool:
    return _none_made(world, made) and world.is_free("old")


def _before_attach(world: World) -> None:
    with_instance(world)
    with_volume(world, "kept", **{"runctl:persistent": "true"})


def _attach_and_mount(world: World, operation: Operation) -> None:
    plan = disks.plan_attach(operation, world.volumes["kept"], world.instance, mount=MOUNT)
    operation.carry_out(plan)


def _attach_done(world: World, made: Shown) -> bool:
    return _none_made(world, made) and world.is_attached("kept") and world.is_mounted("kept")


def _attach_undone(world: World, made: Shown) -> bool:
    """Free: what is mounted still stays in `detaching`."""
    return _none_made(world, made) and world.is_free("kept")


def _before_detach(world: World) -> None:
    _before_attach(world)
    operation = world.operation()
    _attach_and_mount(world, operation)
    operation.ledger.close()


def _detach(world: World, operation: Operation) -> None:
    operation.carry_out(disks.plan_detach(operation, world.volumes["kept"]))


def _detach_undone(world: World, made: Shown) -> bool:
    return _none_made(world, made) and world.is_attached("kept") and world.is_mounted("kept")


def _before_cleanup(world: World) -> None:
    over = {"runctl:lease-until": "2020-01-02T00:00:00Z"}
    tags = _tags(world, "instance", **over)
    # A price that nobody knows would end the cleanup.
    world.instance = world.live.running(InstanceType="m7i.large", TagSpecifications=tags)
    with_volume(world, "kept", zone=ZONE, **{"runctl:persistent": "true"})
    for name in ("left", "origin"):
        with_volume(world, name, zone=ZONE)
    with_snapshot(world, world.volumes["origin"])
    world.live.client("ec2").delete_volume(VolumeId=world.volumes.pop("origin"))
    clock = world.cloud().clock
    old = clock.now() + YOUTH
    world.live.until(lambda: clock.now() > old)


def _cleanup(world: World, operation: Operation) -> None:
    """Cleaned up until nothing is left: what fails, or may be training as far as is known, is left once."""
    own = {world.instance, world.snapshot, *world.volumes.values()}
    left = own - {world.volumes["kept"]}
    for _ in range(TURNS):
        plan = _plan_cleanup(operation, own)
        assert {item.id for item in plan.items} <= left
        report = cleanup.apply(operation.ledger, operation.door, plan, limits=cleanup.Limits())
        left -= {one.item.id for one in report.having(cleanup.Outcome.DONE, cleanup.Outcome.GONE)}
        if not left:
            return
    raise Conflict(f"{left} could not be cleaned up")


def _plan_cleanup(operation: Operation, own: set[str]) -> cleanup_plan.Plan:
    """What `runctl resources cleanup` plans, of a world's own resources alone."""
    seen = for_cleanup(survey(operation, [operation.session], user=USER))
    mine = msgspec.structs.replace(
        seen,
        instances=[found for found in seen.instances if found.id in own],
        snapshots=[found for found in seen.snapshots if found.id in own],
        volumes=[found for found in seen.volumes if found.id in own],
    )
    cloud, now = operation.session.cloud, operation.session.cloud.clock.now()
    view = cleanup_plan.view_of(operation.ledger, cloud.key, now=now, older_than=timedelta(0))
    bulk = Request(bulk=True, user=USER)
    return cleanup_plan.plan(mine, view, user=USER, assess=lambda *asked: operation.door.assess(*asked, bulk))


def _cleanup_done(world: World, made: Shown) -> bool:
    gone = world.disk("left").get("State", "deleted") in {"deleting", "deleted"}
    return gone and world.is_over() and not _snapshot(world) and _cleanup_undone(world, made)


def _cleanup_undone(world: World, made: Shown) -> bool:
    """Deletions stay; what had to be kept is there."""
    return _none_made(world, made) and world.is_free("kept")


def _with_dataset(world: World) -> None:
    found = world.live.client("s3")
    found.create_bucket(Bucket=world.word)
    for number in range(3):
        found.put_object(Bucket=world.word, Key=f"set/{number}", Body=bytes([number]) * 100)


def _before_warm(world: World) -> None:
    with_volume(world, "data", zone=ZONE, **{"runctl:persistent": "true"})
    _with_dataset(world)


def _warm(world: World, operation: Operation) -> None:
    dataset = prefixes.dataset_of(operation.session, f"s3://{world.word}/set")
    target = warming.existing_target(operation, world.volumes["data"])
    request = WarmRequest(instance_type="m7i.large", profile="runctl-instance", user=USER)
    operation.carry_out(warming.plan(operation, dataset, target, request, Limits(1000, 1000)).plan)


def _warm_done(world: World, made: Shown) -> bool:
    return _warm_undone(world, made) and _is_filled(world.disk("data"))


def _warm_undone(world: World, made: Shown) -> bool:
    """What was copied may stay; the machine may not."""
    return _none_made(world, made) and world.is_free("data")


def _is_filled(row: Row) -> bool:
    tags = tags_of(row)
    return bool(tags.get("runctl:dataset-version")) and tags.get("runctl:dataset-files") == "3"


def _create_warm(world: World, operation: Operation) -> None:
    dataset = prefixes.dataset_of(operation.session, f"s3://{world.word}/set")
    own = VolumeRequest(size_gib=4, name=world.word, zone=ZONE, persistent=True, user=USER)
    target = warming.new_target(operation, own)
    request = WarmRequest(instance_type="m7i.large", profile="runctl-instance", snapshot=True, user=USER)
    operation.carry_out(warming.plan(operation, dataset, target, request, Limits(1000, 1000)).plan)


def _create_warm_done(world: World, made: Shown) -> bool:
    """One filled volume, one snapshot of it that says the same, and no machine."""
    del world
    if made.counts() != (0, 1, 1, 0):
        return False
    (volume,), (snapshot,) = made.volumes, made.snapshots
    told = [tags_of(row).get("runctl:dataset-version") for row in (volume, snapshot)]
    taken = (snapshot["VolumeId"], snapshot["State"]) == (volume["VolumeId"], "completed")
    return _is_filled(volume) and volume["State"] == "available" and taken and told[0] == told[1]


STORIES: dict[str, Story] = {
    "cleanup": Story(_before_cleanup, _cleanup, _cleanup_done, _cleanup_undone),
    "create-instance": Story(_nothing, _create, _create_done, _none_made),
    "create-spot-instance": Story(_nothing, _create_spot, _create_spot_done, _none_made),
    "terminate-instance": Story(_before_terminate, _terminate, _terminate_done, _terminate_undone),
    "restore-volume": Story(_before_restore, _restore, _restore_done, _restore_undone),
    "restore-snapshot": Story(
        _before_restore_snapshot, _restore_snapshot, _restore_snapshot_done, _restore_snapshot_undone
    ),
    "delete-volume": Story(_before_delete, _delete, _delete_done, _delete_undone),
    "attach-volume": Story(_before_attach, _attach_and_mount, _attach_done, _attach_undone),
    "detach-volume": Story(_before_detach, _detach, _attach_undone, _detach_undone),
    "pre-warm-volume": Story(_before_warm, _warm, _warm_done, _warm_undone),
    "create-pre-warmed-volume": Story(_with_dataset, _create_warm, _create_warm_done, _none_made),
}

LAUNCHES = ("job-launch", "job-launch-with-data")
"""Told by test_launch_matrix.py: a job is no plan of steps."""
