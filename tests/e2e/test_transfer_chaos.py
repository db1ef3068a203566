"""Nothing wrong ever arrives: transfers through a proxy that spoils, tears, loses and delays.

After each seeded run every file at the destination is whole, or is reported as failed; nothing temporary is
left there, neither files nor uploads in parts; and when all is well again, the same transfer finishes.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, Faults, Seen
from s3_server import S3Server

from runctl.agent import multipart
from runctl.agent import s3 as agent_s3
from runctl.errors import TrainctlError
from runctl.retry import RetryPolicy
from runctl.storage import download, s3, transfer, tries, upload
from runctl.storage.bulk import BulkStore
from runctl.storage.s3 import Credentials, S3Access
from runctl.storage.transfer import TransferOptions, TransferReport

AT_ONCE = 6
"""Runs that wait beside each other: most of a run's time it waits for its next try."""
DEFAULT_SEEDS = 12
SEEDS = 300
REPORTED = 0.75
"""How many of the runs must come to a report at least."""
BIG = 5 << 20
"""Bytes of a part here: the least that S3 takes, so that hundreds of runs do not move many GiB."""


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts, and waits of milliseconds where there are seconds; the number of tries stays."""
    for module in (download, upload):
        monkeypatch.setattr(module, "PIECE", BIG)
    monkeypatch.setattr(tries, "RetryPolicy", _hurried)
    monkeypatch.setattr(download, "_STRETCH", BIG)
    monkeypatch.setattr(multipart, "PART", BIG)
    monkeypatch.setattr(
        agent_s3.time, "sleep", lambda seconds, sleep=agent_s3.time.sleep: sleep(seconds / 20)
    )
    real = s3._retry

    def retry(endpoint: str | None) -> object:
        settings = dict(real(endpoint))
        backoff = settings["backoff"]
        return {
            **settings,
            "backoff": {**backoff, **{name: backoff[name] / 20 for name in ("init_backoff", "max_backoff")}},
        }

    monkeypatch.setattr(s3, "_retry", retry)


def _hurried(**settings: float) -> RetryPolicy:
    return RetryPolicy(**settings, first_wait=0.01, longest_wait=0.5)  # type: ignore[arg-type]


class Run:
    """One seed: some files, a mixture of faults, and perhaps a file that changes on the way."""

    def __init__(self, seed: int, server: S3Server, folder: Path) -> None:
        self.seed = seed
        self.chance = random.Random(f"run {seed}")
        self.server = server
        self.folder = folder
        self.client = server.client()
        self.bucket = server.new_bucket()
        self.versions: dict[str, list[bytes]] = {}
        """All that a file may rightly be: what it was first, and what it was changed to."""
        self.changes = self.chance.random() < 0.4
        self.reported = False
        for number in range(self.chance.randint(1, 12)):
            name = self.chance.choice(["", "a/", "a/b/", "ü/"]) + f"file {number}"
            self.versions[name] = [self.chance.randbytes(_size(self.chance, number))]

    def access(self, endpoint: str) -> S3Access:
        keys = Credentials(self.server.access_key, self.server.secret_key)
        return S3Access(endpoint=endpoint, region="us-east-1", credentials=lambda: keys)

    def options(self) -> TransferOptions:
        return TransferOptions(state=self.folder / "state", parallel=self.chance.choice([1, 4, 16]))

    def changing(self, write: Callable[[str, bytes], None]) -> Callable[[Seen], None]:
        """Changes one file after a few of its requests, once."""
        victim = max(self.versions, key=lambda name: len(self.versions[name][0]))
        after = self.chance.randint(1, 4)
        lock, count = threading.Lock(), 0

        def before(seen: Seen) -> None:
            nonlocal count
            if not self.changes or not seen.moves or not seen.key.endswith(victim):
                return
            with lock:
                count += 1
                if count == after:
                    fresh = self.chance.randbytes(len(self.versions[victim][0]) + self.chance.choice([0, 1]))
                    self.versions[victim].append(fresh)
                    write(victim, fresh)

        return before

    def through_faults(
        self, way: Callable[[str], TransferReport], write: Callable[[str, bytes], None]
    ) -> TransferReport | None:
        """None where not even a plan could be made, which is said too."""
        with FaultProxy(self.server.endpoint, seed=self.seed, faults=Faults.mixture(self.seed)) as proxy:
            proxy.before = self.changing(write)
            with contextlib.suppress(TrainctlError):
                return way(proxy.endpoint)
        return None

    def judge(self, there: dict[str, bytes], report: TransferReport | None) -> None:
        """What is there is whole, and what is not is named."""
        self.reported = report is not None
        assert set(there) <= set(self.versions), f"seed {self.seed}: files that nobody sent"
        for name, data in there.items():
            right = data in self.versions[name]
            assert right, f"seed {self.seed}: {name} is wrong"
        if report is not None:
            missing = set(self.versions) - set(there)
            assert missing <= {one.name for one in report.failed}, f"seed {self.seed}: missing and not named"
            assert not report.left_out

    def judge_healed(self, there: dict[str, bytes], report: TransferReport) -> None:
        assert not report.failed, f"seed {self.seed}: {report.failed}"
        finished = there == {name: versions[-1] for name, versions in self.versions.items()}
        assert finished, f"seed {self.seed}"

    def objects(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {
            one["Key"].removeprefix("data/"): self.client.get_object(Bucket=self.bucket, Key=one["Key"])[
                "Body"
            ].read()
            for one in listed
        }

    def put(self, name: str, data: bytes) -> None:
        """As a client would that sends big objects in parts."""
        key = f"data/{name}"
        if len(data) <= BIG or self.seed % 3 == 0:
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
            return
        begun = self.client.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]
        sent = []
        for number, start in enumerate(range(0, len(data), BIG), 1):
            part = self.client.upload_part(
                Bucket=self.bucket, Key=key, UploadId=begun, PartNumber=number, Body=data[start : start + BIG]
            )
            sent.append({"PartNumber": number, "ETag": part["ETag"]})
        self.client.complete_multipart_upload(
            Bucket=self.bucket, Key=key, UploadId=begun, MultipartUpload={"Parts": sent}
        )

    def open_uploads(self) -> list[str]:
        answer = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [one["Key"] for one in answer.get("Uploads", [])]

    def down(self) -> None:
        for name, (data,) in self.versions.items():
            self.put(name, data)
        target, options = self.folder / "there", self.options()

        def way(endpoint: str) -> TransferReport:
            with contextlib.closing(BulkStore(self.bucket, "data", self.access(endpoint))) as store:
                return transfer.carry_out(transfer.plan_download(store, target, options))

        report = self.through_faults(way, self.put)
        self.judge(_files(target), report)
        assert not list(target.rglob(".runctl-partial-*")), f"seed {self.seed}"
        self.judge_healed(_files(target) if (healed := way(self.server.endpoint)) else {}, healed)

    def up(self) -> None:
        source, options = self.folder / "here", self.options()

        def write(name: str, data: bytes) -> None:
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

        for name, (data,) in self.versions.items():
            write(name, data)

        def way(endpoint: str) -> TransferReport:
            with contextlib.closing(BulkStore(self.bucket, "data", self.access(endpoint))) as store:
                return transfer.carry_out(transfer.plan_upload(source, store, options))

        report = self.through_faults(way, write)
        self.judge(self.objects(), report)
        assert not self.open_uploads(), f"seed {self.seed}"
        self.judge_healed(self.objects() if (healed := way(self.server.endpoint)) else {}, healed)
        assert not self.open_uploads(), f"seed {self.seed}"


def _size(chance: random.Random, number: int) -> int:
    """Bytes; a run has one file of some parts at most."""
    if number == 0 and chance.random() < 0.6:
        return chance.choice([BIG, BIG + 1, chance.randint(BIG, 4 * BIG)])
    return chance.choice([0, 1, chance.randint(2, 4000), chance.randint(4000, 200_000)])


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def _carry_out(direction: str, seeds: range, server: S3Server, folder: Path) -> None:
    def one(seed: int) -> bool:
        run = Run(seed, server, folder / f"{direction}-{seed}")
        try:
            run.down() if direction == "down" else run.up()
        finally:
            run.client.close()
        return run.reported

    with ThreadPoolExecutor(AT_ONCE) as pool:
        reported = [done.result() for done in [pool.submit(one, seed) for seed in seeds]]
    # A run that ends without a report has nothing to be judged by but what arrived.
    assert sum(reported) >= len(reported) * REPORTED, f"only {sum(reported)} of {len(reported)} told"


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("direction", ["down", "up"])
def test_every_file_is_right_or_reported(s3_server: S3Server, tmp_path: Path, direction: str) -> None:
    _carry_out(direction, range(DEFAULT_SEEDS), s3_server, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("direction", ["down", "up"])
def test_every_file_is_right_or_reported_many_times(
    s3_server: S3Server, tmp_path: Path, direction: str
) -> None:
    _carry_out(direction, range(DEFAULT_SEEDS, SEEDS), s3_server, tmp_path)
