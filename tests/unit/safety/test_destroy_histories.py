"""The policy against a model that was written from the table alone, over random histories of a small cloud.

Nothing that the table forbids reaches the API, and nothing that it allows is refused. The model below
imports no rule; the cloud is in memory, and everything between the two is the real thing: facts, shell,
rules, door, ledger.
"""

# ruff: noqa: N803 (the parameters of EC2's calls)

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runctl.clouds import Cloud
from runctl.config import Protection
from runctl.errors import CloudError, NotFound, Protected, TrainctlError
from runctl.ledger import AttemptRecord, JobRecord, Ledger, Owner, ResourceRecord
from runctl.model import JobId, JobState
from runctl.providers.aws import instances, shell, snapshots, volumes, waiting
from runctl.safety import activity, cleanup, cleanup_plan, destroy, leftovers
from runctl.safety.cleanup import Outcome
from runctl.safety.cleanup_plan import Item
from runctl.safety.dependencies import graph_of, marks
from runctl.safety.destroy import Door
from runctl.safety.protection import Action, Request, ResourceKind

START = datetime(2026, 11, 23, tzinfo=UTC)
USERS = ("ada", "bob")
YOUNG_MINUTES = 5
DESTRUCTIVE = (
    "terminate_instances",
    "stop_instances",
    "delete_volume",
    "delete_snapshot",
    "cancel_spot_instance_requests",
)
SET = ("true", "yes", "")
UNSET = ("false", "no")
OLD = timedelta(hours=1)
"""From which age on a cleanup of these histories calls something old."""

CHUNK = 100
"""Histories of one ledger: each adds jobs to it, and every plan reads them all."""


class MemoryClock:
    speed = 1.0

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class MemoryCloud:
    """An EC2, SSM and S3 in memory that answers as a `Session`, and keeps a log of what was taken."""

    region = "us-east-1"
    s3_endpoint = None

    def __init__(self, clock: MemoryClock) -> None:
        self.clock = clock
        self.cloud = Cloud(name="memory", key="memory", clock=clock, region=self.region)
        self.instances: dict[str, SimpleNamespace] = {}
        self.volumes: dict[str, SimpleNamespace] = {}
        self.snapshots: dict[str, SimpleNamespace] = {}
        self.images: dict[str, str] = {}
        self.requests: dict[str, str] = {}
        self.objects: set[str] = set()
        self.jobs: dict[str, SimpleNamespace] = {}  # those that the ledger knows
        self.denied: set[str] = set()
        self.log: list[tuple[str, str]] = []
        self.answers: dict[str, str] = {}

    def emit(self, event: Any) -> None:
        pass

    def account(self) -> str:
        return "123456789012"

    def call(
        self,
        service: str,
        operation: str,
        *,
        repeatable: bool = True,
        exists: Callable[[], bool] | None = None,
        **parameters: Any,
    ) -> Any:
        if operation in self.denied:
            raise self.refusal("AccessDenied", operation)
        return getattr(self, operation)(**parameters)

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> Iterator[Any]:
        yield from self.call(service, operation, **parameters)[key]

    @staticmethod
    def refusal(code: str, operation: str = "") -> CloudError:
        return CloudError(code, service="ec2", operation=operation, code=code)

    @staticmethod
    def tags(resource: SimpleNamespace) -> list[dict[str, str]]:
        return [{"Key": key, "Value": value} for key, value in resource.tags.items()]

    @staticmethod
    def wanted(filters: list[dict[str, Any]]) -> dict[str, list[str]]:
        return {found["Name"]: found["Values"] for found in filters}

    def prefix_of(self, job: str) -> str:
        return self.jobs[job].prefix if job in self.jobs else f"runctl/jobs/{job}"

    def describe_instances(self, Filters: Any, MaxResults: int = 0) -> Any:
        ids = self.wanted(Filters).get("instance-id", list(self.instances))
        rows = [self.row_of(id_, self.instances[id_]) for id_ in ids if id_ in self.instances]
        return {"Reservations": [{"Instances": rows}]}

    def row_of(self, id_: str, found: SimpleNamespace) -> dict[str, Any]:
        row: dict[str, Any] = {
            "InstanceId": id_,
            "InstanceType": "c6i.large",
            "Placement": {"AvailabilityZone": "us-east-1a"},
            "State": {"Name": found.state},
            "LaunchTime": found.launched,
            "RootDeviceName": "/dev/xvda",
            "Tags": self.tags(found),
            "BlockDeviceMappings": [
                {"DeviceName": at.device, "Ebs": {"VolumeId": volume, "DeleteOnTermination": at.dies}}
                for volume, disk in self.volumes.items()
                if (at := disk.at) and at.instance == id_
            ],
        }
        if found.stopped:
            row["StateTransitionReason"] = f"User initiated ({found.stopped:%Y-%m-%d %H:%M:%S} GMT)"
        if found.spot:
            row |= {"SpotInstanceRequestId": found.spot, "InstanceLifecycle": "spot"}
        return row

    def describe_volumes(self, Filters: Any, MaxResults: int = 0) -> Any:
        wanted = self.wanted(Filters)
        ids = wanted.get("volume-id", list(self.volumes))
        rows = []
        for id_ in ids:
            disk = self.volumes.get(id_)
            if disk is None or disk.source not in wanted.get("snapshot-id", [disk.source]):
                continue
            state = disk.state if disk.at is None else "in-use"
            if state not in wanted.get("status", [state]):
                continue
            at = disk.at
            rows.append(
                {
                    "VolumeId": id_,
                    "AvailabilityZone": "us-east-1a",
                    "VolumeType": "gp3",
                    "Size": 8,
                    "State": state,
                    "CreateTime": disk.created,
                    "Tags": self.tags(disk),
                    "Attachments": [
                        {
                            "VolumeId": id_,
                            "InstanceId": at.instance,
                            "Device": at.device,
                            "State": "attached",
                            "DeleteOnTermination": at.dies,
                        }
                    ]
                    if at
                    else [],
                }
            )
        return {"Volumes": rows}

    def describe_snapshots(
        self, Filters: Any = (), MaxResults: int = 0, OwnerIds: Any = (), SnapshotIds: Any = ()
    ) -> Any:
        wanted = self.wanted(Filters)
        if SnapshotIds:
            wanted["snapshot-id"] = SnapshotIds
        rows = [
            {
                "SnapshotId": id_,
                "VolumeId": found.volume,
                "VolumeSize": 8,
                "State": found.state,
                "StartTime": found.started,
                "Tags": self.tags(found),
            }
            for id_, found in self.snapshots.items()
            if id_ in wanted.get("snapshot-id", [id_])
            and found.volume in wanted.get("volume-id", [found.volume])
        ]
        return {"Snapshots": rows}

    def describe_images(self, Owners: Any) -> Any:
        rows = [
            {"ImageId": image, "BlockDeviceMappings": [{"Ebs": {"SnapshotId": snapshot}}]}
            for image, snapshot in self.images.items()
        ]
        return {"Images": rows}

    def describe_instance_attribute(self, InstanceId: str, Attribute: str) -> Any:
        assert Attribute == "disableApiTermination"
        return {"DisableApiTermination": {"Value": self.instances[InstanceId].protected}}

    def modify_instance_attribute(self, InstanceId: str, BlockDeviceMappings: Any) -> None:
        for mapping in BlockDeviceMappings:
            for disk in self.volumes.values():
                if disk.at and (disk.at.instance, disk.at.device) == (InstanceId, mapping["DeviceName"]):
                    disk.at.dies = mapping["Ebs"]["DeleteOnTermination"]

    def terminate_instances(self, InstanceIds: list[str]) -> None:
        for id_ in InstanceIds:
            self.log.append(("terminate_instances", id_))
            self.end(id_)

    def end(self, id_: str) -> None:
        """What EC2 does at the end of an instance: it takes the disks that were set to die with it."""
        instance = self.instances[id_]
        assert not instance.protected, "EC2 itself would refuse this"
        instance.state, instance.training = "terminated", None
        for volume, disk in list(self.volumes.items()):
            if disk.at and disk.at.instance == id_:
                if disk.at.dies:
                    self.log.append(("dies with it", volume))
                    del self.volumes[volume]
                disk.at = None
        # An open spot request starts the machine again: whoever forgot it pays.
        if instance.spot and self.requests[instance.spot] in {"open", "active"}:
            self.log.append(("comes back", id_))

    def stop_instances(self, InstanceIds: list[str]) -> None:
        for id_ in InstanceIds:
            self.log.append(("stop_instances", id_))
            self.instances[id_].training = None
            self.come_to_rest(id_)

    def come_to_rest(self, id_: str) -> None:
        self.instances[id_].state = "stopped"
        self.instances[id_].stopped = self.clock.now().replace(microsecond=0)

    def delete_volume(self, VolumeId: str) -> None:
        if self.volumes[VolumeId].at:
            raise self.refusal("VolumeInUse")
        self.log.append(("delete_volume", VolumeId))
        del self.volumes[VolumeId]

    def delete_snapshot(self, SnapshotId: str) -> None:
        self.log.append(("delete_snapshot", SnapshotId))
        del self.snapshots[SnapshotId]

    def detach_volume(self, VolumeId: str, InstanceId: str) -> None:
        self.volumes[VolumeId].at = None

    def describe_spot_instance_requests(self, SpotInstanceRequestIds: list[str]) -> Any:
        return {"SpotInstanceRequests": [{"State": self.requests[id_]} for id_ in SpotInstanceRequestIds]}

    def cancel_spot_instance_requests(self, SpotInstanceRequestIds: list[str]) -> None:
        for id_ in SpotInstanceRequestIds:
            assert self.requests[id_] in {"open", "active"}
            self.requests[id_] = "cancelled"

    def describe_instance_information(self, Filters: Any) -> Any:
        (ids,) = [found["Values"] for found in Filters]
        online = [id_ for id_ in ids if self.instances[id_].online and self.instances[id_].state == "running"]
        return {"InstanceInformationList": [{"PingStatus": "Online"} for _ in online]}

    def send_command(self, InstanceIds: list[str], Comment: str, Parameters: Any, **_: Any) -> Any:
        (id_,) = InstanceIds
        command = f"command-{len(self.answers)}"
        self.answers[command] = self.obey(id_, Comment.rpartition(" ")[0], Parameters["commands"][0])
        return {"Command": {"CommandId": command}}

    def obey(self, id_: str, comment: str, script: str) -> str:
        """What the machine does about a script: tell, save and end, or not listen."""
        instance = self.instances[id_]
        if comment == activity.COMMENT:
            lines: list[dict[str, Any]] = [{"kind": "begin", "version": 1}]
            if instance.training in {"agent", "stubborn agent"}:
                agent = {"job": "job-1", "attempt": 1, "phase": "running"}
                lines.append({"kind": "agent", **agent})
            elif instance.training:
                process = {"why": "gpu", "pid": 7, "cpu": 0, "command": "python train.py"}
                lines.append({"kind": "process", **process})
            if instance.mute:
                lines.append({"kind": "trouble", "what": "nvidia-smi"})
            lines += [] if instance.garbled else [{"kind": "end"}]
            return "\n".join(json.dumps(line) for line in lines)
        if comment.startswith("unmount "):
            volume = comment.removeprefix("unmount ")
            return f"runctl: error busy {volume} is in use" if instance.clings else "runctl: ok none"
        if comment.startswith("stop ") and instance.training == "agent":
            assert "stop" in script
            instance.saved, instance.training = True, None
        elif comment == "runctl: end training" and instance.training == "script":
            assert "kill -TERM 7" in script
            instance.saved, instance.training = True, None
        return ""

    def get_command_invocation(self, CommandId: str, InstanceId: str) -> Any:
        return {
            "Status": "Success",
            "ResponseCode": 0,
            "StandardOutputContent": self.answers[CommandId],
            "StandardErrorContent": "",
        }

    def get_object(self, Bucket: str, Key: str, ExpectedBucketOwner: str = "") -> Any:
        if Key not in self.objects:
            raise NotFound(Key)
        now = self.clock.now().timestamp()
        return {"Body": io.BytesIO(json.dumps({"phase": "running", "heartbeat": now - 10}).encode())}

    def head_object(self, Bucket: str, Key: str, ExpectedBucketOwner: str = "") -> None:
        if Key not in self.objects:
            raise NotFound(Key)


class Model:
    """The table of the design, once more: written from its text, knowing the world as it is."""

    def __init__(self, world: MemoryCloud, restoring: set[str]) -> None:
        self.world = world
        self.restoring = restoring

    def tagged(self, resource: SimpleNamespace, *names: str) -> bool:
        return any(resource.tags.get(f"runctl:{name}", "no") not in UNSET for name in names)

    def needs(self, action: Action, id_: str, asked: Request) -> Iterator[str]:
        """What stands against it: `never`, or `force`."""
        found: Any = {**self.world.instances, **self.world.volumes, **self.world.snapshots}[id_]
        alone = "never" if asked.bulk else "force"
        if found.tags.get("runctl:managed") != "true":
            yield "force" if asked.unmanaged and not asked.bulk else "never"
        if found.tags.get("runctl:user") != asked.user:
            yield alone
        if self.tagged(found, "protected", "important"):
            yield alone
        if id_ in self.world.instances:
            yield from self.of_instance(action, id_, found, asked)
        elif self.is_young(found.created if id_ in self.world.volumes else found.started):
            yield alone
        if id_ in self.world.volumes:
            yield from self.of_volume(id_, found, alone)
        if id_ in self.world.snapshots:
            uses = [disk for disk in self.world.volumes.values() if disk.source == id_]
            if id_ in self.world.images.values() or id_ in self.restoring:
                yield "never"
            if any(disk.state == "creating" for disk in uses):
                yield "never"

    def is_young(self, since: datetime) -> bool:
        return self.world.clock.now() - since < timedelta(minutes=YOUNG_MINUTES)

    def of_instance(self, action: Action, id_: str, found: Any, asked: Request) -> Iterator[str]:
        if action is Action.TERMINATE:
            alone = "never" if asked.bulk else "force"
            if self.is_young(found.launched):
                yield alone
            if found.protected or "describe_instance_attribute" in self.world.denied:
                yield "never"
            for disk in self.world.volumes.values():
                dies = disk.at and disk.at.instance == id_ and disk.at.dies
                if (
                    dies
                    and not self.tagged(disk, "persistent")
                    and self.tagged(disk, "protected", "important")
                ):
                    yield alone
        if self.may_train(found) and not (asked.graceful and self.can_be_asked(found)):
            yield "force"

    def can_be_heard(self, found: Any) -> bool:
        return found.online and not {"send_command", "describe_instance_information"} & self.world.denied

    def may_train(self, found: Any) -> bool:
        if found.state == "stopped":
            return False
        known = found.state == "running" and self.can_be_heard(found) and not found.garbled
        known = known and not found.mute
        return bool(found.training) or found.beats(self.world) or not known

    def can_be_asked(self, found: Any) -> bool:
        """There is somebody to ask, and a way to."""
        if found.state != "running" or not found.online:
            return False
        if "describe_instance_information" in self.world.denied:
            return False
        if found.beats(self.world):
            return True
        return bool(found.training) and not found.garbled and "send_command" not in self.world.denied

    def of_volume(self, id_: str, found: Any, alone: str) -> Iterator[str]:
        if found.at:
            yield "never"
        if self.tagged(found, "persistent"):
            yield alone
        copies = [
            one for one in self.world.snapshots.values() if one.volume == id_ and one.state == "completed"
        ]
        job = found.tags.get("runctl:job") or found.noted
        if not job and found.tags.get("runctl:purpose") and not copies:
            yield "force"
        if job and not copies:
            latest = f"{self.world.prefix_of(job)}/checkpoints/latest.json"
            if latest not in self.world.objects or "head_object" in self.world.denied:
                yield "force"

    def allows(self, action: Action, id_: str, asked: Request) -> bool:
        return set(self.needs(action, id_, asked)) <= ({"force"} if asked.force else set())

    def ends_when_asked(self, found: Any, asked: Request) -> bool:
        """Whether training that is asked to end does: what is forced may skip those that cannot be asked."""
        if not self.may_train(found) or not asked.graceful or not self.can_be_asked(found):
            return True
        if "send_command" in self.world.denied or found.garbled or found.mute:
            return False
        return found.training in {"agent", "script"} and not found.beats(self.world)

    # Cleanup: only what is left over for a reason, and nothing that has changed since it was planned

    def leftover(self, id_: str) -> str | None:
        """Why nobody needs it any more, in the words of the documents."""
        if id_ in self.world.instances:
            return self.leftover_instance(self.world.instances[id_])
        now = self.world.clock.now()
        if id_ in self.world.volumes:
            disk = self.world.volumes[id_]
            job = self.world.jobs.get(disk.tags.get("runctl:job", ""))
            if disk.at or disk.state != "available":
                return None
            if job is not None:
                return "its job is over" if job.over else None
            return "attached to nothing for long" if now - disk.created >= OLD else None
        found = self.world.snapshots[id_]
        orphan = found.state == "completed" and found.volume not in self.world.volumes
        return "snapshot of a volume that is gone" if orphan and now - found.started >= OLD else None

    def leftover_instance(self, found: Any) -> str | None:
        now = self.world.clock.now()
        if found.state not in {"pending", "running", "stopped"}:
            return None
        if (job := self.world.jobs.get(found.tags.get("runctl:job", ""))) is not None:
            return "its job is over" if job.over else None
        lease = found.tags.get("runctl:lease-until", "")
        if lease.startswith("2") and datetime.fromisoformat(lease) < now:
            return "its lease has run out"
        return "stopped for long" if found.state == "stopped" and now - found.stopped >= OLD else None

    def may_plan(self, id_: str, asked: Request) -> str | None:
        """The reason for which a cleanup may name it; what is persistent it never names."""
        action = Action.TERMINATE if id_ in self.world.instances else Action.DELETE
        everything: Any = {**self.world.volumes, **self.world.snapshots}
        if id_ in everything and self.tagged(everything[id_], "persistent"):
            return None
        return self.leftover(id_) if self.allows(action, id_, asked) else None

    def look(self, id_: str) -> tuple[Any, ...] | None:
        """What must be as it was planned: tags, disks, which of them end with it, and the reason."""
        found: Any = {**self.world.instances, **self.world.volumes, **self.world.snapshots}.get(id_)
        if found is None or getattr(found, "state", "") == "terminated":
            return None
        at = {disk: one for disk, one in self.world.volumes.items() if one.at and one.at.instance == id_}
        dying = {disk for disk, one in at.items() if one.at.dies and not self.tagged(one, "persistent")}
        return dict(found.tags), set(at), dying, self.leftover(id_)


class History:
    """One random story: things appear and change, time passes, and somebody asks for an end."""

    def __init__(self, seed: int, ledger: Ledger, seen: Counter[str]) -> None:
        self.dice = random.Random(seed)
        self.seed = seed
        self.clock = MemoryClock()
        self.world = MemoryCloud(self.clock)
        self.ledger = ledger
        self.seen = seen
        self.restoring: set[str] = set()
        self.transactions: list[str] = []
        self.model = Model(self.world, self.restoring)
        session: Any = self.world
        self.session = session
        self.door = Door(session, ledger, "ada", policy=Protection(young_minutes=YOUNG_MINUTES))
        self.count = 0
        for number, state in enumerate((JobState.RUNNING, JobState.RUNNING, JobState.SUCCEEDED)):
            self.add_job(f"job-{seed:06}-{number}", state)
        self.jobs = [*self.world.jobs, "job-of-another"]

    def add_job(self, job: str, state: JobState) -> None:
        """A job of this ledger, which keeps its things where no other does."""
        now, prefix = self.clock.now(), f"kept/{job}"
        record = JobRecord(
            id=JobId(job),
            name="walk",
            spec=b"{}",
            state=state,
            target="memory",
            cloud="memory",
            folder=None,
            store=f"s3://bucket/{prefix}",
            project="",
            user="ada",
            created=now,
            updated=now,
        )
        self.ledger.jobs.add(record, "asked for")
        self.world.jobs[job] = SimpleNamespace(prefix=prefix, over=state.final)

    def tell(self, length: int) -> None:
        happenings = [
            self.launch,
            self.launch,
            self.make_volume,
            self.make_volume,
            self.snapshot,
            self.snapshot,
            self.make_image,
            self.restore,
            self.attach,
            self.tag,
            self.train,
            self.commit,
            self.trouble,
            self.pass_time,
            self.pass_time,
            self.pass_time,
            self.ask,
            self.ask,
            self.ask,
            self.ask,
            self.undo,
            self.end_job,
            self.end_of_a_job,
            self.clean_up,
        ]
        self.launch()
        for _ in range(length):
            self.dice.choice(happenings)()
        self.ask()
        self.clean_up()
        for tx in self.transactions:
            self.ledger.journal.end(tx, "finished")

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}-{self.seed:08x}{self.count:04x}"

    def maybe(self, chance: float) -> bool:
        return self.dice.random() < chance

    def some_tags(self) -> dict[str, str]:
        tags = {"runctl:managed": "true", "runctl:user": "ada", "runctl:tx": f"tx-{self.dice.randrange(3)}"}
        for key, chance in (("persistent", 0.2), ("protected", 0.1), ("important", 0.05)):
            if self.maybe(chance):
                tags[f"runctl:{key}"] = self.dice.choice(SET if self.maybe(0.8) else UNSET)
        if self.maybe(0.15):
            tags["runctl:user"] = self.dice.choice(USERS)
        if self.maybe(0.1):
            del tags[self.dice.choice(sorted(tags))]
        if self.maybe(0.1):
            tags["runctl:purpose"] = "checkpoints"
        if self.maybe(0.3):
            tags["runctl:job"] = self.dice.choice(self.jobs)
        return tags

    def launch(self) -> None:
        id_ = self.name("i")
        spot = None
        if self.maybe(0.3):
            spot = self.name("sir")
            self.world.requests[spot] = self.dice.choice(("active", "open", "closed", "cancelled"))
        tags = self.some_tags()
        if "runctl:job" in tags and self.maybe(0.7):
            tags["runctl:attempt"] = "1"

        known = self.attempt_in_ledger(id_) if self.maybe(0.25) else None
        if self.maybe(0.3):
            hours = self.dice.choice((-2, 1))
            lease = (self.clock.now() + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")
            tags["runctl:lease-until"] = self.dice.choice((lease, lease, "soon"))

        def beats(world: MemoryCloud) -> bool:
            if {"runctl:job", "runctl:attempt"} <= set(tags):
                job, number = tags["runctl:job"], tags["runctl:attempt"]
            elif known and not world.jobs[known[0]].over:
                job, number = known
            else:
                return False
            key = f"{world.prefix_of(job)}/attempt-{number}/state.json"
            return key in world.objects and "get_object" not in world.denied

        self.world.instances[id_] = SimpleNamespace(
            tags=tags,
            state=self.dice.choice(("running", "running", "running", "stopped", "pending", "stopping")),
            launched=self.clock.now(),
            stopped=None,
            protected=self.maybe(0.1),
            online=self.maybe(0.85),
            garbled=self.maybe(0.05),
            mute=self.maybe(0.1),
            clings=self.maybe(0.2),
            training=None,
            saved=False,
            spot=spot,
            beats=beats,
        )
        if self.world.instances[id_].state == "stopped":
            self.world.come_to_rest(id_)
        root = self.make_volume()
        at = SimpleNamespace(instance=id_, device="/dev/xvda", dies=self.maybe(0.9))
        self.world.volumes[root].at = at

    def attempt_in_ledger(self, instance: str) -> tuple[str, int]:
        """A job of the ledger ran here as its newest attempt, whatever the tags say."""
        job, number = self.dice.choice(sorted(self.world.jobs)), self.dice.choice((1, 2))
        now = self.clock.now()
        for attempt in range(1, number + 1):
            record = AttemptRecord(
                job=JobId(job), number=attempt, state="launched", created=now, instance_id=instance
            )
            self.ledger.jobs.save_attempt(record)
        return job, number

    def make_volume(self) -> str:
        id_ = self.name("vol")
        noted = self.dice.choice(self.jobs) if self.maybe(0.1) else None
        if noted:
            self.note(id_, noted)
        self.world.volumes[id_] = SimpleNamespace(
            tags=self.some_tags(),
            created=self.clock.now(),
            at=None,
            state="available",
            source=None,
            noted=noted,
        )
        return id_

    def note(self, volume: str, job: str) -> None:
        """The ledger remembers whose it was, whatever its tags say."""
        record = ResourceRecord(
            id=volume,
            kind="volume",
            cloud="memory",
            region="us-east-1",
            zone="us-east-1a",
            name="",
            project="",
            user="ada",
            job=job,
            attempt=1,
            facts=b"{}",
            created=self.clock.now(),
        )
        self.ledger.resources.save(record)

    def any_of(self, found: dict[str, Any]) -> str | None:
        return self.dice.choice(sorted(found)) if found else None

    def snapshot(self) -> None:
        free = {id_: disk for id_, disk in self.world.volumes.items() if not disk.at}
        if volume := self.any_of(free if self.maybe(0.7) else self.world.volumes):
            self.world.snapshots[self.name("snap")] = SimpleNamespace(
                volume=volume,
                tags=self.some_tags(),
                started=self.clock.now(),
                state=self.dice.choice(("completed", "pending", "error")),
            )
            if volume in free and self.maybe(0.3):
                del self.world.volumes[volume]  # by somebody, not through us

    def make_image(self) -> None:
        if (snapshot := self.any_of(self.world.snapshots)) and self.maybe(0.5):
            self.world.images[self.name("ami")] = snapshot

    def restore(self) -> None:
        snapshot = self.any_of(self.world.snapshots)
        if snapshot is None:
            return
        if self.maybe(0.3):
            owner = Owner(pid=1, started=0.0, host="elsewhere")
            payload = json.dumps({"snapshot": snapshot}).encode()
            operation = self.dice.choice(("restore-volume", "delete-volume"))
            tx = self.ledger.journal.begin(
                operation, subject="x", payload=payload, owner=owner, at=self.clock.now()
            )
            self.transactions.append(tx)
            if operation == "restore-volume":
                self.restoring.add(snapshot)
        else:
            volume = self.world.volumes[self.make_volume()]
            volume.source, volume.state = snapshot, self.dice.choice(("creating", "available"))

    def attach(self) -> None:
        free = {
            id_: disk for id_, disk in self.world.volumes.items() if not disk.at and disk.state != "creating"
        }
        alive = {
            id_: found for id_, found in self.world.instances.items() if found.state in {"running", "stopped"}
        }
        volume, instance = self.any_of(free), self.any_of(alive)
        taken = {
            disk.at.device for disk in self.world.volumes.values() if disk.at and disk.at.instance == instance
        }
        device = next((name for name in ("/dev/sdf", "/dev/sdg", "/dev/sdh") if name not in taken), None)
        if volume and instance and device:
            at = SimpleNamespace(instance=instance, device=device, dies=self.maybe(0.4))
            self.world.volumes[volume].at = at

    def tag(self) -> None:
        pool = {**self.world.instances, **self.world.volumes, **self.world.snapshots}
        if id_ := self.any_of(pool):
            key = self.dice.choice(("protected", "important", "persistent"))
            pool[id_].tags[f"runctl:{key}"] = self.dice.choice((*SET, *UNSET, *UNSET))

    def train(self) -> None:
        if (id_ := self.any_of(self.world.instances)) and self.world.instances[id_].state == "running":
            kinds = ("agent", "script", "stubborn agent", "stubborn script", None)
            self.world.instances[id_].training = self.dice.choice(kinds)

    def commit(self) -> None:
        prefix = self.world.prefix_of(self.dice.choice(self.jobs))
        key = self.dice.choice(("checkpoints/latest.json", "attempt-1/state.json", "attempt-2/state.json"))
        self.world.objects ^= {f"{prefix}/{key}"}

    def end_of_a_job(self) -> None:
        """The ledger learns that a job is over: an attempt of it proves nothing any more."""
        live = [job for job, known in self.world.jobs.items() if not known.over]
        if live:
            job = self.dice.choice(live)
            self.ledger.jobs.transition(
                JobId(job),
                JobState.FAILED,
                allowed_from={JobState.RUNNING},
                at=self.clock.now(),
                attempt=1,
                cause="it failed",
            )
            self.world.jobs[job].over = True

    def trouble(self) -> None:
        operations = (
            "send_command",
            "describe_instance_information",
            "describe_instance_attribute",
            "get_object",
            "head_object",
        )
        self.world.denied = {self.dice.choice(operations)} if self.maybe(0.4) else set()

    def pass_time(self) -> None:
        self.clock.sleep(self.dice.choice((1, 30, 240, 299, 300, 301, 3600, 86400)))
        for id_, found in self.world.instances.items():
            if found.state == "stopping" and self.maybe(0.7):
                self.world.come_to_rest(id_)
            elif found.state == "pending" and self.maybe(0.7):
                found.state = "running"

    def request(self) -> Request:
        return Request(
            user=USERS[self.maybe(0.1)],
            bulk=self.maybe(0.25),
            force=self.maybe(0.5),
            unmanaged=self.maybe(0.4),
            graceful=self.maybe(0.7),
        )

    def ask(self) -> None:
        living = {id_: one for id_, one in self.world.instances.items() if one.state != "terminated"}
        pool = self.dice.choice((living, self.world.volumes, self.world.snapshots))
        id_ = self.any_of(pool)
        if id_ is None:
            return
        if pool is living:
            action = self.dice.choice((Action.STOP, Action.TERMINATE))
            kind = ResourceKind.INSTANCE
            act = self.door.stop_instance if action is Action.STOP else self.door.terminate_instance
            call = "stop_instances" if action is Action.STOP else "terminate_instances"
        elif pool is self.world.volumes:
            action, kind, act, call = (
                Action.DELETE,
                ResourceKind.VOLUME,
                self.door.delete_volume,
                "delete_volume",
            )
        else:
            kind, act, call = ResourceKind.SNAPSHOT, self.door.delete_snapshot, "delete_snapshot"
            action = Action.DELETE
        asked = self.request()
        allowed = self.model.allows(action, id_, asked)
        ends = kind is not ResourceKind.INSTANCE or self.model.ends_when_asked(living[id_], asked)
        untouched = self.state()
        verdict = self.door.assess(action, kind, id_, asked)
        assert self.state() == untouched, "to assess changed something"
        assert verdict.allowed == allowed, (action, id_, asked, verdict.findings)
        self.seen.update(f"{finding.rule}: {finding.effect}" for finding in verdict.findings)
        self.carry_out(act, call, id_, asked, expected=allowed and ends)
        self.seen[f"{action} {kind}: {'refused' if not allowed else 'done' if ends else 'goes on'}"] += 1

    def carry_out(self, act: Any, call: str, id_: str, asked: Request, *, expected: bool) -> None:
        before, kept = len(self.world.log), self.persistent(but=id_)
        trained = getattr(self.world.instances.get(id_), "training", None)
        heard = id_ in self.world.instances and self.model.can_be_asked(self.world.instances[id_])
        untouched = self.state()
        if expected:
            act(id_, asked)
            took = [entry for entry in self.world.log[before:] if entry[0] in DESTRUCTIVE]
            assert took == [(call, id_)], "it was allowed, and is not what was done"
            if trained and asked.graceful and heard:
                assert self.world.instances[id_].saved, "training was not given the time to save"
        else:
            with pytest.raises(Protected):
                act(id_, asked)
            assert self.world.log[before:] == [], "what was refused was done"
            if not trained:
                assert self.state() == untouched
        assert not any(what == "comes back" for what, _ in self.world.log)
        assert kept <= set(self.world.volumes), "a persistent volume was deleted with another resource"

    def persistent(self, but: str) -> set[str]:
        return {
            id_
            for id_, disk in self.world.volumes.items()
            if id_ != but and disk.tags.get("runctl:persistent", "no") not in UNSET
        }

    def state(self) -> str:
        world = self.world
        return repr([world.instances, world.volumes, world.snapshots, world.requests, world.log])

    def undo(self) -> None:
        """Undo a creation of one of three operations, of which most did not make the thing."""
        pool, kind = self.dice.choice(
            (
                (self.world.instances, ResourceKind.INSTANCE),
                (self.world.volumes, ResourceKind.VOLUME),
                (self.world.snapshots, ResourceKind.SNAPSHOT),
            )
        )
        id_ = self.any_of(pool)
        if id_ is None or getattr(pool[id_], "at", None):
            return
        found = pool[id_]
        if kind is ResourceKind.INSTANCE and (found.protected or found.state == "terminated"):
            return
        tx = f"tx-{self.dice.randrange(3)}"
        own = found.tags.get("runctl:tx") == tx
        before, kept = len(self.world.log), self.persistent(but=id_)
        others = {one for one, disk in self.world.volumes.items() if disk.tags.get("runctl:tx") != tx}
        if own:
            self.door.remove_created(kind, id_, tx=tx)
            assert [one for what, one in self.world.log[before:] if what in DESTRUCTIVE] == [id_]
            assert others <= set(self.world.volumes), "an undoing took what was there before"
        else:
            with pytest.raises(Protected):
                self.door.remove_created(kind, id_, tx=tx)
            assert self.world.log[before:] == []
        assert kept <= set(self.world.volumes)
        self.seen[f"undo {kind}: {'done' if own else 'refused'}"] += 1

    def end_job(self) -> None:
        id_, job = self.any_of(self.world.instances), self.dice.choice(self.jobs)
        if id_ is None or self.world.instances[id_].protected:
            return
        found = self.world.instances[id_]
        own = found.tags.get("runctl:job") == job and found.tags.get("runctl:managed") == "true"
        own = own and not self.model.tagged(found, "protected", "important")  # its owner has the last word
        before, kept = len(self.world.log), self.persistent(but=id_)
        try:
            destroy.terminate_job_instance(self.session, id_, job=job)
        except Protected:
            assert not own
            assert self.world.log[before:] == []
        else:
            assert own
            assert found.state == "terminated"
        assert kept <= set(self.world.volumes)
        self.seen[f"end of a job: {'done' if own else 'refused'}"] += 1

    # In bulk: a plan, what happens meanwhile, and what is done of it

    def clean_up(self) -> None:
        asked = Request(bulk=True, user="ada")
        untouched = self.state()
        planned = cleanup_plan.plan(
            self.inventory(),
            cleanup_plan.view_of(self.ledger, "memory", now=self.clock.now(), older_than=OLD),
            user="ada",
            assess=lambda *what: self.door.assess(*what, asked),
        )
        assert self.state() == untouched, "to plan changed something"
        alive = [id_ for id_, one in self.world.instances.items() if one.state != "terminated"]
        pool = [*alive, *self.world.volumes, *self.world.snapshots]
        expected = {id_: why for id_ in pool if (why := self.model.may_plan(id_, asked))}
        assert {item.id: str(item.reason) for item in planned.items} == expected
        looked = {id_: self.model.look(id_) for id_ in expected}
        meanwhile = (self.tag, self.attach, self.train, self.pass_time, self.trouble, self.end_of_a_job)
        for _ in range(self.dice.randrange(4)):
            self.dice.choice(meanwhile)()
        self.apply(planned, looked)

    def inventory(self) -> cleanup_plan.Inventory:
        """What a survey makes of this cloud, without its prices."""
        found = {
            "instances": [one for one in instances.listing(self.session) if one.state != "terminated"],
            "volumes": volumes.listing(self.session),
            "snapshots": snapshots.listing(self.session),
        }
        images = snapshots.images(self.session)
        held = marks(**found, images=images, user="ada", now=self.clock.now())
        graph = graph_of(**found, images=images, rates={}, protected=held)
        return cleanup_plan.Inventory(cloud="memory", region="us-east-1", **found, graph=graph, marks=held)

    def apply(self, planned: cleanup_plan.Plan, looked: dict[str, Any]) -> None:
        """What is done is what was planned, is as it was, and may be done: no less, and nothing else."""
        asked = Request(bulk=True, force=self.maybe(0.3), user="ada")
        wanted = {item.id for item in planned.items if self.may_apply(item, looked, asked)}
        begun, before, kept = self.clock.now(), len(self.world.log), self.persistent(but="")
        limits = cleanup.UNLIMITED
        report = cleanup.apply(self.ledger, self.door, planned, limits=limits, force=asked.force)
        took = {id_ for what, id_ in self.world.log[before:] if what in DESTRUCTIVE}
        assert took == {result.item.id for result in report.having(Outcome.DONE)}
        assert took <= looked.keys(), "something was added to the plan"
        # While training ends time passes, and with it what held another item.
        assert wanted <= took, "what may be done was not done"
        assert took == wanted or self.clock.now() > begun, "what may not be done was done"
        assert kept <= set(self.world.volumes)
        assert not any(what == "comes back" for what, _ in self.world.log)
        for result in report.results:
            self.seen[f"cleanup, {result.item.reason}: {result.outcome}"] += 1
            self.seen[f"cleanup: {result.outcome}"] += 1

    def may_apply(self, item: Item, looked: dict[str, Any], asked: Request) -> bool:
        if self.model.look(item.id) != looked[item.id]:
            return False
        ends = item.kind is not ResourceKind.INSTANCE or self.model.ends_when_asked(
            self.world.instances[item.id], asked
        )
        return ends and self.model.allows(item.action, item.id, asked)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cloud in memory answers at once, and its clock waits for nobody."""
    monkeypatch.setattr(shell, "time", SimpleNamespace(sleep=lambda _: None, monotonic=time.monotonic))
    monkeypatch.setattr(waiting.Pause, "take", lambda _: None)


@contextlib.contextmanager
def a_ledger() -> Iterator[Ledger]:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    with Ledger.open(folder) as opened:
        yield opened
    shutil.rmtree(folder)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with a_ledger() as opened:
        yield opened


def tell(seeds: range) -> Counter[str]:
    seen: Counter[str] = Counter()
    for start in range(seeds.start, seeds.stop, CHUNK):
        with a_ledger() as ledger:
            for seed in range(start, min(start + CHUNK, seeds.stop)):
                try:
                    History(seed, ledger, seen).tell(length=18)
                except (AssertionError, TrainctlError, KeyError) as error:
                    error.add_note(f"history {seed}")
                    raise
    return seen


EVERY = {
    "unmanaged: forbid",
    "unmanaged: force",
    "another user's: forbid",
    "another user's: force",
    "protected tag: forbid",
    "protected tag: force",
    "young: forbid",
    "young: force",
    "termination protection: forbid",
    "running training: graceful",
    "running training: force",
    "persistent volume: warn",
    "persistent volume: force",
    "persistent volume: forbid",
    "attached volume: forbid",
    "volume with snapshots: warn",
    "only copy of checkpoints: force",
    "snapshot of an image: forbid",
    "snapshot being restored: forbid",
    *(f"{what}: {how}" for what in ("stop instance", "terminate instance") for how in ("done", "goes on")),
    *(f"delete {kind}: {how}" for kind in ("volume", "snapshot") for how in ("done", "refused")),
    *(f"undo {kind}: {how}" for kind in ("instance", "volume", "snapshot") for how in ("done", "refused")),
    "end of a job: done",
    "end of a job: refused",
    *(f"cleanup, {reason}: done" for reason in leftovers.Reason if reason is not leftovers.Reason.RUNNING),
    *(f"cleanup: {outcome}" for outcome in (Outcome.CHANGED, Outcome.PROTECTED)),
}


def test_a_spot_request_that_outlived_its_machine_and_would_start_another_is_cancelled(
    ledger: Ledger, quick: None
) -> None:
    told = History(0, ledger, Counter())
    while not any(one.spot for one in told.world.instances.values()):
        told.launch()
    id_, machine = next((id_, one) for id_, one in told.world.instances.items() if one.spot)
    machine.state, machine.tags, told.world.requests[machine.spot] = "terminated", {}, "open"
    told.clock.sleep(3600)
    with pytest.raises(Protected):
        told.door.terminate_instance(id_, Request(user="ada"))
    assert told.world.requests[machine.spot] == "open"
    told.door.terminate_instance(id_, Request(user="ada", force=True, unmanaged=True))
    assert told.world.requests[machine.spot] == "cancelled"
    assert told.door.terminate_instance(id_, Request(user="ada")).findings[0].rule == "gone already"
    assert told.world.log == []


def test_what_was_protected_while_it_saved_is_left_alone(
    ledger: Ledger, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = History(0, ledger, Counter())
    told.launch()
    id_, machine = next(iter(told.world.instances.items()))
    tags = {"runctl:managed": "true", "runctl:user": "ada"}
    vars(machine).update(state="running", online=True, garbled=False, mute=False, protected=False)
    vars(machine).update(tags=tags, training="agent", beats=lambda _: False)
    told.clock.sleep(3600)
    obey = told.world.obey

    def obey_and_tag(id_: str, comment: str, script: str) -> str:
        if comment.startswith("stop "):
            tags["runctl:protected"] = "true"
        return obey(id_, comment, script)

    monkeypatch.setattr(told.world, "obey", obey_and_tag)
    with pytest.raises(Protected) as caught:
        told.door.terminate_instance(id_, Request(user="ada"))
    assert caught.value.reasons == ("protected tag",)
    assert (machine.saved, machine.state) == (True, "running")


def test_what_the_table_forbids_never_reaches_the_api_and_what_it_allows_is_never_refused(
    quick: None,
) -> None:
    seen = tell(range(300))
    assert EVERY - set(seen) == set(), "these histories say nothing of it"


@pytest.mark.slow
def test_eleven_thousand_histories_agree_with_the_table(quick: None) -> None:
    seen = tell(range(11_000))
    assert EVERY - set(seen) == set()
    for what, times in sorted(seen.items()):
        print(f"{times:7,} {what}")
