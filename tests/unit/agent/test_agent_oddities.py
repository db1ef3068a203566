"""What lies in a script's folders and is no file neither hangs the agent nor hides the rest."""

from __future__ import annotations

import json
import os
import textwrap

import pytest

from runctl.agent.checkpoints import scan
from runctl.agent.digest import file_digest
from runctl.agent.failures import SourceChanged, StoreAway, StoreRefused
from runctl.agent.files import open_regular, read_json
from runctl.agent.results import Results
from runctl.agent.store import FolderStore

PREFIX = "runctl/jobs/job"
STORE = {"kind": "s3", "bucket": "bucket", "prefix": PREFIX, "region": "us-east-1"}

ODDITIES = """
    import os, socket
    def oddities(folder):
        os.mkfifo(folder + "/pipe")
        os.symlink("../gone", folder + "/dangling")
        os.symlink("loop", folder + "/loop")
        os.symlink("/dev/zero", folder + "/endless")
        os.makedirs(os.getcwd() + "/elsewhere", exist_ok=True)
        os.symlink(os.getcwd() + "/elsewhere", folder + "/linked")
        open(os.fsencode(folder) + b"/caf\\xe9.txt", "w").write("x")
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(folder + "/socket"))
"""
KINDS = {
    "caf\\udce9.txt": "a file whose name is no UTF-8",
    "dangling": "a link that leads nowhere",
    "endless": "a pipe, a socket or a device",
    "linked": "a link to a folder",
    "loop": "a link that leads nowhere",
    "pipe": "a pipe, a socket or a device",
    "socket": "a pipe, a socket or a device",
}


def script(lines: str) -> str:
    return textwrap.dedent(ODDITIES) + textwrap.dedent(lines)


def test_results_come_beside_what_is_no_file_and_what_did_not_come_is_told(machine, bucket):
    state = machine.attempt(
        script(
            """
            folder = os.environ["RUNCTL_OUTPUT_DIR"]
            os.makedirs(folder + "/a/b")
            oddities(folder + "/a")
            open(folder + "/a/b/metrics.txt", "w").write("0.9")
            open(folder + "/z.txt", "w").write("last")
            os.symlink("z.txt", folder + "/same.txt")
            """
        ),
        store=STORE,
    ).run()
    assert state["cause"] == "finished"
    sent = {key.partition("/outputs/")[2]: data for key, data in bucket.objects.items() if "/outputs/" in key}
    assert sent == {"a/b/metrics.txt": b"0.9", "z.txt": b"last", "same.txt": b"last"}
    told = {each["path"]: each["reason"] for each in state["left_out"]}
    assert told == {f"outputs/a/{name}": kind for name, kind in KINDS.items()}
    assert bucket.json(f"{PREFIX}/attempt-1/state.json")["left_out_count"] == len(KINDS)


@pytest.mark.parametrize("in_bucket", [False, True])
def test_a_checkpoint_is_committed_without_what_is_no_file(machine, request, in_bucket):
    bucket = request.getfixturevalue("bucket") if in_bucket else None
    machine.speed(20)
    state = machine.attempt(
        script(
            """
            folder = os.environ["RUNCTL_CHECKPOINT_DIR"] + "/step-3"
            os.makedirs(folder)
            oddities(folder)
            open(folder + "/weights", "w").write("w")
            os.mkfifo(os.environ["RUNCTL_CHECKPOINT_DIR"] + "/step-4.pt")
            """
        ),
        **({"store": STORE} if in_bucket else {}),
    ).run()
    assert state["committed"]["name"] == "000001-step-3"
    name = "000001-step-3/manifest.json"
    manifest = (
        bucket.json(f"{PREFIX}/checkpoints/{name}")
        if bucket
        else json.loads((machine.job / "committed" / name).read_text())
    )
    assert [file["path"] for file in manifest["files"]] == ["step-3/weights"]
    assert {each["path"] for each in state["left_out"]} == {f"checkpoints/step-3/{name}" for name in KINDS}


def test_a_pipe_in_the_place_of_any_file_that_is_read_is_no_wait(tmp_path):
    pipe, store = str(tmp_path / "pipe.pt"), FolderStore(str(tmp_path))
    os.mkfifo(pipe)
    for read in (open_regular, file_digest, lambda path: store.put_file("key", path, 1)):
        with pytest.raises(OSError, match="no regular file"):
            read(pipe)
    assert read_json(pipe) is None
    assert scan(str(tmp_path)) == []


def test_very_many_checkpoints_cost_a_twentieth_of_a_core_at_most(tmp_path, monkeypatch):
    """A look at a folder that takes long is followed by a long pause."""
    from runctl.agent import commit

    for number in range(2000):
        (tmp_path / f"part-{number}.lock.bin").touch()
    waits: list[float] = []
    committer = commit.Committer(FolderStore(str(tmp_path / "store")), str(tmp_path), 1, print, print)
    monkeypatch.setattr(commit, "QUICK_SCAN", 0.0)
    committer._scan_took = 2.0
    monkeypatch.setattr(commit.clock, "wait", lambda _, wait, **__: (waits.append(wait), committer.stop()))
    committer._watch()
    assert waits == [40.0]
    looked: list[str] = []
    monkeypatch.setattr(commit, "scan", lambda folder: looked.append(folder) or [])
    committer.upload_seconds()  # asked for twenty times a second while a script ends
    assert looked == []


# Results, one failure at a time


class Store:
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.faults: dict[str, list[Exception]] = {}

    def put_file(self, key: str, path: str, size: int) -> None:
        if self.faults.get(key):
            raise self.faults[key].pop(0)
        self.sent.append(key)


def test_a_result_that_is_refused_or_vanishes_holds_up_no_other_and_none_is_sent_twice(tmp_path):
    for name in "abcde":
        (tmp_path / name).write_text(name)
    store, told = Store(), {}
    store.faults = {
        "outputs/a": [StoreRefused("too long")],
        "outputs/b": [SourceChanged("it was cut")],
        "outputs/c": [StoreAway("away")],
        "outputs/d": [FileNotFoundError("gone")],
    }
    results = Results(str(tmp_path), store, lambda path, reason: told.update({path: reason}))
    with pytest.raises(StoreAway):
        results.send()
    results.send()
    assert store.sent == ["outputs/c", "outputs/e"]
    assert told == {"outputs/a": "too long", "outputs/b": "it was cut", "outputs/d": "gone"}


def test_a_checkpoint_folder_on_a_dead_disk_holds_up_neither_beat_nor_end(machine, altered, wait_until):
    """The look at the folder never returns, as on a network disk that went away."""
    look = "        entries = list(os.scandir(folder))\n"
    hangs = "        while os.path.exists(folder + '/dead'):\n            __import__('time').sleep(1)\n"
    altered("checkpoints", (look, hangs + look))
    altered("patience", ("max(60.0,", "max(1.0,"))
    machine.speed(600)
    attempt = machine.attempt(
        """
        import os, time
        open(os.environ["RUNCTL_CHECKPOINT_DIR"] + "/dead", "w").close()
        print("up", flush=True)
        time.sleep(600)
        """
    ).start()
    attempt.prints("up")
    heard: set[float] = set()
    wait_until(lambda: heard.add(attempt.state["heartbeat"]) or len(heard) > 3)
    attempt.stop()
    state = attempt.end(40)
    assert (state["phase"], state["cause"]) == ("ended", "stop")
    assert (attempt.folder / "exit").exists()


def test_what_prepares_imports_nothing_from_where_the_job_was_started(machine):
    """`python -m venv` looks in the working directory first, where a script's own `venv.py` may lie."""
    where = machine.root / "where"
    for name in ("uv", "python3"):
        program = machine.root / "bin" / name
        program.unlink(missing_ok=True)
        program.write_text(f"#!/bin/sh\npwd >> {where}\nexit 1\n")
        program.chmod(0o755)
    python = {"kind": "requirements", "requirements": ["no-such-thing-7"], "digest": "d"}
    state = machine.attempt("print(1)", python=python).run()
    assert (state["cause"], state["step_name"]) == ("prepare-failed", "environment")
    assert where.read_text().splitlines()[-1] == str(machine.root / ".runctl/environments")
