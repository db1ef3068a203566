"""One dataset read in every way: the same names, bytes and samples, and never another state of it."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runctl import datasets
from runctl.datasets.cache import LocalCache
from runctl.datasets.dataset import Dataset
from runctl.datasets.samples import Windows
from runctl.errors import ConfigError, Conflict, NotFound, ValidationError

BIG = 9 * (1 << 20) + 17
FILES = {
    "a.bin": random.Random(1).randbytes(100_000),
    "b/empty": b"",
    "b/one": b"1",
    "big.shard": random.Random(2).randbytes(BIG),
    "ö/ü 1+2.txt": b"names",
}


@dataclass
class Place:
    """FILES below a prefix of a bucket, and below a folder."""

    s3: Any
    bucket: str
    folder: Path
    cache: Path
    opened: list[Dataset] = field(default_factory=list[Dataset])

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/set"

    def open(self, way: str, **how: Any) -> Dataset:
        if way == "cache":
            how.setdefault("cache", self.cache)
        made = datasets.open(self.folder if way == "existing" else self.url, strategy=way, **how)
        self.opened.append(made)
        return made


@pytest.fixture
def place(sandbox_cloud: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for name in [name for name in os.environ if name.startswith(("RUNCTL_DATA", "AWS_"))]:
        monkeypatch.delenv(name)
    record = sandbox_cloud.record
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", record.s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", record.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", record.secret_key)
    monkeypatch.setenv("AWS_REGION", record.region)
    s3, bucket = sandbox_cloud.client("s3"), sandbox_cloud.name("bucket")
    s3.create_bucket(Bucket=bucket)
    folder = tmp_path / "set"
    for name, data in FILES.items():
        s3.put_object(Bucket=bucket, Key=f"set/{name}", Body=data)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    s3.put_object(Bucket=bucket, Key="set/mark/", Body=b"")
    s3.put_object(Bucket=bucket, Key="setting/other", Body=b"not ours")
    made = Place(s3, bucket, folder, tmp_path / "cache")
    yield made
    for dataset in made.opened:
        dataset.close()


WAYS = ["existing", "direct", "cache"]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_yields_the_same(place: Place, way: str) -> None:
    dataset = place.open(way)
    assert dataset.strategy == way
    assert dataset.names == list(FILES)
    assert dataset.sizes == {name: len(data) for name, data in FILES.items()}
    for _ in range(2):
        assert dict(dataset) == FILES
    assert dataset.read("a.bin", 99_990, 100) == FILES["a.bin"][99_990:]
    assert dataset.read("big.shard", 8_388_600, 16) == FILES["big.shard"][8_388_600:8_388_616]
    assert dataset.read("big.shard", BIG) == b""
    with dataset.open("big.shard") as file:
        file.seek(-20, os.SEEK_END)
        assert file.read() == FILES["big.shard"][-20:]
        file.seek(5)
        assert file.read(3_000_000) == FILES["big.shard"][5:3_000_005]
    windows = Windows(dataset.entries, 70_000)
    numbers = random.Random(3).sample(range(len(windows)), len(windows))
    whole = [FILES[dataset.names[windows[n].file]][windows[n].start :][:70_000] for n in numbers]
    assert list(dataset.fetch(windows[number] for number in numbers)) == whole
    with pytest.raises(NotFound):
        dataset.read("nothing")


def test_versions_are_those_of_the_whole_project(place: Place) -> None:
    from runctl.agent import objects

    direct, cached, existing = (place.open(way) for way in ["direct", "cache", "existing"])
    found = place.s3.list_objects_v2(Bucket=place.bucket, Prefix="set/")["Contents"]
    listed = [
        objects.Entry(item["Key"].removeprefix("set/"), item["Size"], item["ETag"].strip('"'), 0.0)
        for item in found
        if item["Key"] != "set/mark/"
    ]
    assert direct.version == cached.version == objects.version(listed)
    assert direct.layout == existing.layout
    place.s3.put_object(Bucket=place.bucket, Key="set/b/one", Body=b"2")
    assert place.open("direct").version != direct.version
    assert place.open("direct").layout == direct.layout


@pytest.mark.parametrize("way", ["direct", "cache"])
@pytest.mark.parametrize("name", ["a.bin", "big.shard"])
def test_an_object_that_was_replaced_is_not_served_for_the_old_one(place: Place, way: str, name: str) -> None:
    dataset = place.open(way)
    place.s3.put_object(Bucket=place.bucket, Key=f"set/{name}", Body=FILES[name][::-1])
    with pytest.raises(Conflict):
        dataset.read(name)
    with pytest.raises(Conflict):
        dataset.read(name, 10, 10)
    place.s3.delete_object(Bucket=place.bucket, Key=f"set/{name}")
    with pytest.raises(NotFound):
        dataset.read(name)


def test_what_is_cached_needs_no_s3(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first = place.open("cache")
    assert dict(first) == FILES
    again = place.open("cache", verify=True)
    for name in FILES:
        place.s3.delete_object(Bucket=place.bucket, Key=f"set/{name}")
    assert dict(again) == FILES
    assert again.read("big.shard", 5, 5) == FILES["big.shard"][5:10]


def test_a_cache_without_room_serves_all_the_same(place: Place) -> None:
    dataset = place.open("cache", cache=LocalCache(place.cache, 50_000))
    assert dict(dataset) == FILES
    assert dataset.read("big.shard", 7, 7) == FILES["big.shard"][7:14]
    with pytest.raises(ValidationError, match="does not fit"):
        dataset.folder()


def test_folders(place: Place) -> None:
    assert place.open("existing").folder() == place.folder
    folder = place.open("cache").folder()
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert found == FILES
    assert not (folder / "a.bin").stat().st_mode & 0o222
    with pytest.raises(ValidationError, match="no folder"):
        place.open("direct").folder()


def test_the_agents_folder_is_taken_for_the_location_it_has(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError):
        datasets.open()
    monkeypatch.setenv("RUNCTL_DATA_LOCATION", place.url + "/")
    assert datasets.open().strategy == "direct"
    with pytest.raises(ValidationError):
        datasets.open(place.url, strategy="existing-ebs")
    monkeypatch.setenv("RUNCTL_DATA_DIR", str(place.folder))
    assert datasets.open().folder() == place.folder
    assert datasets.open(place.url).folder() == place.folder
    assert datasets.open(place.url, strategy="prewarmed-ebs").folder() == place.folder
    assert datasets.open(place.url, strategy="direct-s3").strategy == "direct"
    assert datasets.open(f"s3://{place.bucket}/setting").strategy == "direct"


def test_what_cannot_be_opened_is_refused(place: Place, tmp_path: Path) -> None:
    for wrong in ["s3://" + place.bucket + "/nothing", tmp_path / "nothing"]:
        with pytest.raises(NotFound):
            datasets.open(wrong)
    for location, strategy in [
        ("i-0123456789abcdef0:/data", "auto"),
        (place.url, "magic"),
        (tmp_path, "cache"),
    ]:
        with pytest.raises(ValidationError):
            datasets.open(location, strategy=strategy)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        place.open("cache", cache=tmp_path / "file")


@pytest.mark.parametrize("way", WAYS)
def test_forked_and_unpickled_datasets_read(place: Place, way: str) -> None:
    dataset = pickle.loads(pickle.dumps(place.open(way)))
    place.opened.append(dataset)
    script = (
        "import os, pickle, sys; from runctl.datasets.dataset import Dataset\n"
        "dataset = pickle.loads(sys.stdin.buffer.read())\n"
        "for _ in range(2):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        print(sum(len(data) for _, data in dataset), flush=True); os._exit(0)\n"
        "    assert os.waitpid(pid, 0)[1] == 0\n"
        "dataset.read('a.bin')\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    try: dataset.read('b/one')\n"
        "    except Exception as error: print(error.kind)\n"
        "    else: print('read')\n"
        "    sys.stdout.flush(); os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(dataset),
        capture_output=True,
        timeout=60,
        check=True,
    )
    size = str(sum(map(len, FILES.values())))
    expected = {"existing": "read", "cache": "read", "direct": "ConfigError"}[way]
    assert done.stdout.decode().split() == [size, size, expected]
