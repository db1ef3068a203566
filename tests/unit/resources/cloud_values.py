"""A cloud of values alone: what EC2 would show, at a time that the test decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from runctl.clouds import Cloud
from runctl.model import Market
from runctl.providers.aws.instances import Instance
from runctl.providers.aws.session import Session
from runctl.providers.aws.snapshots import Snapshot
from runctl.providers.aws.volumes import Attachment, Volume
from runctl.resources.inventory import Inventory

START = datetime(2026, 11, 23, tzinfo=UTC)
REGION = "us-east-1"
KEY = "sandbox:values"
TAGS = {"runctl:managed": "true", "runctl:project": "vision", "runctl:user": "ada"}


class SetClock:
    """A clock that stands until it is set; seconds since `START`, or since the epoch for the sandbox."""

    def __init__(self) -> None:
        self.seconds = START.timestamp()

    @property
    def speed(self) -> float:
        return 1.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class ValueSession(Session):
    """A session whose pages a function answers; nothing is sent anywhere."""

    def __init__(self, clock: SetClock, answer: Callable[..., list[Any]] = lambda *_, **__: []) -> None:
        super().__init__(Cloud(name="sandbox", key=KEY, clock=clock, region=REGION))
        self._answer = answer

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> Iterator[Any]:
        return iter(self._answer(operation, **parameters))


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def instance(number: int = 1, **changes: Any) -> Instance:
    made = Instance(
        id=f"i-{number:017x}",
        region=REGION,
        zone="us-east-1a",
        instance_type="g5.xlarge",
        state="running",
        market=Market.ON_DEMAND,
        launched=START,
        image="ami-1",
        root_device="/dev/xvda",
        architecture="x86_64",
        disks=(),
        tags=TAGS,
    )
    return msgspec.structs.replace(made, **changes)


def volume(number: int = 1, **changes: Any) -> Volume:
    made = Volume(
        id=f"vol-{number:017x}",
        region=REGION,
        zone="us-east-1a",
        volume_type="gp3",
        size_gib=100,
        iops=3000,
        throughput_mibs=125,
        encrypted=True,
        state="available",
        created=START,
        snapshot=None,
        attachments=(),
        tags=TAGS,
    )
    return msgspec.structs.replace(made, **changes)


def attached(volume_id: str, instance_id: str) -> Attachment:
    return Attachment(
        volume=volume_id,
        instance=instance_id,
        device="/dev/sdf",
        state="attached",
        delete_on_termination=False,
    )


def snapshot(number: int = 1, **changes: Any) -> Snapshot:
    made = Snapshot(
        id=f"snap-{number:017x}",
        region=REGION,
        volume="vol-00000000000000001",
        size_gib=100,
        state="completed",
        progress="100%",
        started=START,
        encrypted=True,
        description="",
        tags=TAGS,
        stored_bytes=None,
    )
    return msgspec.structs.replace(made, **changes)


def inventory_of(taken: datetime, *found: Any, **changes: Any) -> Inventory:
    made = Inventory(
        cloud=KEY,
        regions=(REGION,),
        taken=taken,
        instances=tuple(one for one in found if isinstance(one, Instance)),
        volumes=tuple(one for one in found if isinstance(one, Volume)),
        snapshots=tuple(one for one in found if isinstance(one, Snapshot)),
    )
    return msgspec.structs.replace(made, **changes)
