"""Both sides of a transfer in one process, with a courier that loses, tears and delays."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.agent import archive, growing, mac, parcel, report, tree
from runctl.agent.carry import perform
from runctl.agent.parcel import Slice, TornParcel, seal, unseal
from runctl.agent.presigned import Missing, Pace
from runctl.agent.report import Report

PIECE = 1000
KEY = "5a" * 32


class Bag:
    """Objects by URL; a stand-in for the presigned ones."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.puts = 0
        self.before_put: Any = lambda url: None

    def put(self, url: str, data: bytes) -> str:
        self.before_put(url)
        self.puts += 1
        self.objects[url] = bytes(data)
        return f"etag-{url}"

    def get(
        self, url: str, span: tuple[int, int] | None = None, etag: str = "", most: int | None = None
    ) -> bytes:
        if url not in self.objects:
            raise Missing(url)
        data = self.objects[url]
        return data if span is None else data[span[0] : span[0] + span[1]]


def parcels_of(files: list[Any], done: dict[int, list[Any]] | None = None) -> list[dict[str, Any]]:
    """Small files together, big ones in pieces."""
    found: list[dict[str, Any]] = []
    small = [[number, 0, file[1]] for number, file in enumerate(files) if file[1] <= PIECE]
    if small:
        found.append({"url": "small", "name": "small", "slices": small})
    for number, file in enumerate(files):
        for start in range(0, file[1], PIECE) if file[1] > PIECE else ():
            length = min(PIECE, file[1] - start)
            if [start, length] not in (done or {}).get(number, []):
                name = f"{number}-{start}"
                found.append({"url": name, "name": name, "slices": [[number, start, length]]})
    return found


def side(role: str, root: Path, files: list[Any], bag: Bag, **more: Any) -> dict[str, Any]:
    """Run one side to its end; its last word."""
    told: list[dict[str, Any]] = []
    spec = {"role": role, "root": str(root), "files": files, "threads": 3, **more}
    spec.setdefault("parcels", parcels_of(files))
    stopping = more.get("stopping") or threading.Event()
    perform(spec, bag, stopping, more.get("key") or KEY, report=Report(told.append))  # type: ignore[arg-type]
    return told[-1]


def about(folder: Path) -> list[Any]:
    return [
        [entry.key, entry.size, entry.modified, entry.executable] for entry in tree.listing(str(folder)).files
    ]


def contents(folder: Path) -> dict[str, tuple[bytes, int, bool]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns, os.access(path, os.X_OK))
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/empty").write_bytes(b"")
    (folder / "a/b/ß 漢.txt").write_bytes(b"text\n" * 20)
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "big").write_bytes(os.urandom(4321))
    os.utime(folder / "big", ns=(1, 1_600_000_000_123_456_789))
    return folder


@pytest.mark.parametrize("pack", ["", "gzip", "zstd"])
def test_files_arrive_with_content_time_and_executable_bit(source: Path, tmp_path: Path, pack: str) -> None:
    if pack == "zstd" and shutil.which("zstd") is None and "zstd" not in parcel.packers():
        pytest.skip("there is no zstd here")
    bag, files = Bag(), about(source)
    assert side("send", source, files, bag, pack=pack)["state"] == "done"
    word = side("receive", tmp_path / "there", files, bag)
    assert word["state"] == "done"
    assert word["files"] == [[0, 3]]
    assert contents(tmp_path / "there") == contents(source)


def test_a_receiver_may_begin_before_its_sender(source: Path, tmp_path: Path) -> None:
    bag, files = Bag(), about(source)
    answer: list[Any] = []
    thread = threading.Thread(target=lambda: answer.append(side("receive", tmp_path / "there", files, bag)))
    thread.start()
    side("send", source, files, bag)
    thread.join(20)
    assert answer[0]["state"] == "done"
    assert contents(tmp_path / "there") == contents(source)


def test_a_file_that_changes_on_its_way_is_not_there_at_all(source: Path, tmp_path: Path) -> None:
    bag, files = Bag(), about(source)

    def change(url: str) -> None:
        if url.endswith("-1000"):
            (source / "big").write_bytes(b"n" * 4321)

    bag.before_put = change
    sent = side("send", source, files, bag, threads=1)
    word = side("receive", tmp_path / "there", files, bag)
    number = [file[0] for file in files].index("big")
    assert sent["faults"] == word["faults"] == [(number, "changed")]
    assert sorted(contents(tmp_path / "there")) == ["a/b/ß 漢.txt", "a/empty", "run.sh"]


def test_pieces_that_came_are_gone_on_with(source: Path, tmp_path: Path) -> None:
    bag, files, there = Bag(), about(source), tmp_path / "there"
    side("send", source, files, bag)
    for url in [url for url in bag.objects if url.endswith(("-2000", "-3000"))]:
        del bag.objects[url]
    stopping = threading.Event()
    threading.Timer(0.7, stopping.set).start()
    assert side("receive", there, files, bag, stopping=stopping)["state"] == "stopped"
    assert "big" not in contents(there)
    (partial,) = tree.listing(str(there)).partials
    assert (partial.key, partial.size) == ("big", 4321)
    assert len(partial.done) == 3
    number = [file[0] for file in files].index("big")
    done = {number: [list(piece) for piece in partial.done]}
    left = [item for item in parcels_of(files, done) if item["url"] != "small"]
    fresh = Bag()
    side("send", source, files, fresh, parcels=left)
    assert fresh.puts == 2
    word = side("receive", there, files, fresh, parcels=left, done=list(done.items()))
    assert (word["state"], word["faults"]) == ("done", [])
    assert contents(there)["big"] == contents(source)["big"]


def test_pieces_that_are_gone_are_not_taken_for_there(source: Path, tmp_path: Path) -> None:
    """A file of the right size with a hole in it would be the worst of all ends."""
    bag, files, there = Bag(), about(source), tmp_path / "there"
    side("send", source, files, bag)
    number = [file[0] for file in files].index("big")
    done = [[0, 1000], [1000, 1000]]
    left = parcels_of(files, {number: done})
    word = side("receive", there, files, bag, parcels=left, done=[(number, done)])
    assert [fault[0] for fault in word["faults"]] == [number]
    assert "big" not in contents(there)


@pytest.mark.parametrize("key", ["../out", "/out", "a/../../out", "a\nb", "link/out", "a//b", "."])
def test_a_name_that_would_leave_the_folder_is_refused(tmp_path: Path, key: str) -> None:
    there, outside = tmp_path / "there", tmp_path / "outside"
    there.mkdir()
    outside.mkdir()
    (there / "link").symlink_to(outside)
    files = [[key, 3, 0, False], ["good", 3, 0, False]]
    bag = Bag()
    bag.objects["small"] = seal([(Slice(0, 0, 3), b"bad", ""), (Slice(1, 0, 3), b"fin", "")], "", KEY, "p")
    word = side(
        "receive",
        there,
        files,
        bag,
        parcels=[{"url": "small", "name": "p", "slices": [[0, 0, 3], [1, 0, 3]]}],
    )
    assert [number for number, _ in word["faults"]] == [0]
    assert contents(there) == {"good": (b"fin", 0, False)}
    assert not any(outside.iterdir())
    assert not (tmp_path / "out").exists()


def test_what_cannot_travel_is_named(source: Path) -> None:
    (source / "out").symlink_to("/etc/hostname")
    (source / "in").symlink_to("big")
    (source / "a/tab\there").write_bytes(b"")
    os.mkfifo(source / "pipe")
    (Path(os.fsdecode(os.fsencode(source) + b"/\xff"))).write_bytes(b"")
    found = tree.listing(str(source))
    assert {name for name, _ in found.left_out} == {"out", "a/tab\there", "pipe", "�"}
    assert "in" in {entry.key for entry in found.files}


AS_NOBODY = """
import json, os, sys
from runctl.agent import tree
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
found = tree.listing(sys.argv[1])
print(json.dumps([[entry.key for entry in found.files], dict(found.left_out)]))
"""


def test_what_may_not_be_read_is_named() -> None:
    """Root may read all: whoever lists is nobody."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "good").write_bytes(b"x")
        (folder / "closed").write_bytes(b"x")
        (folder / "closed").chmod(0)
        (folder / "locked").mkdir(0o700)
        (folder / "locked/inside").write_bytes(b"x")
        (folder / "locked").chmod(0 if os.getuid() else 0o700)
        command = [sys.executable, "-c", AS_NOBODY, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        (folder / "locked").chmod(0o700)
    files, left_out = json.loads(done.stdout)
    assert files == ["good"]
    assert left_out["closed"] == "it cannot be read"
    assert "it cannot be read: Permission denied" in left_out["locked"]


@pytest.mark.parametrize("known", [True, False])
def test_an_object_must_be_its_etag_or_come_twice_the_same(tmp_path: Path, known: bool) -> None:
    """With KMS an ETag of 32 digits is no MD5."""
    good = b"good"
    etag = hashlib.md5(good).hexdigest() if known else "0" * 32
    answers = [b"torn", good, good]
    bag = Bag()
    bag.get = lambda *_, **__: answers.pop(0)  # type: ignore[method-assign]
    parcels = [{"url": "object", "slices": [[0, 0, 4]], "raw": True, "etag": etag}]
    word = side("receive", tmp_path / "there", [["file", 4, 0, False]], bag, parcels=parcels)
    assert word["state"] == "done"
    assert contents(tmp_path / "there")["file"][0] == good
    assert len(answers) == (1 if known else 0)


def test_only_what_a_dead_transfer_of_ours_forgot_is_thrown_away(tmp_path: Path) -> None:
    fresh, old, foreign = (
        tmp_path / name
        for name in (
            tree.partial_name("a", 1, 1),
            tree.partial_name("b", 1, 1),
            tree.PARTIAL + "0123456789abcdef",
        )
    )
    for path in (fresh, old, foreign):
        path.write_bytes(b"x")
    for path in (old, foreign):
        os.utime(path, (0, 0))
    found = tree.listing(str(tmp_path))
    assert [(partial.path, partial.key) for partial in found.partials] == [(old.name, "")]
    assert found.files == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_file_for_which_there_is_no_room_is_named_and_the_rest_arrives(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    bag, files, there = Bag(), about(source), tmp_path / "there"
    side("send", source, files, bag)

    def full(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(growing.os, "pwrite", full)
    word = side("receive", there, files, bag)
    assert word["state"] == "done"
    assert word["faults"] == [([file[0] for file in files].index("big"), os.strerror(number))]
    assert sorted(contents(there)) == ["a/b/ß 漢.txt", "a/empty", "run.sh"]


def test_a_file_is_given_up_while_its_other_pieces_are_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor must stay its own until the last writer has left: numbers are given out again."""
    bag, files, there = Bag(), about(source), tmp_path / "there"
    side("send", source, files, bag)
    write, begun, names = os.pwrite, threading.Event(), list[str]()

    def one_fails(file: int, data: Any, at: int) -> int:
        if at == 0:
            assert begun.wait(10)
            raise OSError(errno.ENOSPC, "full")
        begun.set()
        while any(there.glob(f"{tree.PARTIAL}*")):
            pass
        names.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        return write(file, data, at)

    monkeypatch.setattr(growing.os, "pwrite", one_fails)
    word = side("receive", there, files, bag)
    assert len(word["faults"]) == 1
    assert names
    assert all(tree.PARTIAL in name for name in names)
    assert not any(there.glob(f"{tree.PARTIAL}*"))


def proof_of(data: bytes, kind: str) -> list[Any]:
    """What S3 keeps of an object: of the whole, or of parts of 1,500 bytes."""
    parts = [data[at : at + 1500] for at in range(0, len(data), 1500)]
    sha = b"".join(hashlib.sha256(part).digest() for part in parts)
    crc = b"".join(zlib.crc32(part).to_bytes(4, "big") for part in parts)
    md5 = b"".join(hashlib.md5(part).digest() for part in parts)

    def of_parts(digest: bytes) -> str:
        return f"{base64.b64encode(digest).decode()}-{len(parts)}"

    return {
        "sha256": ["sha256", hashlib.sha256(data).hexdigest(), 0],
        "sha256 of parts": ["sha256", of_parts(hashlib.sha256(sha).digest()), 1500],
        "crc32": ["crc32", f"{zlib.crc32(data):08x}", 0],
        "crc32 of parts": ["crc32", of_parts(zlib.crc32(crc).to_bytes(4, "big")), 1500],
        "md5": ["md5", hashlib.md5(data).hexdigest(), 0],
        "md5 of parts": ["md5", f"{hashlib.md5(md5).hexdigest()}-{len(parts)}", 1500],
    }[kind]


PROOFS = ("sha256", "sha256 of parts", "crc32", "crc32 of parts", "md5", "md5 of parts")


@pytest.mark.parametrize("kind", PROOFS)
@pytest.mark.parametrize("size", [900, 4321])
def test_an_object_arrives_as_s3_keeps_it_or_not_at_all(tmp_path: Path, kind: str, size: int) -> None:
    good = os.urandom(size)
    files, proof = [["file", size, 0, False]], proof_of(good, kind)
    pieces = [
        {"url": "object", "slices": [[0, at, min(PIECE, size - at)]], "raw": True, "etag": "kms"}
        for at in range(0, size, PIECE)
    ]
    for name, data in (("good", good), ("bad", good[:-1] + bytes([good[-1] ^ 1]))):
        bag = Bag()
        bag.objects["object"] = data
        word = side("receive", tmp_path / name, files, bag, parcels=pieces, proofs=[[0, *proof]])
        assert word["state"] == "done"
        assert word["faults"] == ([] if name == "good" else [(0, "damaged")])
    assert contents(tmp_path / "good")["file"][0] == good
    assert not contents(tmp_path / "bad")


def test_a_parcel_that_comes_torn_each_time_costs_its_own_files_alone(source: Path, tmp_path: Path) -> None:
    bag, files = Bag(), about(source)
    side("send", source, files, bag)
    bag.objects["small"] = bag.objects["small"][:-1]
    word = side("receive", tmp_path / "there", files, bag)
    assert word["state"] == "done"
    assert {why for _, why in word["faults"]} == {"its seal is wrong"}
    assert list(contents(tmp_path / "there")) == ["big"]


def number_of(files: list[Any], name: str) -> int:
    return [file[0] for file in files].index(name)


@pytest.mark.parametrize("pack", ["", "gzip"])
def test_what_a_stranger_sends_in_a_parcels_place_is_not_written(
    source: Path, tmp_path: Path, pack: str
) -> None:
    """Whoever can write to the staging prefix knows the format, and all that lies there but the key."""
    bag, stolen, files = Bag(), Bag(), about(source)
    side("send", source, files, bag)
    for path in source.rglob("*"):
        if path.is_file():
            path.write_bytes(b"e" * path.stat().st_size)
    side("send", source, about(source), stolen, pack=pack, key="ab" * 32)
    for url in ("small", f"{number_of(files, 'big')}-1000"):
        assert stolen.objects[url] != bag.objects[url]
        bag.objects[url] = stolen.objects[url]
    word = side("receive", tmp_path / "there", files, bag)
    assert word["state"] == "done"
    assert len(word["faults"]) == len(files)
    assert {why for _, why in word["faults"]} == {"its seal is wrong"}
    assert contents(tmp_path / "there") == {}


def test_a_true_parcel_does_not_count_in_anothers_place(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(b"a" * PIECE + b"b" * PIECE)
    bag = Bag()
    side("send", source, about(source), bag)
    first = [Slice(0, 0, PIECE)]
    assert unseal(bag.objects["0-0"], first, KEY, "0-0").slices
    for key, name in ((KEY, "0-1000"), ("ab" * 32, "0-0")):
        with pytest.raises(TornParcel, match="seal is wrong"):
            unseal(bag.objects["0-0"], first, key, name)


def test_a_parcel_that_is_put_right_in_time_arrives(source: Path, tmp_path: Path) -> None:
    """A stranger was quicker than its sender."""
    bag, files = Bag(), about(source)
    side("send", source, files, bag)
    get, looks = bag.get, list[str]()

    def twice_wrong(url: str, *more: Any, **named: Any) -> bytes:
        looks.append(url)
        return b"x" * 100 if looks.count(url) < 3 else get(url, *more, **named)

    bag.get = twice_wrong  # type: ignore[method-assign]
    assert side("receive", tmp_path / "there", files, bag)["faults"] == []
    assert contents(tmp_path / "there") == contents(source)


def test_a_word_counts_in_its_own_place_and_by_its_own_key() -> None:
    said = report.sealed({"state": "done"}, KEY, "status-send-1")
    assert report.unsealed(said, KEY, "status-send-1") == {"state": "done"}
    for key, name, data in (
        (KEY, "status-receive-1", said),
        ("ab" * 32, "status-send-1", said),
        (KEY, "status-send-1", said[:-1]),
        (KEY, "status-send-1", said[:32] + report.sealed({}, KEY, "status-send-1")[32:]),
        (KEY, "status-send-1", b""),
    ):
        with pytest.raises(report.TornWord, match="seal is wrong"):
            report.unsealed(data, key, name)


def test_deletions_wait_for_success_and_stay_inside(source: Path, tmp_path: Path) -> None:
    bag, files, there = Bag(), about(source), tmp_path / "there"
    side("send", source, files, bag)
    there.mkdir()
    (there / "old").write_bytes(b"x")
    (tmp_path / "outside").write_bytes(b"x")
    word = side("receive", there, files, bag, delete=["old", "../outside"])
    assert word["deleted"] == ["old"]
    assert (tmp_path / "outside").exists()


def test_nothing_is_deleted_where_a_file_failed(source: Path, tmp_path: Path) -> None:
    bag, files, there = Bag(), about(source), tmp_path / "there"
    side("send", source, files, bag)
    there.mkdir()
    (there / "old").write_bytes(b"x")
    files[0][0] = "../out"
    word = side("receive", there, files, bag, delete=["old"])
    assert (len(word["faults"]), word["deleted"]) == (1, [])
    assert (there / "old").exists()


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=6),
    st.sampled_from(["", "gzip"]),
    st.data(),
)
def test_a_parcel_is_whole_or_torn(pieces: list[bytes], pack: str, data: st.DataObject) -> None:
    slices = [Slice(number, 7 * number, len(piece)) for number, piece in enumerate(pieces)]
    sealed = seal([(item, piece, "") for item, piece in zip(slices, pieces, strict=True)], pack, KEY, "p")
    assert [bytes(piece) for _, piece, _ in unseal(sealed, slices, KEY, "p").slices] == pieces
    at = data.draw(st.integers(0, len(sealed) - 1))
    flipped = sealed[:at] + bytes([sealed[at] ^ data.draw(st.integers(1, 255))]) + sealed[at + 1 :]
    with pytest.raises(TornParcel):
        unseal(flipped, slices, KEY, "p")


def test_a_bomb_is_not_unpacked() -> None:
    slices = [Slice(0, 0, 10)]
    packed = parcel.squeeze("gzip", b"\0" * 50_000_000)
    told = {"packed": "gzip", "size": 10, "slices": [[0, 10, "0" * 64, ""]]}
    header = json.dumps({**told, "sha256": hashlib.sha256(packed).hexdigest()}).encode()
    mark = mac.of(KEY, "parcel/p", header)
    sealed = b"runctl parcel 2\n" + mark + len(header).to_bytes(8, "big") + header + packed
    with pytest.raises(TornParcel, match="11 of 10 bytes"):
        unseal(sealed, slices, KEY, "p")


def test_a_rate_is_kept_over_all_threads() -> None:
    slept: list[float] = []
    pace = Pace(1000, slept.append)
    for _ in range(5):
        pace.take(1000)
    assert sum(slept) == pytest.approx(1 + 2 + 3 + 4 + 5, abs=0.1)


ROUND = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from runctl_agent import parcel, presigned, tree
from runctl_agent.carry import perform
from runctl_agent.report import Report

kept = {}

class Bag:
    def put(self, url, data):
        kept[url] = data
        return ""

    def get(self, url, span=None, etag="", most=None):
        return kept[url]

files = [list(entry[:4]) for entry in tree.listing(sys.argv[2]).files]
parcels = [{"url": "p", "name": "p", "slices": [[number, 0, file[1]] for number, file in enumerate(files)]}]
for role, root in (("send", sys.argv[2]), ("receive", sys.argv[3])):
    spec = {"role": role, "root": root, "files": files, "parcels": parcels, "pack": parcel.packers()[0]}
    told = []
    assert perform(spec, Bag(), threading.Event(), "5a" * 32, report=Report(told.append)) == "done", told
presigned.Courier().close()
"""


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.12", "3.13", "3.14"])
def test_both_sides_run_on_every_python(source: Path, tmp_path: Path, version: str) -> None:
    found = [
        shutil.which(f"python{version}"),
        *(Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python3"),
    ]
    python = next((str(path) for path in reversed(found) if path), None)
    if python is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no Python {version} here")
    shipped = tmp_path / "agent.py"
    shipped.write_bytes(archive.build())
    command = [python, "-c", ROUND, str(shipped), str(source), str(tmp_path / "there")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "there") == contents(source)
