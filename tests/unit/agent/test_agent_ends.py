"""Whatever lies in a job's folders, an ending comes in time; the rest is kept, and what is not is named."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.agent import mounts as mounts_module
from runctl.agent import seal, snapshot, turns
from runctl.agent.mounts import Mounts, mounts
from runctl.agent.snapshot import Entry, Manifest
from runctl.agent.walk import walk
from runctl.agent.writers import held_for_writing
from runctl.storage import manifests

PREFIX = "runctl/jobs/job"
STORE = {"kind": "s3", "bucket": "bucket", "prefix": PREFIX, "region": "us-east-1"}
DISPOSABLE = {"disposable": True, "watch_notice": False}


def manifest_of(bucket, state) -> dict:
    return bucket.json(f"{PREFIX}/checkpoints/{state['committed']['name']}/manifest.json")


def kept(bucket, state) -> set[str]:
    entries = manifest_of(bucket, state)["entries"]
    return {f"{entry['tree']}/{entry['path']}" for entry in entries if "sha256" in entry}


def left(state) -> dict[str, str]:
    return {each["path"]: each["reason"] for each in state["left_out"]}


# The last snapshot has its time, and is committed with what came within it


HUGE = """
    import os, signal, sys, time
    def save(*_):
        open(os.environ["RUNCTL_CHECKPOINT_DIR"] + "/step_7.json", "w").write('{"w": 1}')
        sys.exit(0)
    signal.signal(signal.SIGTERM, save)
    with open(os.environ["RUNCTL_OUTPUT_DIR"] + "/huge", "wb") as file:
        file.truncate(100 * 2**20)
    open(os.environ["RUNCTL_OUTPUT_DIR"] + "/metrics.csv", "w").write("1,0.5")
    print("up", flush=True)
    time.sleep(600)
"""


def hold_up(bucket, word: str) -> threading.Event:
    """What has `word` in its key is taken as slowly as a connection gives up on nothing."""
    asked = threading.Event()

    def delay(method, key):
        if word in key and method == "PUT":
            asked.set()
            time.sleep(20)

    bucket.delay = delay
    return asked


def test_at_a_notice_what_cannot_come_in_time_takes_nothing_along(machine, metadata, bucket):
    """A file that the network cannot take until the machine goes; the checkpoint and the small files can."""
    hold_up(bucket, "/huge")
    machine.speed(10)
    change = {"machine": {**DISPOSABLE, "watch_notice": True}, "lease_seconds": 900}
    attempt = machine.attempt(HUGE, store=STORE, **change).start()
    attempt.prints("up")
    goes = machine.now() + 60
    metadata.notice(goes)
    state = attempt.end()
    assert state["ended"] <= goes + 10  # a second of ours
    assert (state["cause"], state["exit_code"]) == ("notice", 0)
    assert state["committed"]["checkpoint"] == "checkpoints/step_7.json"
    assert kept(bucket, state) == {"checkpoints/step_7.json", "outputs/metrics.csv"}
    assert left(state) == {"outputs/huge": "there was no time left to send it"}
    assert bucket.json(f"{PREFIX}/attempt-1/state.json")["phase"] == "ended"
    assert machine.shutdowns()[-1] == "-P +5"


def test_a_nearer_notice_is_heard_while_the_last_snapshot_is_sent(machine, metadata, bucket, wait_until):
    """The script ended by itself and nobody asked for an end: then the cloud takes the machine."""
    asked = hold_up(bucket, "/huge")
    machine.speed(10)
    change = {"machine": {**DISPOSABLE, "watch_notice": True}, "lease_seconds": 900}
    script = HUGE.replace("time.sleep(600)", "save()")
    attempt = machine.attempt(script, store=STORE, **change).start()
    wait_until(asked.is_set)
    goes = machine.now() + 60
    metadata.notice(goes)
    state = attempt.end()
    assert state["ended"] <= goes + 10
    assert state["cause"] == "finished"
    assert kept(bucket, state) == {"checkpoints/step_7.json", "outputs/metrics.csv"}
    assert "outputs/huge" in left(state)


def test_a_stop_breaks_off_what_is_sent_beside_a_checkpoint_while_the_script_runs(
    machine, bucket, wait_until, altered
):
    """The snapshot with the huge file had begun: the last one does not wait for it."""
    altered("looking", ("PLAIN_SECONDS = 120.0", "PLAIN_SECONDS = 1.0"), ("= 10.0  # real", "= 0.1  # real"))
    asked = hold_up(bucket, "/huge")
    machine.speed(10)
    attempt = machine.attempt(HUGE, store=STORE).start()
    wait_until(asked.is_set)
    bucket.delay = lambda method, key: None
    attempt.stop()
    begun = time.monotonic()
    state = attempt.end()
    assert time.monotonic() - begun < 20
    assert kept(bucket, state) == {"checkpoints/step_7.json", "outputs/metrics.csv", "outputs/huge"}
    assert left(state) == {}


def test_a_turn_is_over_in_time_and_the_next_one_is_longer(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(turns.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(turns, "real_time", lambda seconds: seconds)
    own, file, other = turns.Turns(), ("outputs", "huge"), ("outputs", "small")
    length = turns.TURN_SECONDS
    for _ in range(4):
        assert own.has(file)
        is_over = own.begin([file, other])
        now[0] += length - 1
        assert not is_over()
        now[0] += 1
        assert is_over()
        own.broken_off([file])
        assert (own.has(file), own.has(other)) == (False, True)
        now[0] += 2 * length
        length *= 2
    is_over = own.begin([other])
    assert not is_over()
    own.hurry()
    assert is_over()


def test_rights_that_come_back_lose_nothing(machine, bucket, altered, wait_until):
    """S3 denies everything for minutes of the cloud's, from the script's end on."""
    machine.speed(10)
    denied = threading.Event()
    refused: list[str] = []
    bucket.refused = lambda key: denied.is_set() and "/log/" not in key and not refused.append(key)
    attempt = machine.attempt(HUGE, store=STORE).start()
    attempt.prints("up")
    denied.set()
    attempt.stop()
    wait_until((machine.checkpoints / "step_7.json").exists)
    seen = len(refused)
    wait_until(lambda: sum("state.json" not in key for key in refused[seen:]) >= 4)
    denied.clear()
    state = attempt.end()
    assert kept(bucket, state) == {"checkpoints/step_7.json", "outputs/metrics.csv", "outputs/huge"}
    assert left(state) == {}


def test_what_the_store_denies_for_good_is_named_and_ends_nothing_later(machine, bucket, altered):
    altered("patience", ("DENIED_PATIENCE = 300.0", "DENIED_PATIENCE = 10.0"))
    machine.speed(10)
    bucket.refused = lambda key: "/huge" in key
    state = machine.attempt(HUGE.replace("time.sleep(600)", "save()"), store=STORE).run()
    assert kept(bucket, state) == {"checkpoints/step_7.json", "outputs/metrics.csv"}
    assert "HTTP 403" in left(state)["outputs/huge"]


# A disk that is full


@pytest.fixture
def small_disk(machine):
    """The job lies on a disk of 3 MiB."""
    machine.job.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "runctl-test", str(machine.job)],
        check=False,
        capture_output=True,
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    yield machine
    for process in machine.processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    subprocess.run(["umount", "-l", str(machine.job)], check=True)


FILLS = """
    import os, signal, sys, time
    def full(folder):
        file = os.open(folder + "/filler", os.O_WRONLY | os.O_CREAT)
        for size in (65536, 4096, 1):
            try:
                while True:
                    os.write(file, b"x" * size)
            except OSError:
                pass
    open(os.environ["RUNCTL_CHECKPOINT_DIR"] + "/step_7.json", "w").write('{"w": 1}')
    open(os.environ["RUNCTL_OUTPUT_DIR"] + "/metrics.csv", "w").write("1,0.5")
    full(os.environ["RUNCTL_OUTPUT_DIR"])
    os.write(2, b"")
    open(ROOT + "/full", "w").close()
    if "stays" in sys.argv:
        signal.signal(signal.SIGTERM, lambda *_: (full(os.environ["RUNCTL_OUTPUT_DIR"]), os._exit(3)))
        while True:
            full(os.environ["RUNCTL_OUTPUT_DIR"])
            time.sleep(0.02)
    os._exit(3)
"""


def fills(machine, *arguments: str) -> list[str]:
    import sys
    import textwrap

    path = machine.root / "fills.py"
    path.write_text(textwrap.dedent(FILLS).replace("ROOT", repr(str(machine.root))))
    return [sys.executable, str(path), *arguments]


@pytest.mark.parametrize(
    "why",
    [
        "itself",
        "stop",
        pytest.param("deadline", marks=pytest.mark.slow),
        pytest.param("budget", marks=pytest.mark.slow),
    ],
)
def test_on_a_full_disk_the_end_comes_and_is_told_and_what_is_there_is_kept(
    small_disk, bucket, wait_until, why
):
    """The script fills it, again and again: also what the agent gives up for its last words."""
    machine = small_disk
    machine.speed(20)
    change: dict = {"machine": DISPOSABLE, "lease_seconds": 900}
    if why == "deadline":
        change["deadline"] = machine.now() + 400
    if why == "budget":
        now = machine.now()
        change["budget"] = {"usd": 1.0, "spent_usd": 0.0, "usd_per_hour": 9.0, "since": now}
    command = fills(machine, *([] if why == "itself" else ["stays"]))
    attempt = machine.attempt(command, store=STORE, **change).start()
    wait_until((machine.root / "full").exists)
    if why == "stop":
        while attempt.process.poll() is None:
            try:
                attempt.stop()
                break
            except OSError:
                time.sleep(0.01)
    attempt.end()
    state = bucket.json(f"{PREFIX}/attempt-1/state.json")
    assert (state["phase"], state["exit_code"]) == ("ended", 3)
    assert state["cause"] == ("failed" if why == "itself" else why)
    assert kept(bucket, state) >= {"checkpoints/step_7.json", "outputs/metrics.csv"}
    assert machine.shutdowns()[-1] == "-P now"
    assert (attempt.folder / "exit").read_text() == "3"
    assert attempt.state["phase"] == "ended"


KEY = "ab" * 32


def test_a_stop_comes_through_the_store_if_it_carries_the_seal(machine, bucket, wait_until):
    """No command reaches a machine whose disk is full; whoever else can write to the bucket stops nothing."""
    machine.speed(60)
    attempt = machine.attempt(HUGE, store=STORE, machine=DISPOSABLE, lease_seconds=900)
    (attempt.folder / "seal").write_text(KEY)
    attempt.start().prints("up")
    place, order = f"{PREFIX}/attempt-1/stop", {"job": "job", "attempt": 1}
    another = {**order, "attempt": 2}
    for planted in (
        b"{",
        b"[1]",
        json.dumps(order).encode(),
        json.dumps({**order, "seal": seal.of("cd" * 32, order, seal.STOP)}).encode(),
        json.dumps({**order, "seal": seal.of(KEY, order, seal.STATE)}).encode(),
        json.dumps({**another, "seal": seal.of(KEY, another, seal.STOP)}).encode(),
    ):
        bucket.objects[place] = planted
        seen = len(bucket.asked)
        wait_until(lambda seen=seen: ("GET", place, 0) in bucket.asked[seen:])
    seen = len(bucket.asked)
    wait_until(lambda: ("GET", place, 0) in bucket.asked[seen:])
    assert attempt.state["phase"] == "running"
    bucket.objects[place] = json.dumps({**order, "seal": seal.of(KEY, order, seal.STOP)}).encode()
    state = attempt.end()
    assert (state["cause"], state["exit_code"]) == ("stop", 0)


# Names


PATHS = st.lists(
    st.binary(min_size=1, max_size=255).filter(
        lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
    ),
    min_size=1,
    max_size=15,
).map(lambda parts: b"/".join(parts).decode("utf-8", "surrogateescape"))


@given(path=PATHS, link=PATHS, mtime=st.integers(-(2**70), 2**70))
def test_whatever_a_file_is_called_its_manifest_can_be_read_here_and_on_the_machine(path, link, mtime):
    at = snapshot.key_of("000001-files", "work", path)
    assert len(f"runctl/jobs/{'j' * 80}/checkpoints/{at}".encode()) <= 1024  # S3 takes no longer keys
    entries = [
        Entry("outputs", path, "link", link=link),
        Entry("work", path, "file", 1, 0o644, mtime, "0" * 64, at=at),
    ]
    written = Manifest("000001-files", None, None, 1, "then", True, entries)
    data = json.dumps({**snapshot.to_dict(written), "seal": "0" * 64}).encode()
    for read in (snapshot.parsed(json.loads(data)), manifests.read(data, "here", "000001-files")[0]):
        assert [(one.path, one.link, one.at) for one in read.entries] == [
            (path, link, ""),
            (path, "", at),
        ]


# File systems that hang


TABLE = b"""\
22 1 0:20 / / rw - overlay overlay rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:22 / /job/code/data rw - fuse.mount-s3 mountpoint rw
25 22 0:23 / /job/code/ram rw shared:7 - tmpfs none rw
26 22 0:24 / /mnt/a\\040b rw - nfs4 server:/ rw
27 22 0:25 / /job/over rw - nfs4 server:/ rw
28 27 0:26 / /job/over rw - ext4 /dev/x rw
torn
"""


def test_only_what_others_serve_is_strange():
    found = mounts(TABLE.splitlines(keepends=True))
    assert found.below("/job/code") == {"data": "fuse.mount-s3"}
    assert found.slow == {"/job/code/data": "fuse.mount-s3", "/mnt/a b": "nfs4"}
    assert found.has("/mnt/a b/x")
    assert not found.has("/mnt/a bc")


def test_a_link_that_leads_over_others_to_a_slow_file_system_is_known_without_going_there(tmp_path):
    tmp_path = tmp_path.resolve()
    (tmp_path / "tree/inner").mkdir(parents=True)
    (tmp_path / "tree/inner/one").symlink_to("../two")
    (tmp_path / "tree/two").symlink_to(tmp_path / "three")
    (tmp_path / "three").symlink_to("far/./away")
    (tmp_path / "tree/loop").symlink_to("loop")
    (tmp_path / "tree/fine").symlink_to("inner")
    root = str(tmp_path / "tree")
    slow = {str(tmp_path / "far"): "nfs4"}
    ways = {name: Mounts(slow, slow).on_the_way(root, name) for name in ("inner/one", "two", "loop", "fine")}
    assert ways == {"inner/one": "nfs4", "two": "nfs4", "loop": "", "fine": ""}
    own = {root: "nfs4"}  # where the tree itself lies there, it is what is asked for
    assert Mounts(own, own).on_the_way(root, "inner/one") == ""


@pytest.fixture
def hanging(tmp_path):
    """A folder in a tree on which a file system is mounted whose program never answers."""
    folder = tmp_path / "tree" / "mounted"
    folder.mkdir(parents=True)
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"runctl-test", os.fsencode(folder), b"fuse.test", 0, options):
        os.close(device)
        pytest.skip(f"no FUSE can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    libc.umount2(os.fsencode(folder), 2)
    os.close(device)


def test_a_file_system_that_never_answers_is_named_and_never_asked(hanging):
    tree = hanging.parent
    (tree / "weights.pt").write_bytes(b"w")
    (tree / "link").symlink_to("mounted/x")
    (tree / "sub").mkdir()
    (tree / "sub/up").symlink_to("../link")
    found = {one.path: (one.kind, one.fault) for one in walk(str(tree))}
    assert found == {
        "link": ("other", "a link to another file system (fuse.test)"),
        "mounted": ("other", "another file system (fuse.test) is mounted there"),
        "sub/up": ("other", "a link to another file system (fuse.test)"),
        "weights.pt": ("file", ""),
    }


def test_what_a_script_holds_open_on_a_slow_file_system_is_not_asked_for(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    near, far = (tmp_path / "near").open("w"), (tmp_path / "far/x").open("w")
    point = {str(tmp_path / "far"): "nfs4"}
    monkeypatch.setattr("runctl.agent.writers.mounts", lambda: Mounts(point, point))
    about = os.fstat(near.fileno())
    assert held_for_writing([os.getpid()], [str(tmp_path)]) == {(about.st_dev, about.st_ino)}
    far.close()
    near.close()


def test_the_table_of_this_machine_is_read():
    assert mounts_module._TABLE == "/proc/self/mountinfo"
    assert str(Path("/")) not in mounts().strange
