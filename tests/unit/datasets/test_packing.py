"""Packed datasets: the same files in every way of reading; half a set or a damaged one is never served."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy
from hypothesis import given
from hypothesis import strategies as st

from runctl import datasets
from runctl.cli.main import run
from runctl.datasets import packs
from runctl.datasets.dataset import Dataset
from runctl.datasets.samples import Windows
from runctl.errors import Conflict, NotFound, TransferError, ValidationError
from runctl.storage.entries import Entry

MIB = 1 << 20
FILES = {
    "a/big.bin": random.Random(1).randbytes(2 * MIB + 4321),
    **{f"c/{number:03}.jpg": random.Random(number).randbytes(20_000 + number) for number in range(90)},
    "empty": b"",
    "ö/ü 1+2.txt": b"names",
}
WAYS = ["existing", "direct", "cache"]


class Desk:
    """FILES in a folder and below a prefix, and the command line."""

    def __init__(self, server: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.bucket, self.s3 = server.new_bucket(), server.client()
        self.folder, self._capsys = folder, capsys
        self.opened: list[Dataset] = []
        for name, data in FILES.items():
            (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "set" / name).write_bytes(data)

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/packed"

    def put_source(self) -> str:
        for name, data in FILES.items():
            self.s3.put_object(Bucket=self.bucket, Key=f"plain/{name}", Body=data)
        return f"s3://{self.bucket}/plain"

    def pack(self, source: object, target: object, *words: str, code: int = 0) -> dict[str, Any]:
        self._capsys.readouterr()
        arguments = ["data", "pack", str(source), str(target), "--output", "json", "--pack-size", "1MiB"]
        got = run([*arguments, *words])
        written = self._capsys.readouterr()
        assert got == code, written.err
        return json.loads(written.out) if written.out else json.loads(written.err.splitlines()[-1])

    def objects(self) -> dict[str, bytes]:
        listed = self.s3.list_objects_v2(Bucket=self.bucket, Prefix="packed/")["Contents"]
        bodies = {
            one["Key"]: self.s3.get_object(Bucket=self.bucket, Key=one["Key"])["Body"] for one in listed
        }
        return {key.removeprefix("packed/"): body.read() for key, body in bodies.items()}

    def fetch(self) -> Path:
        """The packed prefix as a folder."""
        target = self.folder / "fetched"
        for name, data in self.objects().items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(data)
        return target

    def open(self, way: str, place: object = None, **how: Any) -> Dataset:
        if way == "cache":
            how.setdefault("cache", self.folder / "cache")
        made = datasets.open(
            str(place or (self.fetch() if way == "existing" else self.url)), strategy=way, **how
        )
        self.opened.append(made)
        return made


@pytest.fixture
def desk(
    s3_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    for name in [name for name in os.environ if name.startswith(("RUNCTL_", "AWS_"))]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RUNCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNCTL_CONFIG", str(tmp_path / "user.toml"))
    monkeypatch.chdir(tmp_path)
    made = Desk(s3_server, tmp_path, capsys)
    yield made
    made.s3.close()
    for dataset in made.opened:
        dataset.close()


@pytest.mark.parametrize("mixed", [False, True])
def test_every_way_reads_the_files_that_were_packed(desk: Desk, mixed: bool) -> None:
    report = desk.pack("set", desk.url, *(["--mix"] if mixed else []))
    assert (report["files"], report["bytes"]) == (len(FILES), sum(map(len, FILES.values())))
    assert report["packs"] == report["written_packs"] == len(desk.objects()) - 1 > 3
    plain = datasets.open("set")
    for way in WAYS:
        dataset = desk.open(way)
        assert (dataset.names, dataset.sizes, dataset.version) == (plain.names, plain.sizes, plain.version)
        for _ in range(2):
            assert dict(dataset) == FILES
        assert dataset.read("a/big.bin", MIB - 5, 10) == FILES["a/big.bin"][MIB - 5 : MIB + 5]
        with dataset.open("a/big.bin") as file:
            file.seek(MIB - 100)
            assert file.read(MIB + 200) == FILES["a/big.bin"][MIB - 100 : 2 * MIB + 100]
        windows = Windows(dataset.entries, 7_000)
        numbers = random.Random(3).sample(range(len(windows)), 60)
        whole = [FILES[dataset.names[windows[n].file]][windows[n].start :][:7_000] for n in numbers]
        assert list(dataset.fetch(windows[number] for number in numbers)) == whole
        with pytest.raises(NotFound):
            dataset.read("runctl-packs.index")
        with pytest.raises(ValidationError, match="no folder"):
            dataset.folder()


def test_the_same_source_gives_the_same_packs_from_everywhere(desk: Desk) -> None:
    source = desk.put_source()
    desk.pack(source, desk.url)
    first = desk.objects()
    assert desk.open("direct").version == datasets.open(source, strategy="direct").version
    desk.pack(source, desk.folder / "here")
    here = {
        path.relative_to(desk.folder / "here").as_posix(): path.read_bytes()
        for path in (desk.folder / "here").rglob("*")
        if path.is_file()
    }
    assert here == first
    assert dict(desk.open("existing", desk.folder / "here")) == FILES
    again = desk.pack(source, desk.url)
    assert (again["written_packs"], again["kept_packs"]) == (0, again["packs"])
    assert desk.objects() == first


def test_only_what_is_missing_or_damaged_is_written_again(desk: Desk) -> None:
    source = desk.put_source()
    desk.pack(source, desk.url)
    first = desk.objects()
    names = sorted(name for name in first if name != packs.INDEX)
    desk.s3.delete_object(Bucket=desk.bucket, Key=f"packed/{packs.INDEX}")
    desk.s3.delete_object(Bucket=desk.bucket, Key=f"packed/{names[1]}")
    desk.s3.put_object(Bucket=desk.bucket, Key=f"packed/{names[2]}", Body=bytes(len(first[names[2]])))
    report = desk.pack(source, desk.url)
    assert report["kept_packs"] == len(names) - 2
    assert desk.objects() == first
    (desk.folder / "set/c/005.jpg").write_bytes(b"x" * 20_005)  # the same size: only its bytes tell
    report = desk.pack("set", desk.folder / "here")
    (desk.folder / "set/c/005.jpg").write_bytes(b"y" * 20_005)
    report = desk.pack("set", desk.folder / "here")
    assert (report["written_packs"], report["other_packs"]) == (1, 1)
    assert desk.open("existing", desk.folder / "here").read("c/005.jpg") == b"y" * 20_005


@pytest.mark.parametrize("fault", ["no index", "cut index", "flipped index", "no pack", "cut pack"])
def test_a_set_that_is_not_whole_is_not_opened(desk: Desk, fault: str) -> None:
    desk.pack("set", "here")
    index = desk.folder / "here" / packs.INDEX
    pack = min((desk.folder / "here/packs").iterdir())
    data = index.read_bytes()
    if fault == "no index":
        index.unlink()
        assert packs.INDEX not in desk.open("existing", "here").names
        assert not set(FILES) & set(desk.open("existing", "here").names)
        return
    if fault == "cut index":
        index.write_bytes(data[:-1])
    elif fault == "flipped index":
        index.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elif fault == "no pack":
        pack.unlink()
    else:
        os.truncate(pack, pack.stat().st_size - 1)
    with pytest.raises(TransferError, match=r"not whole|damaged"):
        desk.open("existing", "here")


def test_damaged_bytes_are_not_served(desk: Desk) -> None:
    desk.pack("set", desk.url)
    name = max(name for name in desk.objects() if name != packs.INDEX)
    body = bytearray(desk.objects()[name])
    body[1_000] ^= 1
    desk.s3.put_object(Bucket=desk.bucket, Key=f"packed/{name}", Body=bytes(body))
    for way in WAYS:
        dataset = desk.open(way)
        with pytest.raises(TransferError, match="damaged"):
            dict(dataset)


def test_processes_of_a_machine_fetch_each_pack_once(desk: Desk, s3_server: Any) -> None:
    desk.pack("set", desk.url)
    script = (
        "import sys; from runctl import datasets\n"
        "with datasets.open(sys.argv[1], cache=sys.argv[2]) as dataset:\n"
        "    assert dataset.strategy == 'cache'\n"
        "    print(sum(len(data) for _, data in dataset))\n"
    )
    with FaultProxy(s3_server.endpoint) as proxy:
        environment = {**os.environ, **s3_server.environment(proxy.endpoint)}
        running = [
            subprocess.Popen(
                [sys.executable, "-c", script, desk.url, str(desk.folder / "shared")],
                env=environment,
                stdout=subprocess.PIPE,
            )
            for _ in range(3)
        ]
        size = sum(map(len, FILES.values()))
        assert [int(one.communicate(timeout=60)[0]) for one in running] == [size] * 3
        assert size <= sum(one.got for one in proxy.seen if ".pack" in one.key) < size * 1.1


def test_names_and_places_that_could_hurt_are_refused(desk: Desk) -> None:
    (desk.folder / "set/.env").write_text("KEY=1")
    (desk.folder / "set/out").symlink_to("/etc/hostname")
    report = desk.pack("set", desk.url, code=1)
    assert sorted(item["name"] for item in report["left_out"]) == [".env", "out"]
    assert desk.open("direct").names == list(FILES)
    desk.pack("set", "with", "--allow-secret", ".env", code=1)
    assert ".env" in desk.open("existing", "with").names
    desk.s3.put_object(Bucket=desk.bucket, Key="odd/a", Body=b"1")
    desk.s3.put_object(Bucket=desk.bucket, Key="odd/tab\tname", Body=b"2")
    report = desk.pack(f"s3://{desk.bucket}/odd", "odd", code=1)
    assert [item["name"] for item in report["left_out"]] == ["tab\\tname"]
    for words in (
        ("set", "set/packed"),
        (desk.url, "again"),
        ("set", "x", "--pack-size", "5"),
        ("none", "x"),
    ):
        desk.pack(*words, code=1)


def test_a_dry_run_writes_nothing(desk: Desk) -> None:
    plan = desk.pack("set", "here", "--dry-run")
    assert (plan["files"], plan["packs"]) == (len(FILES), 4)
    assert not (desk.folder / "here").exists()


def test_a_file_that_changes_meanwhile_ends_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from runctl.datasets import packing
    from runctl.storage.location import LocalPath
    from runctl.storage.s3 import S3Access

    plan = packing.plan(
        LocalPath(desk.folder / "set"), LocalPath(desk.folder / "here"), packing.PackOptions(), S3Access()
    )
    path = desk.folder / "set/c/007.jpg"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(Conflict, match="changed"):
        packing.carry_out(plan)
    assert not (desk.folder / "here" / packs.INDEX).exists()


@given(sizes=st.lists(st.integers(0, 40), max_size=60), pack_size=st.integers(1, 30), seed=st.integers(0, 5))
def test_a_lay_out_holds_every_byte_once(sizes: list[int], pack_size: int, seed: int) -> None:
    files = [Entry(f"{number:03}", size, 0) for number, size in enumerate(sizes)]
    order = random.Random(seed).sample(range(len(files)), len(files))
    planned = packs.lay_out(files, order, pack_size)
    assert all(0 < pack.size <= pack_size for pack in planned)
    pieces = [piece for pack in planned for piece in pack.pieces]
    assert [n for n in order if sizes[n]] == list(dict.fromkeys(piece.file for piece in pieces))
    for number, size in enumerate(sizes):
        mine = [piece for piece in pieces if piece.file == number]
        assert [piece.start for piece in mine] == [sum(p.length for p in mine[:n]) for n in range(len(mine))]
        assert sum(piece.length for piece in mine) == size
        assert len(mine) <= 1 or size > pack_size
    assert all(re.fullmatch(r"[0-9a-f]{16}", pack.state) for pack in planned)
