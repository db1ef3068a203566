"""A job's code and data on their way to its store: once, again where they are lost, never before its row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl.errors import NotFound, TrainctlError
from runctl.events import Event, Notice
from runctl.jobs import spec as specs
from runctl.jobs import start
from runctl.jobs.code import send_code
from runctl.jobs.place import AwsSettings, Place, cloud_place
from runctl.jobs.plan import Plan
from runctl.jobs.spec import Code, JobSpec
from runctl.ledger import JobRecord, Ledger
from runctl.model import JobId, JobState, Market, Offer
from runctl.storage import bundle


class Making:
    """A project, a bucket's name and a ledger, of which a job is to be made."""

    def __init__(self, live: Any, ledger: Ledger, folder: Path) -> None:
        self.live, self.ledger = live, ledger
        self.root = folder / "project"
        self.root.mkdir()
        (self.root / "train.py").write_text(f"print('{live.name('unlike any other')}')\n")
        (folder / "set").mkdir()
        (folder / "set" / "one.csv").write_text("1,2\n")
        self.job = JobId(live.name("job"))
        self.spec = JobSpec(
            name="walk",
            on="sandbox",
            root=str(self.root),
            workdir=".",
            command=("python3", "train.py"),
            instance_type="g5.xlarge",
            data=str(folder / "set"),
        )
        self.bucket = live.name("bucket")
        self.place: Place = cloud_place(live.cloud(), self.job, self.spec, AwsSettings(), bucket=self.bucket)
        self.told: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.told.append(event.text)

    def send(self) -> Code:
        return send_code(self.place, bundle.plan(self.root), self.emit)

    def lies(self, key: str) -> bytes:
        return self.live.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def create(self) -> None:
        offer = Offer("aws", "g5.xlarge", "us-east-1a", Market.SPOT, None)
        plan = Plan(
            job=self.job,
            spec=self.spec,
            offers=(offer,),
            disk=None,
            disk_gib=0,
            bucket=self.bucket,
            bucket_is_new=True,
            code_files=1,
            code_bytes=1,
            warnings=(),
        )
        start.create(self.ledger, plan, self.place, bundle.plan(self.root), emit=self.emit)

    def objects(self) -> set[str]:
        found = self.live.client("s3").list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {item["Key"] for item in found}

    def delete(self, key: str) -> None:
        self.live.client("s3").delete_object(Bucket=self.bucket, Key=key)

    def sent_times(self) -> int:
        return sum("sent the code" in text for text in self.told)


@pytest.fixture
def making(sandbox_cloud: Any, tmp_path: Path) -> Iterator[Making]:
    with Ledger.open(tmp_path / "home") as ledger:
        yield Making(sandbox_cloud, ledger, tmp_path)
    sandbox_cloud.control.clear_faults()


def test_code_that_is_unchanged_is_not_sent_again(making: Making) -> None:
    first = making.send()
    assert making.send() == first
    assert making.sent_times() == 1
    assert making.told[-1] == "the code is unchanged and was not sent again"


def test_code_that_a_buckets_lifecycle_removed_is_sent_again(making: Making) -> None:
    first = making.send()
    making.delete(first.key)
    assert making.send() == first
    assert making.sent_times() == 2
    assert hashlib.sha256(making.lies(first.key)).hexdigest() == first.sha256


@pytest.mark.parametrize("checksum", [None, "SHA256", "CRC32"])
def test_what_somebody_else_put_in_the_place_of_the_code_is_replaced(
    making: Making, checksum: str | None
) -> None:
    """Everything in the bucket is theirs to write: no word of it says what the code should be."""
    first = making.send()
    told = {"ChecksumAlgorithm": checksum} if checksum else {}
    for key in making.objects():
        making.live.client("s3").put_object(Bucket=making.bucket, Key=key, Body=b"theirs", **told)
    assert making.send() == first
    assert making.sent_times() == 2
    assert hashlib.sha256(making.lies(first.key)).hexdigest() == first.sha256


def test_the_code_of_a_job_stands_in_the_ledger_whatever_the_bucket_says(making: Making) -> None:
    making.create()
    code = specs.decode(making.ledger.jobs.get(making.job).spec).code
    assert code is not None
    for key in making.objects():
        making.live.client("s3").put_object(Bucket=making.bucket, Key=key, Body=b"theirs")
    start.stage(making.ledger, making.place, making.ledger.jobs.get(making.job), emit=making.emit)
    assert specs.decode(making.ledger.jobs.get(making.job).spec).code == code
    assert len(making.ledger.jobs.get(making.job).seal) == 64
    assert all(
        making.ledger.jobs.get(making.job).seal.encode() not in making.lies(key) for key in making.objects()
    )


def test_nothing_lies_in_the_bucket_before_the_job_is_in_the_ledger(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    add = type(making.ledger.jobs).add

    def watched(*arguments: Any) -> None:
        buckets = [row["Name"] for row in making.live.client("s3").list_buckets()["Buckets"]]
        seen.append(making.objects() if making.bucket in buckets else set())
        add(*arguments)

    monkeypatch.setattr(type(making.ledger.jobs), "add", watched)
    making.create()
    assert seen == [set()]
    prefix = f"runctl/jobs/{making.job}/"
    assert {prefix + "spec.json", prefix + "data/one.csv"} <= making.objects()


def test_who_comes_after_a_death_stages_what_is_missing_once(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing of ours runs after it."""

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(start, "send_code", die)
        with pytest.raises(Killed):
            making.create()
    job = making.ledger.jobs.get(making.job)
    assert job.state is JobState.PLANNED
    for _ in range(2):
        start.stage(making.ledger, making.place, making.ledger.jobs.get(making.job), emit=making.emit)
    assert making.sent_times() == 1
    spec = specs.decode(making.ledger.jobs.get(making.job).spec)
    assert spec.code is not None
    assert spec.code.key in making.objects()
    assert spec.data == f"s3://{making.bucket}/runctl/jobs/{making.job}/data/"
    assert making.place.store.read("data/one.csv") == b"1,2\n"


def test_code_that_was_never_sent_and_is_not_here_is_told(making: Making, tmp_path: Path) -> None:
    making.live.client("s3").create_bucket(Bucket=making.bucket)
    making.root.rename(tmp_path / "elsewhere")
    making.ledger.jobs.add(_record(making), "asked for")
    with pytest.raises(NotFound, match="was not sent"):
        start.stage(making.ledger, making.place, making.ledger.jobs.get(making.job))


def test_a_store_that_refuses_leaves_a_job_that_failed(making: Making) -> None:
    making.live.client("s3").create_bucket(Bucket=making.bucket)
    making.live.control.add_fault("s3", "error", operation="PutObject", code="AccessDenied", status=403)
    with pytest.raises(TrainctlError):
        making.create()
    assert making.ledger.jobs.get(making.job).state is JobState.FAILED
    assert making.objects() == set()


def _record(making: Making) -> JobRecord:
    now = making.place.clock.now()
    return JobRecord(
        id=making.job,
        name="walk",
        spec=specs.encode(making.spec),
        state=JobState.PLANNED,
        target="sandbox",
        cloud=making.place.cloud_key,
        folder=None,
        store="",
        project="p",
        user="u",
        created=now,
        updated=now,
    )
