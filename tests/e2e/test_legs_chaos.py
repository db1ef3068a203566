"""Files to and from machines through a network that damages, cuts, lies and refuses: right, or reported."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fault_proxy import FaultProxy, Faults, Seen
from road import MIB, Command, Road, plain
from s3_server import S3Server

from runctl.agent.tree import PARTIAL
from runctl.errors import TrainctlError
from runctl.storage.staging import FOLDER

pytestmark = pytest.mark.xdist_group("legs")

BIG = 18 * MIB + 7
_PARCEL = re.compile("[0-9a-f]{40}")


@pytest.fixture(scope="module")
def machine(sandbox_cloud: Any) -> Iterator[str]:
    found = sandbox_cloud.running()
    yield found
    sandbox_cloud.client("ec2").terminate_instances(InstanceIds=[found])


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def road(sandbox: Any, machine: str, s3_server: S3Server, proxy: FaultProxy, tmp_path: Path) -> Road:
    """The sandbox's machines with a real S3 server, and the proxy before it."""
    cloud = msgspec.structs.replace(
        sandbox.cloud(),
        s3_endpoint=proxy.endpoint,
        s3_access_key=s3_server.access_key,
        s3_secret_key=s3_server.secret_key,
    )
    bucket, s3 = s3_server.new_bucket(), s3_server.client()
    return Road(sandbox, tmp_path, machine, machine, bucket, cloud=cloud, s3=s3, through=bucket)


def _made(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def _files(seed: int) -> dict[str, bytes]:
    chance = random.Random(seed)
    small = {f"{number % 3}/{number}": chance.randbytes(chance.randint(0, 3000)) for number in range(12)}
    return {**small, "medium": chance.randbytes(2 * MIB), "big": chance.randbytes(BIG)}


def _bytes_of_objects(seen: Seen) -> bool:
    return seen.method == "GET" and seen.moves and not seen.key.startswith("runctl/")


@pytest.mark.parametrize("threshold", [8 * MIB, pytest.param(2 * BIG, marks=pytest.mark.slow)])
def test_a_flipped_byte_of_a_big_object_never_arrives(road: Road, proxy: FaultProxy, threshold: int) -> None:
    from boto3.s3.transfer import TransferConfig

    data, name = os.urandom(BIG), road.live.name("flipped")
    path = _made(road.folder / name, {"big": data}) / "big"
    config = TransferConfig(multipart_threshold=threshold, multipart_chunksize=8 * MIB)
    road.s3.upload_file(str(path), road.bucket, f"{name}/big", Config=config)
    flips = [2]

    def flip(seen: Seen) -> str:
        if not _bytes_of_objects(seen) or not flips[0]:
            return ""
        flips[0] -= 1
        return "flip_down"

    proxy.script = flip
    there = road.inside(road.first, name)
    assert road.go(f"s3://{road.bucket}/{name}", road.at(road.first, name)).failed == ()
    assert flips == [0]
    assert "big came damaged: it starts anew" in road.said()
    assert plain(there) == {"big": data}
    proxy.script = lambda seen: "flip_down" if _bytes_of_objects(seen) else ""
    again = road.go(f"s3://{road.bucket}/{name}", road.at(road.first, f"{name}-never"))
    assert [(item.name, item.why) for item in again.failed] == [("big", "it came damaged each time")]
    assert not list(road.inside(road.first, f"{name}-never").iterdir())


def test_what_s3_puts_together_wrongly_is_reported_and_removed(road: Road, proxy: FaultProxy) -> None:
    """As if a piece were changed in the prefix before it is copied."""
    name = road.live.name("composed")
    _made(road.inside(road.first, name), {"big": os.urandom(BIG), "small": b"small"})

    def meddle(seen: Seen) -> None:
        if seen.method == "PUT" and "partNumber" in seen.query:
            for key in road.staged():
                if road.s3.head_object(Bucket=road.bucket, Key=key)["ContentLength"] == 16 * MIB:
                    road.s3.put_object(Bucket=road.bucket, Key=key, Body=os.urandom(16 * MIB))

    proxy.before = meddle
    report = road.go(road.at(road.first, name), f"s3://{road.bucket}/{name}")
    assert [item.name for item in report.failed] == ["big"]
    assert road.objects(f"{name}/") == {"small": b"small"}


WAYS = ("up", "down", "from-s3", "to-s3")
EVERY = [
    pytest.param(way, seed, marks=() if seed == 1 and way in {"up", "from-s3"} else pytest.mark.slow)
    for seed in range(1, 40)
    for way in WAYS
]


@pytest.mark.parametrize(("way", "seed"), EVERY)
def test_every_file_is_right_or_reported(road: Road, proxy: FaultProxy, seed: int, way: str) -> None:
    """And the same command on a good day finishes it, and leaves nothing behind."""
    files, name = _files(seed), road.live.name(way)
    there, bucket = road.at(road.first, name), f"s3://{road.bucket}/{name}"
    if way == "up":
        source, target = str(_made(road.folder / "source", files)), there
    elif way == "down":
        _made(road.inside(road.first, name), files)
        source, target = there, str(road.folder / "target")
    elif way == "to-s3":
        _made(road.inside(road.first, name), files)
        source, target = there, bucket
    else:
        for key, data in files.items():
            road.s3.put_object(Bucket=road.bucket, Key=f"{name}/{key}", Body=data)
        source, target = bucket, there

    def arrived() -> dict[str, bytes]:
        if way == "to-s3":
            return road.objects(f"{name}/")
        folder = Path(target) if way == "down" else road.inside(road.first, name)
        return plain(folder) if folder.is_dir() else {}

    proxy.seed, proxy.faults = seed, Faults.mixture(seed)
    missing: set[str] = set(files)
    try:
        report = road.go(source, target, empty=False)
        missing = {item.name for item in (*report.failed, *report.left_out)}
    except TrainctlError:
        pass  # reported as a whole
    for key, data in arrived().items():
        if not key.rpartition("/")[2].startswith(PARTIAL):
            assert data == files[key], key
    assert set(files) - set(arrived()) <= missing
    proxy.faults = Faults()
    assert road.go(source, target).failed == ()
    assert arrived() == files, "and no temporary file is left"
    assert not [key for key in road.staged() if key.startswith(FOLDER)]
    assert road.workers(road.first) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", ["up", "down"])
def test_no_part_is_sent_twice_but_what_was_in_flight(
    road: Road, proxy: FaultProxy, tmp_path: Path, way: str
) -> None:
    """SIGKILL at random moments, told by the bytes that have passed; then the same command finishes."""
    data, name, kills = os.urandom(100 * MIB + 5), road.live.name("killed"), 8
    chance = random.Random(way)
    home = tmp_path / "home"
    (home / "sandbox").mkdir(parents=True)
    assert road.cloud is not None
    record = msgspec.structs.replace(
        road.live.record,
        s3_endpoint=proxy.endpoint,
        s3_access_key=road.cloud.s3_access_key,
        s3_secret_key=road.cloud.s3_secret_key,
    )
    (home / "sandbox/cloud.json").write_bytes(msgspec.json.encode(record))
    (home / "user.toml").write_text(f'[aws]\nbucket = "{road.bucket}"\n')
    here, there = tmp_path / "here", road.inside(road.first, name)
    source, target = (here, there) if way == "up" else (there, here)
    _made(source, {"big": data})
    places = (str(here), road.at(road.first, name)) if way == "up" else (road.at(road.first, name), str(here))
    arguments = ("transfer", *places, "--on", "sandbox", "--parallel", "2", "--bandwidth-limit", "40MiB")
    command = Command(road, home, {"RUNCTL_CONFIG": str(home / "user.toml")})

    def passed() -> int:
        return sum(seen.sent + seen.got for seen in list(proxy.seen) if _is_part(seen))

    killed = 0
    for _ in range(kills):
        enough = passed() + chance.randrange(1, 30 * MIB)
        process = command.start(*arguments)
        road.live.until(lambda p=process, e=enough: passed() >= e or p.poll() is not None, 90)
        killed += process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    command.run(*arguments)
    assert killed >= 3
    assert plain(target) == {"big": data}
    assert road.staged() == []
    whole = [seen for seen in proxy.seen if _is_part(seen) and seen.complete]
    sent = Counter(seen.key for seen in whole if seen.method == "PUT")
    assert len(sent) == 7
    assert set(sent.values()) == {1}, "no piece that had come is sent again"
    got = sum(seen.method == "GET" for seen in whole)
    assert got <= 7 + 2 * killed, "two at a time are in flight"


def _is_part(seen: Seen) -> bool:
    return seen.moves and seen.key.startswith(FOLDER) and bool(_PARCEL.fullmatch(seen.key.rpartition("/")[2]))
