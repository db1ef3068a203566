"""Every operation on several resources, as a story that can be cut short at any call and told to its end."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from runctl.clock import FileClock
from runctl.clouds import Cloud
from runctl.config import Protection
from runctl.events import ignore
from runctl.ledger import Ledger
from runctl.providers.aws import instances, snapshots, volumes
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
QUICK = RetryPolicy(attempts=12, seconds=60.0, first_wait=0.01, longest_wait=0.2)


@dataclass
class World:
    """What was there before an operation, and what it was asked for."""

    live: Any  # tests/conftest.py: LiveSandbox
    folder: Path
    word: str = field(default_factory=lambda: f"m{uuid.uuid4().hex[:10]}")
    instance: str = ""
    volumes: dict[str, str] = field(default_factory=dict[str, str])

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

    def made(self, tx: str) -> dict[str, list[str]]:
        """What carries a transaction's tag and lives."""
        session = Session(self.cloud(), policy=QUICK)
        tagged = [{"Name": "tag:runctl:tx", "Values": [tx]}]
        return {
            "instances": [
                found.id
                for found in instances.listing(session, tagged)
                if found.state not in {"shutting-down", "terminated"}
            ],
            "volumes": [
                found.id
                for found in volumes.listing(session, tagged)
                if found.state not in {"deleting", "deleted"}
            ],
            "snapshots": [
                found.id for found in snapshots.listing(session) if found.tags.get("runctl:tx") == tx
            ],
        }

    def volume_state(self, name: str) -> volumes.Volume | None:
        return volumes.describe(Session(self.cloud(), policy=QUICK), self.volumes[name])

    def is_attached(self, name: str) -> bool:
        found = self.volume_state(name)
        return found is not None and any(
            attachment.instance == self.instance and attachment.state == "attached"
            for attachment in found.attachments
        )

    def instance_state(self) -> str:
        found = instances.get(Session(self.cloud(), policy=QUICK), self.instance)
        return found.state if found else "gone"


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


def _attach(world: World, name: str, device: str) -> None:
    ec2 = world.live.client("ec2")
    ec2.attach_volume(VolumeId=world.volumes[name], InstanceId=world.instance, Device=device)
    world.live.until(lambda: world.is_attached(name))


@dataclass(frozen=True)
class Story:
    """An operation: what is there before, what is done, how its end and its undoing look."""

    prepare: Callable[[World], None]
    act: Callable[[World, Operation], None]
    is_done: Callable[[World, dict[str, list[str]]], bool]
    is_undone: Callable[[World, dict[str, list[str]]], bool]


FORCED = Request(force=True, user=USER)


def _nothing(world: World) -> None:
    del world


def _none_made(world: World, made: dict[str, list[str]]) -> bool:
    del world
    return not any(made.values())


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


def _create_done(world: World, made: dict[str, list[str]]) -> bool:
    del world
    return len(made["instances"]) == 1 and len(made["volumes"]) >= 1


def _before_terminate(world: World) -> None:
    with_instance(world)
    with_volume(world, "kept", **{"runctl:persistent": "true"})
    with_volume(world, "other")
    _attach(world, "kept", "/dev/sdf")
    _attach(world, "other", "/dev/sdg")


def _terminate(world: World, operation: Operation) -> None:
    operation.carry_out(life.plan_terminate(operation, world.instance, FORCED))


def _terminate_done(world: World, made: dict[str, list[str]]) -> bool:
    del made
    kept, other = world.volume_state("kept"), world.volume_state("other")
    ended = world.instance_state() in {"shutting-down", "terminated", "gone"}
    return ended and kept is not None and not kept.attachments and other is not None


def _terminate_undone(world: World, made: dict[str, list[str]]) -> bool:
    del made
    return world.instance_state() == "running" and world.is_attached("kept") and world.is_attached("other")


def _before_restore(world: World) -> None:
    with_instance(world)
    here = world.live.instance(world.instance)["Placement"]["AvailabilityZone"]
    elsewhere = next(zone for zone in ("us-east-1a", "us-east-1b") if zone != here)
    with_volume(world, "kept", zone=elsewhere, **{"runctl:persistent": "true"})


def _restore(world: World, operation: Operation) -> None:
    request = VolumeRequest(name=f"{world.word}-moved", user=USER)
    plan = disks.plan_restore(operation, world.volumes["kept"], request, attach=world.instance)
    operation.carry_out(plan)


def _restore_done(world: World, made: dict[str, list[str]]) -> bool:
    if len(made["volumes"]) != 1 or len(made["snapshots"]) != 1:
        return False
    found = volumes.describe(Session(world.cloud(), policy=QUICK), made["volumes"][0])
    attached = found is not None and [one.instance for one in found.attachments] == [world.instance]
    return attached and world.volume_state("kept") is not None


def _restore_undone(world: World, made: dict[str, list[str]]) -> bool:
    return _none_made(world, made) and world.volume_state("kept") is not None


def _before_delete(world: World) -> None:
    with_volume(world, "old")


def _delete(world: World, operation: Operation) -> None:
    plan = disks.plan_delete(
        operation, world.volumes["old"], FORCED, snapshot_first=True, own=VolumeRequest(user=USER)
    )
    operation.carry_out(plan)


def _delete_done(world: World, made: dict[str, list[str]]) -> bool:
    found = world.volume_state("old")
    gone = found is None or found.state in {"deleting", "deleted"}
    return gone and len(made["snapshots"]) == 1


def _delete_undone(world: World, made: dict[str, list[str]]) -> bool:
    found = world.volume_state("old")
    return _none_made(world, made) and found is not None and found.state == "available"


def _before_attach(world: World) -> None:
    with_instance(world)
    with_volume(world, "kept", **{"runctl:persistent": "true"})


def _attach_and_mount(world: World, operation: Operation) -> None:
    plan = disks.plan_attach(operation, world.volumes["kept"], world.instance, mount="/data")
    operation.carry_out(plan)


def _attach_done(world: World, made: dict[str, list[str]]) -> bool:
    del made
    return world.is_attached("kept")


def _attach_undone(world: World, made: dict[str, list[str]]) -> bool:
    found = world.volume_state("kept")
    return _none_made(world, made) and found is not None and found.state == "available"


def _before_detach(world: World) -> None:
    _before_attach(world)
    operation = world.operation()
    _attach_and_mount(world, operation)
    operation.ledger.close()


def _detach(world: World, operation: Operation) -> None:
    operation.carry_out(disks.plan_detach(operation, world.volumes["kept"]))


def _before_cleanup(world: World) -> None:
    with_volume(world, "kept", **{"runctl:persistent": "true"})
    for name in ("first", "second"):
        with_volume(world, name)
    clock = world.cloud().clock
    old = clock.now() + YOUTH
    world.live.until(lambda: clock.now() > old)


def _cleanup(world: World, operation: Operation) -> None:
    seen = for_cleanup(survey(operation, [operation.session], user=USER))
    mine = msgspec.structs.replace(
        seen,
        instances=(),
        snapshots=(),
        volumes=[found for found in seen.volumes if found.id in world.volumes.values()],
    )
    cloud = operation.session.cloud
    view = cleanup_plan.view_of(operation.ledger, cloud.key, now=cloud.clock.now(), older_than=timedelta(0))
    bulk = Request(bulk=True, user=USER)
    plan = cleanup_plan.plan(mine, view, user=USER, assess=lambda *asked: operation.door.assess(*asked, bulk))
    assert {item.id for item in plan.items} == {world.volumes["first"], world.volumes["second"]}
    cleanup.apply(operation.ledger, operation.door, plan, limits=cleanup.Limits())


def _cleanup_done(world: World, made: dict[str, list[str]]) -> bool:
    del made
    gone = [
        found is None or found.state in {"deleting", "deleted"}
        for found in map(world.volume_state, ("first", "second"))
    ]
    return all(gone) and _cleanup_undone(world, {})


def _cleanup_undone(world: World, made: dict[str, list[str]]) -> bool:
    """Deletions stay; what had to be kept is there."""
    del made
    kept = world.volume_state("kept")
    return kept is not None and kept.state == "available"


def _before_warm(world: World) -> None:
    with_volume(world, "data", zone=ZONE, **{"runctl:persistent": "true"})
    found = world.live.client("s3")
    found.create_bucket(Bucket=world.word)
    for number in range(3):
        found.put_object(Bucket=world.word, Key=f"set/{number}", Body=bytes([number]) * 100)


def _warm(world: World, operation: Operation) -> None:
    dataset = prefixes.dataset_of(operation.session, f"s3://{world.word}/set")
    target = warming.existing_target(operation, world.volumes["data"])
    request = WarmRequest(instance_type="m7i.large", profile="runctl-instance", user=USER)
    operation.carry_out(warming.plan(operation, dataset, target, request, Limits(1000, 1000)).plan)


def _warm_done(world: World, made: dict[str, list[str]]) -> bool:
    found = world.volume_state("data")
    return _warm_undone(world, made) and found is not None and "runctl:dataset-version" in found.tags


def _warm_undone(world: World, made: dict[str, list[str]]) -> bool:
    """What was copied may stay; the machine may not."""
    found = world.volume_state("data")
    return _none_made(world, made) and found is not None and found.state == "available"


STORIES: dict[str, Story] = {
    "cleanup": Story(_before_cleanup, _cleanup, _cleanup_done, _cleanup_undone),
    "create-instance": Story(_nothing, _create, _create_done, _none_made),
    "terminate-instance": Story(_before_terminate, _terminate, _terminate_done, _terminate_undone),
    "restore-volume": Story(_before_restore, _restore, _restore_done, _restore_undone),
    "delete-volume": Story(_before_delete, _delete, _delete_done, _delete_undone),
    "attach-volume": Story(_before_attach, _attach_and_mount, _attach_done, _attach_undone),
    "pre-warm-volume": Story(_before_warm, _warm, _warm_done, _warm_undone),
    "detach-volume": Story(_before_detach, _detach, _attach_undone, _attach_done),
}
