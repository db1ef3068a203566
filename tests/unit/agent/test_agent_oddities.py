"""What lies in a script's folders and is no file neither hangs the agent nor hides the rest."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import textwrap

import pytest

from runctl.agent import snapshots
from runctl.agent.digest import file_digest
from runctl.agent.files import open_regular, read_json
from runctl.agent.formats import verdict
from runctl.agent.looking import Looking
from runctl.agent.store import FolderStore
from runctl.agent.trees import Tree
from runctl.agent.walk import walk

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
    "endless": "a link to a device",
    "linked": "a link to a folder outside",
    "loop": "a link that leads nowhere",
    "pipe": "a named pipe",
    "socket": "a socket",
}


def snapshot(bucket, state) -> dict:
    return bucket.json(f"{PREFIX}/checkpoints/{state['committed']['name']}/manifest.json")


def files_of(bucket, manifest: dict) -> list[tuple[dict, bytes]]:
    """The files of a snapshot with their bytes; those whose names are no text lie under a digest of these."""
    found = []
    for file in manifest["entries"]:
        if "sha256" in file:
            raw = base64.b64decode(file["raw"]) if "raw" in file else b""
            path = f".raw/{hashlib.sha256(raw).hexdigest()[:32]}" if raw else file["path"]
            at = file.get("at") or f"{manifest['name']}/{file['tree']}/{path}"
            found.append((file, bucket.objects[f"{PREFIX}/checkpoints/{at}"]))
    return found


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
    manifest = snapshot(bucket, state)
    sent = {file["path"]: data for file, data in files_of(bucket, manifest) if file["tree"] == "outputs"}
    assert sent == {"a/b/metrics.txt": b"0.9", "a/caf\\udce9.txt": b"x", "z.txt": b"last"}
    links = {file["path"]: file["link"] for file in manifest["entries"] if "link" in file}
    assert links == {"a/dangling": "../gone", "same.txt": "z.txt"}
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
    kept = [file["path"] for file in manifest["entries"] if "sha256" in file]
    assert kept == ["step-3/caf\\udce9.txt", "step-3/weights"]
    odd = {f"checkpoints/step-3/{name}" for name in KINDS} | {"checkpoints/step-4.pt"}
    assert {each["path"] for each in state["left_out"]} == odd


def test_a_pipe_in_the_place_of_any_file_that_is_read_is_no_wait(tmp_path):
    pipe = str(tmp_path / "pipe.pt")
    os.mkfifo(pipe)
    for read in (open_regular, file_digest, verdict):
        with pytest.raises(OSError, match="no regular file"):
            read(pipe)
    assert read_json(pipe) is None
    assert [one.kind for one in walk(str(tmp_path))] == ["other"]


def test_very_many_checkpoints_cost_a_twentieth_of_a_core_at_most(tmp_path, monkeypatch):
    """A look at trees that takes long is followed by a long pause."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    looking = Looking([Tree("checkpoints", str(folder))])
    watch = snapshots.Snapshots(FolderStore(str(tmp_path)), looking, 1, str(tmp_path), print, print)
    looking.took = 2.0
    waits: list[float] = []
    monkeypatch.setattr(snapshots.clock, "wait", lambda _, wait, **__: (waits.append(wait), watch.stop()))
    watch._watch()
    assert waits == [40.0]
    monkeypatch.setattr(looking, "look", None)
    watch.upload_seconds()  # asked for twenty times a second while a script ends


def test_a_file_that_cannot_be_read_holds_up_no_other_and_is_told(tmp_path, monkeypatch):
    """As root reads everything, the system's refusal is played."""
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(name)
    from runctl.agent import holding

    def refuse(path: str) -> object:
        if path.endswith("a.csv"):
            raise PermissionError(13, "Permission denied")
        return open_regular(path)

    monkeypatch.setattr(holding, "open_regular", refuse)
    told: dict[str, str] = {}
    (tmp_path / "own").mkdir()
    own = snapshots.Snapshots(
        FolderStore(str(tmp_path / "own")),
        Looking([Tree("outputs", str(tmp_path), (str(tmp_path / "own"),))]),
        1,
        str(tmp_path / "own"),
        lambda _: None,
        print,
        leave_out=lambda path, reason: told.update({path: reason}),
    )
    taken = own.take(final=True)
    own.tell_left()
    assert taken is not None
    assert (taken.name, taken.files) == ("000001-files", 1)
    assert told == {"outputs/a.csv": "Permission denied"}


def test_a_checkpoint_folder_on_a_dead_disk_holds_up_neither_beat_nor_end(machine, altered, wait_until):
    """The look at the folder never returns, as on a network disk that went away."""
    look = "    return sorted(each(root, skip, mounts()))\n"
    hangs = "    while os.path.exists(root + '/dead'):\n        __import__('time').sleep(1)\n"
    altered("walk", (look, hangs + look))
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
