"""`runctl s3`: two sides kept in step, with nothing overwritten silently."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fault_proxy import FaultProxy, Seen
from s3_server import S3Server

from runctl.storage import sync, transfer
from runctl.storage.bulk import BulkStore
from runctl.storage.s3 import Credentials, S3Access
from runctl.storage.transfer import TransferOptions


class Pair:
    """A folder and a prefix that are synced both ways, with a model of what each must hold."""

    def __init__(self, server: S3Server, folder: Path) -> None:
        self.server = server
        self.client = server.client()
        self.bucket = server.new_bucket()
        self.folder = folder / "here"
        self.folder.mkdir()
        keys = Credentials(server.access_key, server.secret_key)
        self.access = S3Access(endpoint=server.endpoint, region="us-east-1", credentials=lambda: keys)
        self.store = BulkStore(self.bucket, "there", self.access)
        self.options = TransferOptions(state=folder / "state", parallel=4)
        self.clock = 1_700_000_000

    def write(self, name: str, data: bytes) -> None:
        self.clock += 1
        (self.folder / name).write_bytes(data)
        os.utime(self.folder / name, (self.clock, self.clock))

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"there/{name}", Body=data)

    def here(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def there(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {
            item["Key"].removeprefix("there/"): self.client.get_object(Bucket=self.bucket, Key=item["Key"])[
                "Body"
            ].read()
            for item in listed
        }

    def sync(self) -> sync.TwoWays:
        found = sync.plan(self.folder, self.store, self.options)
        up, down = sync.carry_out_both(found)
        assert not up.failed
        assert not down.failed
        return found


@pytest.fixture
def pair(s3_server: S3Server, tmp_path: Path) -> Pair:
    return Pair(s3_server, tmp_path)


def test_each_side_gets_what_changed_on_the_other(pair: Pair) -> None:
    pair.write("mine", b"1")
    pair.put("theirs", b"2")
    pair.write("same", b"3")
    pair.put("same", b"3")
    assert not pair.sync().left_out
    assert pair.here() == pair.there() == {"mine": b"1", "theirs": b"2", "same": b"3"}
    pair.write("theirs", b"changed here")
    pair.put("mine", b"changed there")
    assert not pair.sync().left_out
    assert pair.here() == pair.there() == {"mine": b"changed there", "theirs": b"changed here", "same": b"3"}
    again = sync.plan(pair.folder, pair.store, pair.options)
    assert not again.up.comparison.missing
    assert not again.down.comparison.missing
    again.memory.close(complete=False)


def test_what_changed_on_both_sides_is_left_alone_and_named(pair: Pair) -> None:
    pair.write("a", b"0")
    pair.sync()
    pair.write("a", b"mine")
    pair.put("a", b"their")
    pair.write("b", b"new here")
    pair.put("b", b"new, and other, there")
    for _ in range(2):  # it stays a conflict until somebody decides
        found = pair.sync()
        assert {item.name for item in found.left_out} == {"a", "b"}
        assert pair.here() == {"a": b"mine", "b": b"new here"}
        assert pair.there() == {"a": b"their", "b": b"new, and other, there"}


def test_what_one_side_deleted_comes_back_on_neither(pair: Pair) -> None:
    for name in ("a", "b", "c"):
        pair.write(name, name.encode())
    pair.sync()
    (pair.folder / "a").unlink()
    pair.client.delete_object(Bucket=pair.bucket, Key="there/b")
    for _ in range(3):
        found = pair.sync()
        assert {item.name for item in found.left_out} == {"a", "b"}
        assert pair.here() == {"b": b"b", "c": b"c"}
        assert pair.there() == {"a": b"a", "c": b"c"}


def test_what_is_left_out_here_is_not_fetched_over(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine").write_bytes(b"mine")
    pair.write(".env", b"KEY=mine")
    pair.write("real", b"r")
    (pair.folder / "link").symlink_to(tmp_path / "mine")
    (pair.folder / "folder").symlink_to(tmp_path / "elsewhere")
    for name in (".env", "link", "folder/x"):
        pair.put(name, b"theirs")
    for _ in range(2):
        found = pair.sync()
        assert {".env", "link", "folder/x"} <= {item.name for item in found.left_out if "S3" in item.why}
        assert (pair.folder / ".env").read_bytes() == b"KEY=mine"
        assert (pair.folder / "link").is_symlink()
        assert not list((tmp_path / "elsewhere").iterdir())
        assert pair.there() == {
            "real": b"r",
            ".env": b"theirs",
            "link": b"theirs",
            "folder/x": b"theirs",
        }


BIG = 17 << 20
"""Bytes: goes in parts, both ways."""


@pytest.mark.parametrize("size", [3, BIG], ids=["small", "in parts"])
def test_what_changes_after_the_plan_is_not_overwritten(pair: Pair, size: int) -> None:
    def change_here(name: str) -> None:
        (pair.folder / name).write_bytes(b"changed here since")

    def change_there(name: str) -> None:
        pair.put(name, b"changed there since")

    pair.write("mine", b"0")
    pair.put("theirs", b"0")
    pair.sync()
    pair.write("mine", b"m" * size)
    pair.write("my new", b"n" * size)
    pair.put("theirs", b"t" * size)
    pair.put("their new", b"w" * size)
    found = sync.plan(pair.folder, pair.store, pair.options)
    change_there("mine")
    change_there("my new")
    change_here("theirs")
    change_here("their new")
    up, down = sync.carry_out_both(found)
    assert {item.name for item in up.failed} == {"mine", "my new"}
    assert {item.name for item in down.failed} == {"theirs", "their new"}
    assert all("meanwhile" in item.why for item in (*up.failed, *down.failed))
    here, there = pair.here(), pair.there()
    assert here == {
        "mine": b"m" * size,
        "my new": b"n" * size,
        "theirs": b"changed here since",
        "their new": b"changed here since",
    }
    assert there == {
        "mine": b"changed there since",
        "my new": b"changed there since",
        "theirs": b"t" * size,
        "their new": b"w" * size,
    }
    assert "Uploads" not in pair.client.list_multipart_uploads(Bucket=pair.bucket)
    assert {item.name for item in pair.sync().left_out} == set(here)


def test_a_write_whose_answer_was_lost_is_no_conflict(pair: Pair) -> None:
    lost: set[str] = set()

    def script(seen: Seen) -> str:
        ends_parts = seen.method == "POST" and "uploadId" in seen.query
        if ((seen.method == "PUT" and seen.part == "whole") or ends_parts) and seen.key not in lost:
            lost.add(seen.key)
            return "lose"
        return ""

    with FaultProxy(pair.server.endpoint) as proxy:
        access = msgspec.structs.replace(pair.access, endpoint=proxy.endpoint)
        pair.store = BulkStore(pair.bucket, "there", access)
        pair.write("old", b"0")
        pair.sync()
        pair.write("old", b"1")
        pair.write("new", b"2")
        pair.write("parts", b"3" * BIG)
        proxy.script = script
        assert not pair.sync().left_out
        pair.store.close()
    assert len(lost) == 3
    assert pair.here() == pair.there()


@pytest.mark.parametrize("name", ["plain", "naïve letter"])
def test_what_failed_to_come_is_not_taken_for_equal(pair: Pair, name: str) -> None:
    pair.put(name, b"theirs")
    found = sync.plan(pair.folder, pair.store, pair.options)
    (pair.folder / name).mkdir()
    _, down = sync.carry_out_both(found)
    assert len(down.failed) == 1
    (pair.folder / name).rmdir()
    assert not pair.sync().left_out
    assert pair.here() == {name: b"theirs"}


@pytest.mark.parametrize("seed", range(6))
def test_no_bytes_are_ever_lost(pair: Pair, seed: int) -> None:
    """Whatever happens on both sides: what nobody replaced or deleted is somewhere after each sync."""
    chance = random.Random(seed)
    names = ["a", "b", "c", "d"]
    for turn in range(8):
        for _ in range(chance.randint(0, 4)):
            name, data = chance.choice(names), f"{seed} {turn} {chance.randint(0, 2)}".encode()
            match chance.randint(0, 3):
                case 0:
                    pair.write(name, data)
                case 1:
                    pair.put(name, data)
                case 2:
                    (pair.folder / name).unlink(missing_ok=True)
                case _:
                    pair.client.delete_object(Bucket=pair.bucket, Key=f"there/{name}")
        here, there = pair.here(), pair.there()
        found = pair.sync()
        after_here, after_there = pair.here(), pair.there()
        alone = {item.name for item in found.left_out}
        for name in names:
            if name in alone:
                assert (here.get(name), there.get(name)) == (after_here.get(name), after_there.get(name))
            else:
                assert after_here.get(name) == after_there.get(name)
                assert after_here.get(name) in {here.get(name), there.get(name)}
                if name in here or name in there:
                    assert name in after_here


def runctl(server: S3Server, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **server.environment(), "RUNCTL_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "runctl", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands(pair: Pair, tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> Any:
        done = runctl(pair.server, tmp_path / "home", "s3", *arguments, "--output", "json")
        assert done.returncode == code, done.stderr
        return (
            [json.loads(line) for line in done.stdout.splitlines()]
            if "\n{" in done.stdout
            else json.loads(done.stdout)
        )

    prefix = f"s3://{pair.bucket}/there"
    pair.write("model.pt", b"m" * 100)
    pair.write("notes.txt", b"n")
    assert run("upload", str(pair.folder), prefix)["moved_files"] == 2
    assert run("sync", str(pair.folder), prefix)["equal_files"] == 2
    assert [item["key"] for item in run("list", prefix)] == ["model.pt", "notes.txt"]
    groups = {group["kind"]: group for group in run("review", prefix)["groups"]}
    assert groups["checkpoints"]["size"] == 100
    assert groups["logs"]["files"] == 1
    assert run("download", f"{prefix}/model.pt", str(tmp_path / "one.pt"))["moved_files"] == 1
    assert (tmp_path / "one.pt").read_bytes() == b"m" * 100
    (pair.folder / "notes.txt").unlink()
    plan = run("sync", str(pair.folder), prefix, "--delete", "--dry-run")
    assert plan["delete"] == ["notes.txt"]
    assert run("sync", str(pair.folder), prefix, "--delete", "--yes")["deleted_files"] == 1
    assert set(pair.there()) == {"model.pt"}
    pair.put("runctl/jobs/walk-1/checkpoints/1-a/model.pt", b"a job's")
    kept = runctl(pair.server, tmp_path / "home", "s3", "sync", str(pair.folder), prefix, "--delete", "--yes")
    assert "runctl s3 cleanup" in kept.stderr
    assert len(pair.there()) == 2
    pair.client.delete_object(Bucket=pair.bucket, Key="there/runctl/jobs/walk-1/checkpoints/1-a/model.pt")
    pair.put("new", b"1")
    both = run("sync", str(pair.folder), prefix, "--both")
    assert both["down"]["moved_files"] == 1
    assert (pair.folder / "new").read_bytes() == b"1"
    pair.write("new", b"mine")
    pair.put("new", b"yours")
    assert "both sides" in run("sync", prefix, str(pair.folder), "--both", code=1)["left_out"][0]["why"]


def test_old_checkpoints_are_deleted_and_young_ones_with_force_alone(pair: Pair, tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        prefix = f"s3://{pair.bucket}/there"
        done = runctl(pair.server, tmp_path / "home", "s3", "cleanup", prefix, "--keep-last", "1", *arguments)
        return done.returncode, done.stdout or done.stderr

    assert run("--dry-run")[0] == 1
    for name in ("m-1.pt", "m-2.pt", "m-3.pt", "best.pt", "data.csv"):
        pair.put(name, b"12345")
    code, said = run("--yes")
    assert code == 0
    assert "younger than 1 h" in said
    assert len(pair.there()) == 5
    code, said = run("--force", "--yes", "--output", "json")
    assert code == 0, said
    assert json.loads(said)["freed"] == 10
    assert set(pair.there()) == {"m-3.pt", "best.pt", "data.csv"}


def test_a_review_says_what_could_go_and_how(pair: Pair, tmp_path: Path) -> None:
    def review(*arguments: str) -> str:
        prefix = f"s3://{pair.bucket}/there"
        done = runctl(pair.server, tmp_path / "home", "s3", "review", prefix, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for name in ("m-1.pt", "m-2.pt", "m-3.pt"):
        pair.put(name, b"12345")
    cold = {"Bucket": pair.bucket, "Key": "there/cold.csv", "Body": b"1234567"}
    pair.client.put_object(**cold, StorageClass="STANDARD_IA")
    for name in ("there/left open", "beside/not ours"):
        begun = pair.client.create_multipart_upload(Bucket=pair.bucket, Key=name)
        where = {"Bucket": pair.bucket, "Key": name, "UploadId": begun["UploadId"]}
        for number in (1, 2):
            pair.client.upload_part(**where, PartNumber=number, Body=bytes(1000))
    found = json.loads(review("--keep-last", "1", "--output", "json"))
    classes = {group["kind"]: group["by_class"] for group in found["groups"]}
    assert classes == {"checkpoints": {"STANDARD": 15}, "tables and shards": {"STANDARD_IA": 7}}
    costs = {group["kind"]: group["usd_per_month"] for group in found["groups"]}
    assert costs["tables and shards"] is None
    assert costs["checkpoints"] is not None
    could = found["could_go"]
    assert could["checkpoints"] == []  # all are younger than an hour
    assert [(one["key"], one["size"]) for one in could["open_uploads"]] == [("there/left open", 2000)]
    assert "--key 'there/left open'" in could["open_uploads"][0]["command"]
    said = review()
    assert "STANDARD_IA" not in said  # that is talk
    assert "1 upload in parts left open: 2.0 KiB" in said


def test_a_review_of_old_checkpoints_names_the_command(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    from click.testing import CliRunner

    from runctl.cli import s3_review

    for name in ("m-1.pt", "m-2.pt", "m-3.pt", "best.pt"):
        pair.put(name, b"12345")
    monkeypatch.setattr(s3_review, "now_of", lambda *_: datetime.now(UTC) + timedelta(hours=2))
    prefix = f"s3://{pair.bucket}/there"
    environment = {**pair.server.environment(), "RUNCTL_HOME": str(tmp_path / "home")}
    # click keeps the help option that a command was first called with: the root's, not its own default.
    names = ["-h", "--help"]
    done = CliRunner().invoke(
        s3_review.review, [prefix, "--keep-last", "1"], env=environment, help_option_names=names
    )
    assert done.exit_code == 0, done.output
    assert "2 old checkpoints could go: 10 B" in done.stdout
    assert f"runctl s3 cleanup {prefix} --keep-last 1" in done.stdout
    assert len(pair.there()) == 4


def test_a_watched_folder_is_sent_until_ctrl_c(pair: Pair, tmp_path: Path) -> None:
    environment = {**os.environ, **pair.server.environment(), "RUNCTL_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "runctl", "s3", "watch", str(pair.folder), f"s3://{pair.bucket}/there"]
    watch = subprocess.Popen([*command, "--interval", "0.1", "--rest", "0"], env=environment)
    try:
        pair.write("a", b"1")
        until(lambda: set(pair.there()) == {"a"})
        pair.write("b", b"2")
        until(lambda: set(pair.there()) == {"a", "b"})
        watch.send_signal(signal.SIGINT)
        assert watch.wait(60) == 0
    finally:
        watch.kill()
        watch.wait()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "number",
    [400, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_many_small_files_go_both_ways(s3_server: S3Server, tmp_path: Path, number: int) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    for index in range(number):
        path = here / f"{index // 1000:03}" / f"{index:06}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(index.to_bytes(4) * (index % 50))
    place = f"s3://{s3_server.new_bucket()}/many"

    def moved(source: str, target: str) -> int:
        done = runctl(s3_server, tmp_path / "home", "s3", "sync", source, target, "--output", "json")
        assert done.returncode == 0, done.stdout or done.stderr
        report = json.loads(done.stdout)
        assert not report["failed"]
        assert not report["left_out"]
        assert report["moved_files"] + report["equal_files"] == number
        return report["moved_files"]

    assert moved(str(here), place) == number
    assert moved(place, str(back)) == number
    assert moved(str(here), place) == 0
    assert moved(place, str(back)) == 0
    for index in range(number):
        name = f"{index // 1000:03}/{index:06}.bin"
        assert (back / name).read_bytes() == (here / name).read_bytes()


def test_an_upload_by_another_tool_is_compared_by_content(pair: Pair) -> None:
    pair.write("a", b"same")
    pair.put("a", b"same")
    plan = transfer.plan_upload(pair.folder, pair.store, pair.options)
    report = transfer.carry_out(plan)
    assert (report.moved_files, report.equal_files) == (0, 1)
