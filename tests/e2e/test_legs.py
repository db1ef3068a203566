"""Files to and from machines: every pair of places, hostile names, killed commands, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from road import MIB, SLOWLY, Command, Road, big, contents, plain, tree

from runctl.agent.parcel import Slice
from runctl.agent.sending import Sending
from runctl.errors import CloudError, ConfigError, Conflict, NotFound, TransferError, ValidationError
from runctl.resources import carrying, leg_plan, legs, recovery
from runctl.resources.leg_run import Carrier
from runctl.resources.legs import LegOptions

pytestmark = pytest.mark.xdist_group("legs")


@pytest.fixture(scope="module")
def machines(sandbox_cloud: Any) -> Iterator[tuple[str, str]]:
    found = (sandbox_cloud.launch(), sandbox_cloud.launch())
    for machine in found:
        sandbox_cloud.until(lambda machine=machine: sandbox_cloud.is_online(machine))
    yield found
    sandbox_cloud.client("ec2").terminate_instances(InstanceIds=list(found))


@pytest.fixture
def road(sandbox: Any, machines: tuple[str, str], tmp_path: Path) -> Road:
    bucket = sandbox.name("mine")
    sandbox.client("s3").create_bucket(Bucket=bucket)
    return Road(sandbox, tmp_path, *machines, bucket)


def test_a_folder_goes_round_by_every_pair_of_places(road: Road, tmp_path: Path) -> None:
    source, name = tree(tmp_path / "source"), road.live.name("round")
    files = len(contents(source))
    for machine in (road.first, road.second):
        # Neither has keys of any kind: what they are handed must be enough.
        road.live.control.add_fault("imds", "away", instance=machine)
    first, second = road.at(road.first, name), road.at(road.second, name)
    assert road.go(source, first).moved_files == files
    assert contents(road.inside(road.first, name)) == contents(source)
    assert road.go(first, second, compress=True).moved_files == files
    assert "packing with" in road.said()
    assert contents(road.inside(road.second, name)) == contents(source)
    assert road.go(second, tmp_path / "back").moved_files == files
    assert contents(tmp_path / "back") == contents(source)
    assert road.go(second, f"s3://{road.bucket}/up").moved_files == files
    assert road.objects("up/") == plain(source)
    assert road.go(f"s3://{road.bucket}/up", f"{first}-s3").moved_files == files
    assert plain(road.inside(road.first, f"{name}-s3")) == plain(source)
    for pair in ((source, first), (second, f"s3://{road.bucket}/up")):
        again = road.go(*pair)
        assert (again.moved_files, again.equal_files) == (0, files)


def test_signed_urls_are_brief_where_the_cloud_keeps_them_and_in_no_arguments(
    road: Road, tmp_path: Path
) -> None:
    seen, over = set[str](), threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes()
                except OSError:  # it has ended
                    continue
                if b"/runctl/" in words and b"X-Amz-Signature=" in words:
                    seen.add(words.decode(errors="replace"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    road.go(tree(tmp_path / "source"), road.at(road.first, road.live.name("brief")))
    over.set()
    watcher.join()
    assert seen == set()
    commands = [
        json.dumps(command, default=str)
        for page in road.live.client("ssm").get_paginator("list_commands").paginate()
        for command in page["Commands"]
    ]
    kept = [command for command in commands if "X-Amz-Signature=" in command]
    assert kept
    lives = [int(seconds) for command in kept for seconds in re.findall(r"X-Amz-Expires=(\d+)", command)]
    assert max(lives) <= 15 * 60


@pytest.mark.slow
def test_single_files_take_their_names_from_the_destination(road: Road, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    name = road.live.name("single")
    there = road.at(road.first, name)
    road.go(tmp_path / "one", f"{there}/renamed")
    road.go(tmp_path / "one", there)
    assert plain(road.inside(road.first, name)) == {"one": b"1", "renamed": b"1"}
    road.go(f"{there}/renamed", f"s3://{road.bucket}/keep/other")
    road.go(f"s3://{road.bucket}/keep/other", f"{there}/from-s3")
    assert road.objects("keep/") == {"other": b"1"}
    assert (road.inside(road.first, name) / "from-s3").read_bytes() == b"1"


def test_a_dry_run_and_patterns_and_deletions(road: Road, tmp_path: Path) -> None:
    source, name = tmp_path / "source", road.live.name("choose")
    (source / "raw").mkdir(parents=True)
    for key in ("a.txt", "b.bin", "raw/c.txt"):
        (source / key).write_bytes(key.encode())
    (source / ".env").write_text("KEY=1")
    inside = road.inside(road.first, name)
    inside.mkdir()
    for key in ("old.txt", "old.bin"):
        (inside / key).write_bytes(b"old")
    options = LegOptions(include=("*.txt",), exclude=("raw/",), delete=True)
    operation = road.operation()
    found = legs.plan(operation, str(source), road.at(road.first, name), options)
    operation.ledger.close()
    assert (found.files, found.delete) == ((("a.txt", 5),), ("old.txt",))
    assert plain(inside) == {"old.txt": b"old", "old.bin": b"old"}
    assert road.staged() == []
    done = road.go(source, road.at(road.first, name), include=("*.txt",), exclude=("raw/",), delete=True)
    assert (done.moved_files, done.deleted_files) == (1, 1)
    assert plain(inside) == {"a.txt": b"a.txt", "old.bin": b"old"}
    everything = road.go(source, road.at(road.first, name), delete=True)
    assert [item.name for item in everything.left_out] == [".env"]
    assert (inside / "old.bin").exists(), "nothing is deleted where something was left out"
    road.live.client("s3").put_object(Bucket=road.bucket, Key="mirror/gone", Body=b"x")
    mirrored = road.go(road.at(road.first, name), f"s3://{road.bucket}/mirror", delete=True)
    assert mirrored.deleted_files == 1
    assert road.objects("mirror/") == plain(inside)


def test_hostile_names_stay_where_they_are(road: Road, tmp_path: Path) -> None:
    name, outside = road.live.name("hostile"), road.inside(road.first, road.live.name("outside"))
    inside = road.inside(road.first, name)
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    source = tmp_path / "source"
    (source / "link").mkdir(parents=True)
    (source / "link/through").write_bytes(b"x")
    (source / "new\nline").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(source) + b"/\xff")).write_bytes(b"x")
    (source / "out").symlink_to("/etc/hostname")
    (source / "good").write_bytes(b"good")
    report = road.go(source, road.at(road.first, name))
    assert [item.name for item in report.failed] == ["link/through"]
    assert "leads it out" in report.failed[0].why
    assert len(report.left_out) == 3
    assert list(outside.iterdir()) == []
    assert (inside / "good").read_bytes() == b"good"


def test_hostile_keys_are_refused_by_name_and_the_rest_arrives(road: Road) -> None:
    name, s3 = road.live.name("keys"), road.live.client("s3")
    good = {"plain": b"1", "empty": b"", "deep/er": b"2", "a b'$(x)": b"3", "Same": b"4", "same": b"5"}
    bad = ("../up", "a/../../out", "tab\there", "n" * 300, "double//slash", ".runctl-partial-" + "0" * 32)
    for key, data in (*good.items(), *((key, b"bad") for key in bad), ("mark/", b"")):
        s3.put_object(Bucket=road.bucket, Key=f"{name}/{key}", Body=data)
    s3.put_object(Bucket=road.bucket, Key=f"{name}/deep", Body=b"a file and a folder")
    report = road.go(f"s3://{road.bucket}/{name}", road.at(road.first, name))
    assert sorted(item.name for item in report.left_out) == sorted(bad)
    assert [item.name for item in report.failed] in (["deep"], ["deep/er"])
    arrived = plain(road.inside(road.first, name))
    assert arrived.items() >= {key: good[key] for key in good if key != "deep/er"}.items()
    assert len(arrived) == len(good), "and one of deep and deep/er"
    assert not (road.inside(road.first) / "up").exists()


@pytest.mark.slow
def test_what_is_no_file_stays_on_the_machine(road: Road, tmp_path: Path) -> None:
    name = road.live.name("odd")
    inside = road.inside(road.first, name)
    (inside / "loop").mkdir(parents=True)
    (inside / "loop/again").symlink_to(inside)
    (inside / "good").write_bytes(b"good")
    os.mkfifo(inside / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(inside)  # a socket's name may have 108 letters
    listener.bind("socket")
    os.chdir(before)
    report = road.go(road.at(road.first, name), tmp_path / "target")
    listener.close()
    assert {item.name for item in report.left_out} == {"loop/again", "pipe", "socket"}
    assert plain(tmp_path / "target") == {"good": b"good"}


def test_a_full_or_read_only_disk_of_a_machine_costs_the_files_that_do_not_fit(
    road: Road, tmp_path: Path
) -> None:
    """On a file system of its own, which nobody sees from outside the machine."""
    name = road.live.name("full")
    there = road.inside(road.first, name)
    mount = road.live.command(road.first, f"mkdir -p {there} && mount -t tmpfs -o size=8m tmpfs {there}")
    if mount["Status"] != "Success":
        pytest.skip(f"this host mounts nothing: {mount['StandardErrorContent']}")
    try:
        source = tmp_path / "source"
        source.mkdir()
        (source / "big").write_bytes(os.urandom(20 * MIB))
        (source / "medium").write_bytes(os.urandom(10 * MIB))
        for number in range(5):
            (source / f"{number}").write_bytes(b"%d" % number)
        report = road.go(source, road.at(road.first, name), parallel=1)
        assert [(item.name, item.why) for item in report.failed] == [
            ("big", "No space left on device"),
            ("medium", "No space left on device"),
        ]
        found = road.live.command(road.first, f"cd {there} && ls -A && cat ? && mount -o remount,ro {there}")
        assert found["StandardOutputContent"].split() == ["0", "1", "2", "3", "4", "01234"]
        (source / "6").write_bytes(b"6")
        report = road.go(source, road.at(road.first, name))
        assert {(item.name, item.why) for item in report.failed} == {
            (item, "Read-only file system") for item in ("6", "big", "medium")
        }
    finally:
        road.live.command(road.first, f"umount {there}")


def test_what_failed_and_could_not_be_undone_does_not_stand_in_the_way(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, name = tmp_path / "source", road.live.name("again")
    source.mkdir()
    (source / "file").write_bytes(b"x")

    def away(*_: Any, **__: Any) -> None:
        raise CloudError("S3 is away", service="s3", operation="ListObjects", code="Unreachable")

    with monkeypatch.context() as patched:
        patched.setattr(Carrier, "run", away)
        patched.setattr(carrying, "clear", away)
        with pytest.raises(CloudError):
            road.go(source, road.at(road.first, name))
    assert road.go(source, road.at(road.first, name)).moved_files == 1


def test_what_would_be_passed_over_in_silence_is_refused(road: Road) -> None:
    pair = (f"s3://{road.bucket}/x", road.at(road.first, "x"))
    for places in (pair, pair[::-1]):
        for option in ("compress", "checksum"):
            with pytest.raises(ValidationError, match=f"--{option} is not for S3"):
                road.go(*places, **{option: True})


@pytest.mark.slow
def test_what_nothing_can_prove_is_named(road: Road) -> None:
    """With a key of KMS an ETag is no MD5; a checksum beside it proves all the same."""
    name = road.live.name("kms")
    s3 = road.live.client("s3", request_checksum_calculation="when_required")
    data = os.urandom(20 * MIB)
    kms = {"Bucket": road.bucket, "ServerSideEncryption": "aws:kms", "Body": data}
    s3.put_object(Key=f"{name}/bare", **kms)
    s3.put_object(Key=f"{name}/summed", ChecksumAlgorithm="SHA256", **kms)
    report = road.go(f"s3://{road.bucket}/{name}", road.at(road.first, name))
    assert report.failed == ()
    assert plain(road.inside(road.first, name)) == {"bare": data, "summed": data}
    assert "size and state alone are proven of bare: S3 keeps no checksum" in road.said()


@pytest.mark.slow
def test_many_files_go_in_turns(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_plan, "MOST_AT_ONCE", 4)
    name, s3 = road.live.name("turns"), road.live.client("s3")
    files = {f"{number}": b"%d" % number for number in range(10)}
    for key, data in files.items():
        s3.put_object(Bucket=road.bucket, Key=f"{name}/{key}", Body=data)
    there = road.inside(road.first, name)
    there.mkdir()
    (there / "old").write_bytes(b"old")
    report = road.go(f"s3://{road.bucket}/{name}", road.at(road.first, name), delete=True)
    assert (report.moved_files, report.deleted_files) == (10, 1)
    assert plain(there) == files
    assert road.go(road.at(road.first, name), f"s3://{road.bucket}/{name}-back").moved_files == 10
    assert road.objects(f"{name}-back/") == files


@pytest.mark.slow
def test_many_small_files_need_few_commands(road: Road, tmp_path: Path) -> None:
    source, name = tmp_path / "source", road.live.name("many")
    for folder in range(20):
        (source / str(folder)).mkdir(parents=True)
        for number in range(60):
            (source / str(folder) / str(number)).write_bytes(b"%d" % number)
    before = len(road.live.client("ssm").list_commands()["Commands"])
    assert road.go(source, road.at(road.first, name)).moved_files == 1200
    assert len(road.live.client("ssm").list_commands()["Commands"]) - before == 2
    assert len(contents(road.inside(road.first, name))) == 1200


def test_lost_answers_and_failing_calls_are_survived(road: Road, tmp_path: Path) -> None:
    source, name = tree(tmp_path / "source"), road.live.name("faults")
    control = road.live.control
    # The first command is not found again and is asked for anew; the second one is.
    control.add_fault("ssm", "lost-response", operation="SendCommand", count=2)
    control.add_fault("ssm", "error", operation="ListCommands", count=1, status=400, code="AccessDenied")
    control.add_fault("ssm", "throttle", operation="GetCommandInvocation", count=2)
    control.add_fault("s3", "error", operation="GetObject", rate=0.2, count=6, status=503, code="SlowDown")
    control.add_fault("s3", "lost-response", operation="PutObject", count=2)
    assert road.go(source, road.at(road.first, name)).failed == ()
    assert contents(road.inside(road.first, name)) == contents(source)
    assert "again" in road.said()
    control.add_fault("s3", "lost-response", operation="PutObject", count=2)
    road.go(road.at(road.first, name), tmp_path / "back")
    assert contents(tmp_path / "back") == contents(source)
    assert road.workers(road.first) == []


def test_a_file_that_changes_on_the_way_starts_anew(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, name = tmp_path / "source", road.live.name("changes")
    source.mkdir()
    (source / "grows").write_bytes(os.urandom(20 * MIB))
    inside = road.inside(road.first, name)
    read, grown = Sending._slice, list[bool]()

    def read_what_grows(sending: Sending, item: Slice) -> bytes:
        if item.offset and not grown:
            road.live.until(lambda: any(inside.glob(".runctl-partial-*.parts")))
            with (source / "grows").open("ab") as file:
                file.write(b"more")
            grown.append(True)
        return read(sending, item)

    monkeypatch.setattr(Sending, "_slice", read_what_grows)
    assert road.go(source, road.at(road.first, name), parallel=1).failed == ()
    assert "grows changed while it was sent: it starts anew" in road.said()
    assert (inside / "grows").read_bytes() == (source / "grows").read_bytes()
    assert [path.name for path in inside.iterdir()] == ["grows"], "nothing of the first state is left"


@pytest.fixture
def command(road: Road, tmp_path: Path) -> Command:
    home = tmp_path / "home"
    home.mkdir()
    (home / "sandbox").symlink_to(road.live.home / "sandbox", target_is_directory=True)
    return Command(road, home)


def test_a_killed_command_is_gone_on_with(command: Command, road: Road, tmp_path: Path) -> None:
    source, name = big(tmp_path / "source"), road.live.name("killed")
    there, inside = road.at(road.first, name), road.inside(road.first, name)
    command.killed_in_the_middle(source, there, inside)
    assert road.staged(), "what the dead command staged is still there"
    out, err = command.run("transfer", str(source), there, *SLOWLY, "--output", "json")
    assert "going on with" in err
    assert "came at an earlier try" in err
    assert json.loads(out)["moved_bytes"] < 50 * MIB
    assert plain(inside) == plain(source)
    assert [path.name for path in inside.iterdir()] == ["big"]
    assert road.staged() == []
    assert road.workers(road.first) == []


@pytest.mark.slow
def test_a_killed_download_is_gone_on_with(command: Command, road: Road, tmp_path: Path) -> None:
    name = road.live.name("fetched")
    source, target = big(road.inside(road.first, name)), tmp_path / "target"
    command.killed_in_the_middle(road.at(road.first, name), target, target)
    out, err = command.run(
        "transfer", road.at(road.first, name), str(target), "--on", "sandbox", "-o", "json"
    )
    assert "came at an earlier try" in err
    assert json.loads(out)["moved_bytes"] < 50 * MIB
    assert contents(target) == contents(source)
    assert road.staged() == []
    assert road.workers(road.first) == []


@pytest.mark.slow
def test_a_killed_command_is_mentioned_and_undone(command: Command, road: Road, tmp_path: Path) -> None:
    source, name = big(tmp_path / "source"), road.live.name("undone")
    there, inside = road.at(road.first, name), road.inside(road.first, name)
    command.killed_in_the_middle(source, there, inside)
    _, err = command.run("transfer", str(source), f"{there}-other", "--on", "sandbox", "--dry-run")
    assert "left unfinished: transfer of" in err
    (left,) = json.loads(command.run("tx", "list", "--output", "json")[0])
    out, _ = command.run("tx", "rollback", left["id"], "--yes")
    assert "rolled-back" in out
    assert road.staged() == []
    assert road.workers(road.first) == []
    assert not (inside / "big").exists()


@pytest.mark.slow
def test_a_killed_command_is_finished_by_its_number(command: Command, road: Road, tmp_path: Path) -> None:
    source, name = big(tmp_path / "source"), road.live.name("resumed")
    command.killed_in_the_middle(source, road.at(road.first, name), road.inside(road.first, name))
    (left,) = json.loads(command.run("tx", "list", "--output", "json")[0])
    assert "finished" in command.run("tx", "resume", left["id"])[0]
    assert plain(road.inside(road.first, name)) == plain(source)
    assert road.staged() == []


def test_ctrl_c_ends_it_in_order(command: Command, road: Road, tmp_path: Path) -> None:
    source, name = big(tmp_path / "source"), road.live.name("stopped")
    there, inside = road.at(road.first, name), road.inside(road.first, name)
    process = command.start("transfer", str(source), there, *SLOWLY)
    road.live.until(lambda: inside.is_dir() and any(inside.glob("*.parts")), 60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert "it goes on" in err.decode()
    assert road.staged() == []
    assert road.workers(road.first) == []
    assert json.loads(command.run("tx", "list", "--output", "json")[0]) == []


def killed_at(road: Road, pair: tuple[str, str], name: str, number: int, *, before: bool) -> bool:
    """Transfer in a process that kills itself at a call; whether it came to that."""
    script = Path(__file__).parent / "dying_legs.py"
    when = "before" if before else "after"
    arguments = (str(road.live.home), str(road.folder / "ledger"), *pair, name, str(number), when)
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, check=False, timeout=120
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr.decode()
    return done.returncode != 0


def recovered(road: Road, *, undo: bool) -> str:
    operation = road.operation()
    try:
        left = recovery.unfinished(operation.ledger)
        for record in left:
            (recovery.roll_back if undo else recovery.resume)(operation, record)
        return str(operation.ledger.journal.get(left[0].id).outcome) if left else "never begun"
    finally:
        operation.ledger.close()


def told(road: Road, tmp_path: Path, name: str, number: int, *, before: bool, undo: bool) -> None:
    """A transfer that is killed at a call, told to its end: nothing staged, nobody at work, all there."""
    word = road.live.name("point")
    source = tmp_path / word
    source.mkdir()
    (source / "small").write_bytes(b"small")
    (source / "big").write_bytes(os.urandom(20 * MIB))
    pair = (str(source), road.at(road.first, word))
    was_killed = killed_at(road, pair, name, number, before=before)
    outcome = recovered(road, undo=undo)
    assert not was_killed or outcome in {"never begun", "rolled-back" if undo else "finished"}
    assert road.staged() == []
    assert road.workers(road.first) == []
    if undo or outcome == "never begun":
        road.go(*pair)
    assert plain(road.inside(road.first, word)) == plain(source)
    assert {path.name for path in road.inside(road.first, word).iterdir()} == {"small", "big"}


@pytest.mark.parametrize(("number", "undo"), [pytest.param(1, False, marks=pytest.mark.slow), (2, True)])
def test_a_transfer_that_dies_with_its_command_sent_is_told_to_its_end(
    road: Road, tmp_path: Path, number: int, undo: bool
) -> None:
    told(road, tmp_path, "send_command", number, before=False, undo=undo)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_transfer_may_die_at_any_call(road: Road, tmp_path: Path) -> None:
    points = [
        (name, number, before)
        for name, numbers in (
            ("get_caller_identity", 1),
            ("head_bucket", 1),
            ("describe_instances", 1),
            ("describe_instance_information", 1),
            ("send_command", 2),
            ("get_command_invocation", 4),
        )
        for number in range(1, numbers + 1)
        for before in (True, False)
    ]
    for at, (name, number, before) in enumerate(points):
        told(road, tmp_path, name, number, before=before, undo=at % 2 == 0)


@pytest.mark.slow
def test_a_machine_that_ends_is_noticed(road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runctl.resources import sides

    monkeypatch.setattr(sides, "SILENCE", 1.0)
    machine = road.live.running()
    source = big(tmp_path / "source")
    failed: list[BaseException] = []

    def go() -> None:
        try:
            road.go(source, f"{machine}:/data", parallel=1, bandwidth=6 * MIB)
        except TransferError as error:
            failed.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    road.live.until(lambda: any("/status-" in key for key in road.staged()), 60)
    road.live.client("ec2").terminate_instances(InstanceIds=[machine])
    thread.join(60)
    assert "does not run any more" in str(failed[0])
    assert road.staged() == []


def test_what_cannot_be_is_said_with_the_next_step(road: Road, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    road.live.client("s3").create_bucket(Bucket=road.live.name("any"))
    with pytest.raises(NotFound, match="no instance"):
        road.go(tmp_path / "file", "i-0123456789abcdef0:/x")
    with pytest.raises(ValidationError, match="Neither side"):
        road.go(tmp_path / "file", tmp_path / "other")
    stopped = road.live.running()
    road.live.client("ec2").stop_instances(InstanceIds=[stopped])
    road.live.until(lambda: road.live.state(stopped) == "stopped")
    with pytest.raises(Conflict, match="is stopped") as caught:
        road.go(tmp_path / "file", f"{stopped}:/x")
    assert "aws start" in caught.value.next
    road.live.control.add_fault("s3", "error", operation="HeadObject", status=403, code="AccessDenied")
    with pytest.raises(ConfigError, match="no bucket to go through") as refused:
        road.go(tmp_path / "file", road.at(road.first, "x"))
    assert "aws.bucket" in refused.value.next
