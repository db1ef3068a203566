"""The strategy of a job's data: what the plan decides, what its machine is told, which zones come first."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from runctl.datasets import volumes
from runctl.errors import CloudError, NotFound, ValidationError
from runctl.events import Event, Notice, ignore
from runctl.jobs import data, spec
from runctl.jobs.place import Place, local_place, near_data
from runctl.jobs.spec import DataVolume, JobSpec
from runctl.model import Market, Offer, Price
from runctl.resources import prefixes
from runctl.resources.prefixes import Dataset

GIB = 2**30
PRICE = Price(usd_per_hour=Decimal("1.006"), source="test", as_of=datetime(2026, 1, 1, tzinfo=UTC))


def offer(zone: str, instance_type: str = "g5.xlarge") -> Offer:
    return Offer("aws", instance_type, zone, Market.ON_DEMAND, PRICE)


HERE, THERE = offer("us-east-1a"), offer("us-east-1b")


def job(**changes: Any) -> JobSpec:
    usual: dict[str, Any] = {
        "name": "walk",
        "on": "sandbox",
        "root": "/nowhere",
        "workdir": ".",
        "command": ("true",),
        "instance_type": "g5.xlarge",
        "data": "s3://bucket/set",
        "data_strategy": "auto",
    }
    return JobSpec(**{**usual, **changes})


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A dataset and the volumes that hold it, as AWS would tell of them."""
    told = SimpleNamespace(bytes=100 * GIB, files=1000, warm=[], error=None)

    def dataset_of(_session: Any, text: str) -> Dataset:
        if told.error:
            raise told.error
        return Dataset(
            location=text,
            bucket="bucket",
            prefix="set/",
            region="us-east-1",
            files=told.files,
            bytes=told.bytes,
            version="v" * 64,
        )

    monkeypatch.setattr(prefixes, "dataset_of", dataset_of)
    monkeypatch.setattr(volumes, "holding", lambda *_: told.warm)
    monkeypatch.setattr(
        volumes, "as_own", lambda volume: volumes.OwnVolume(id=volume.id, zone=volume.zone, mibs=Decimal(125))
    )
    told.session = SimpleNamespace(region="us-east-1")
    told.place = msgspec.structs.replace(local_place(Path("/nowhere")), session=told.session)
    return told


def decide(place: Place, asked: JobSpec, **how: Any) -> tuple[JobSpec, Any]:
    return data.decide(place, asked, [HERE, THERE], root_gib=30, emit=how.get("emit", ignore))


def test_auto_gives_a_folder_and_says_what_streaming_would_save(cloud: Any) -> None:
    decided, plan = decide(cloud.place, job())
    assert (decided.data_strategy, decided.data_volumes) == ("local-cache", ())
    assert plan.warnings == (), "in three epochs a cache has paid for itself"
    cloud.bytes = 200 * GIB
    slow_disk = data.decide(
        cloud.place, job(), [offer("us-east-1a", "m7i.xlarge")], root_gib=500, emit=ignore
    )
    assert slow_disk[0].data_strategy == "local-cache", "a script is not made to stream"
    assert "direct-s3 would cost" in slow_disk[1].warnings[0]


def test_many_small_files_on_a_warm_volume_are_taken_with_a_fallback(cloud: Any) -> None:
    cloud.files = 1_300_000
    cloud.warm = [SimpleNamespace(id="vol-1", zone="us-east-1b"), SimpleNamespace(id="vol-2", zone="mars-1a")]
    decided, plan = decide(cloud.place, job())
    assert (plan.strategy, decided.data_fallback) == ("prewarmed-ebs", True)
    assert decided.data_volumes == (DataVolume(id="vol-1", zone="us-east-1b"),)
    assert near_data([HERE, THERE], decided) == [THERE, HERE]
    assert data.for_agent(decided, THERE) == {
        "location": "s3://bucket/set",
        "strategy": "prewarmed-ebs",
        "volume": "vol-1",
        "device": "/dev/sdf",
        "patience": 300.0,
        "otherwise": "local-cache",
    }
    assert data.for_agent(decided, HERE) == {"location": "s3://bucket/set", "strategy": "local-cache"}


def test_asked_for_a_volume_no_other_zone_and_no_other_way_is_taken(cloud: Any) -> None:
    cloud.warm = [
        SimpleNamespace(id="vol-1", zone="us-east-1b"),
        SimpleNamespace(id="vol-3", zone="us-east-1b"),
    ]
    decided, plan = decide(cloud.place, job(data_strategy="prewarmed-ebs"))
    assert plan.why == "as asked, on vol-1 in us-east-1b"
    assert near_data([HERE, THERE], decided) == [THERE]
    told = data.for_agent(decided, THERE)
    assert told is not None
    assert told["otherwise"] is None
    with pytest.raises(ValidationError, match="us-east-1b") as caught:
        near_data([HERE], decided)
    assert "data stage" in caught.value.next


def test_what_cannot_be_listed_from_here_is_left_to_the_machine(cloud: Any) -> None:
    said: list[Event] = []
    for error in (NotFound("nothing"), CloudError("no", service="s3", operation="o", code="AccessDenied")):
        cloud.error = error
        decided, _ = decide(cloud.place, job(), emit=said.append)
        assert decided.data_strategy == "local-cache"
    assert [event.warning for event in said if isinstance(event, Notice)] == [False, True]
    with pytest.raises(CloudError):
        decide(cloud.place, job(data_strategy="prewarmed-ebs"))


def test_too_big_for_the_disk_warns_and_names_both_sizes(cloud: Any) -> None:
    cloud.bytes = 900 * GIB
    decided, plan = decide(cloud.place, job())
    assert decided.data_strategy == "local-cache"
    assert "do not fit" in plan.warnings[0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data": "/data", "data_strategy": "direct-s3"}, "for data in S3"),
        ({"data_strategy": "existing-ebs"}, "--data-volume go together"),
        ({"data_strategy": "direct-s3", "data_volumes": (DataVolume(id="v", zone=""),)}, "go together"),
        ({"data_strategy": "prewarmed-ebs", "on": "i-0123456789abcdef0"}, "a machine of the job's own"),
        ({"data_strategy": "prewarmed-ebs"}, "No volume has been pre-warmed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    cloud: Any, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        decide(cloud.place, job(**changes))
    assert why in str(caught.value) + caught.value.next


def test_here_and_on_kept_machines_data_is_cached_without_a_listing() -> None:
    here = local_place(Path("/nowhere"))
    assert decide(here, job(on="local"))[0].data_strategy == "local-cache"
    assert decide(here, job(on="local", data_strategy="direct-s3"))[0].data_strategy == "direct-s3"
    with pytest.raises(ValidationError):
        decide(here, job(on="local", data_strategy="prewarmed-ebs"))


def test_local_data_and_jobs_of_before_are_read_as_ever(cloud: Any) -> None:
    decided, plan = decide(cloud.place, job(data="/data"))
    assert (decided.data_strategy, plan) == ("", None)
    assert data.for_agent(decided, HERE) == {"location": "/data"}
    old = msgspec.json.decode(spec.encode(job()))
    for name in ("data_strategy", "data_volumes", "data_fallback"):
        del old[name]
    assert data.for_agent(spec.decode(msgspec.json.encode(old)), HERE) == {"location": "s3://bucket/set"}
    assert data.for_agent(job(data=None, data_strategy=""), HERE) is None


def test_a_volume_that_cannot_be_attached_is_an_error_or_a_notice(
    cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runctl.providers.aws import volumes as ebs

    monkeypatch.setattr(ebs, "describe", lambda *_: None)
    asked = job(data_strategy="prewarmed-ebs", data_volumes=(DataVolume(id="vol-1", zone="us-east-1a"),))
    with pytest.raises(CloudError, match="vol-1 with the data could not be attached"):
        data.attach(cloud.place, asked, HERE, "i-1", emit=ignore)
    data.attach(cloud.place, asked, THERE, "i-1", emit=ignore)
    said: list[Event] = []
    with_fallback = msgspec.structs.replace(asked, data_fallback=True)
    data.attach(cloud.place, with_fallback, HERE, "i-1", emit=said.append)
    [notice] = [event for event in said if isinstance(event, Notice)]
    assert notice.warning
    assert "loaded from S3" in notice.text
