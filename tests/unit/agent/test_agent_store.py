"""Attempts whose store is a bucket: mirroring, commits, outages, notices."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time

import pytest

PREFIX = "runctl/jobs/job"
STORE = {"kind": "s3", "bucket": "bucket", "prefix": PREFIX, "region": "us-east-1"}
SPOT = {"disposable": True, "watch_notice": True}

# Saves step-N.pt every so often, and once more when asked to end.
TRAINS = """
    import os, pathlib, signal, sys, time, zipfile
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    came = os.environ.get("RUNCTL_RESUME_FROM")
    step = int(zipfile.ZipFile(came).read("step")) if came else 0
    print("begins at", step, flush=True)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    def save():
        with zipfile.ZipFile(folder / f"step-{step:04}.pt", "w") as file:
            file.writestr("weights", os.urandom(SIZE))
            file.writestr("step", str(step))
    while not stop and step < LAST:
        step += 1
        print("step", step, flush=True)
        if step % 10 == 0:
            save()
        time.sleep(0.02)
    save()
    print("saved", step, flush=True)
"""


def trains(last: int = 10_000, size: int = 50_000) -> str:
    return TRAINS.replace("LAST", str(last)).replace("SIZE", str(size))


def waits_for_its_commits(last: int) -> str:
    """A file is overtaken by no later one: the test tells when each has been committed."""
    saves = "        if step % 10 == 0:\n            save()\n"
    waits = (
        "            while not (folder.parent / f'seen-{step}').exists():\n                time.sleep(0.02)\n"
    )
    changed = trains(last=last).replace(saves, saves + waits)
    assert waits in changed
    return changed


def log_of(bucket, number: int = 1) -> bytes:
    """The log put together from its pieces, which must join without gap or overlap."""
    prefix = f"{PREFIX}/attempt-{number}/log/"
    log = b""
    for key in sorted(key for key in list(bucket.objects) if key.startswith(prefix)):
        assert int(key.removeprefix(prefix)) == len(log)
        log += bucket.objects[key]
    return log


def place(manifest: dict, file: dict) -> str:
    """Where the bytes of a file lie, below the folder of snapshots."""
    return file.get("at") or f"{manifest['name']}/{file['tree']}/{file['path']}"


def source(manifest: dict) -> str:
    return manifest["name"].partition("-")[2]


def verify(bucket) -> list[dict]:
    """Every manifest names what lies in the bucket, byte for byte; answers them in order."""
    root = f"{PREFIX}/checkpoints/"
    manifests = []
    for key in sorted(key for key in list(bucket.objects) if key.endswith("/manifest.json")):
        manifest = bucket.json(key)
        for file in manifest["entries"]:
            data = bucket.objects[root + place(manifest, file)]
            assert len(data) == file["size"]
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
        manifests.append(manifest)
    return manifests


def test_everything_that_matters_is_in_the_bucket_at_the_end(machine, bucket):
    machine.speed(20)
    attempt = machine.attempt(
        trains(last=50) + "    (folder.parent / 'outputs/a').write_text('A')\n", store=STORE
    )
    state = attempt.run()
    assert state["cause"] == "finished"
    assert log_of(bucket).decode() == attempt.log
    mirrored = bucket.json(f"{PREFIX}/attempt-1/state.json")
    assert mirrored == state
    assert state["heartbeat"] is None  # nothing beats after the end
    assert mirrored["log_mirrored"] == mirrored["log_bytes"] == len(attempt.log)
    kinds = [
        json.loads(line)["kind"] for line in bucket.objects[f"{PREFIX}/attempt-1/events.jsonl"].splitlines()
    ]
    assert kinds[-1] == "ended"
    last = verify(bucket)[-1]
    assert (last["step"], last["checkpoint"]) == (50, {"tree": "checkpoints", "path": "step-0050.pt"})
    [result] = [file for file in last["entries"] if file["tree"] == "outputs"]
    assert bucket.objects[f"{PREFIX}/checkpoints/{place(last, result)}"] == b"A"
    latest = bucket.json(f"{PREFIX}/checkpoints/latest.json")
    manifest = bucket.objects[f"{PREFIX}/checkpoints/{last['name']}/manifest.json"]
    assert latest == {
        "name": last["name"],
        "step": 50,
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
    }


def test_a_manifest_follows_its_files_and_latest_follows_the_manifest(machine, bucket):
    machine.speed(20)
    machine.attempt(trains(last=60), store=STORE).run()
    root = f"{PREFIX}/checkpoints/"
    for manifest in verify(bucket):
        at = bucket.order.index(f"{root}{manifest['name']}/manifest.json")
        assert all(bucket.order.index(root + place(manifest, file)) < at for file in manifest["entries"])
        assert root + "latest.json" in bucket.order[at:]


def test_a_notice_saves_everything_before_the_machine_goes(machine, bucket, metadata, wait_until):
    machine.speed(10)
    attempt = machine.attempt(trains(), store=STORE, machine=SPOT, lease_seconds=900).start()
    attempt.prints("step 15")
    metadata.notice(machine.now() + 120)
    state = attempt.end()
    assert (state["cause"], state["phase"], state["exit_code"]) == ("notice", "ended", 0)
    assert (state["instance_id"], state["zone"]) == ("i-1", "us-east-1a")
    step = int(attempt.log.split()[-1])
    assert bucket.json(f"{PREFIX}/checkpoints/latest.json")["step"] == step == state["committed"]["step"]
    assert 0 <= state["committed"]["seconds_after_notice"] < 60
    assert log_of(bucket).decode() == attempt.log
    assert bucket.json(f"{PREFIX}/attempt-1/state.json")["phase"] == "ended"
    assert machine.shutdowns()[0] == "-P +15"
    assert machine.shutdowns()[-1] == "-P +5"  # the cloud ends it; the timer only follows


def test_two_notices_and_signals_in_a_row_disturb_nothing(machine, bucket, metadata, wait_until):
    machine.speed(10)
    script = trains().replace("stop.append(1)", "(stop.append(1), print('heard', flush=True))")
    slow = script.replace('    save()\n    print("saved"', '    time.sleep(1)\n    save()\n    print("saved"')
    assert slow != script
    attempt = machine.attempt(slow, store=STORE, machine=SPOT).start()
    attempt.prints("step 5")
    metadata.notice(machine.now() + 120)
    attempt.prints("heard")
    metadata.notice(machine.now() + 100)
    for _ in range(5):
        attempt.process.terminate()
        time.sleep(0.05)
    attempt.stop()
    state = attempt.end()
    assert state["cause"] == "notice"
    assert attempt.events.count("notice") == 2
    assert attempt.log.count("heard") == 1
    assert verify(bucket)[-1]["step"] == int(attempt.log.split()[-1])


def test_a_second_notice_with_a_nearer_end_counts(machine, bucket, metadata, wait_until):
    """First a recommendation, then an hour, then a minute: what does not listen is cut off in time."""
    machine.speed(20)
    script = trains().replace("stop.append(1)", "None")
    attempt = machine.attempt(script, store=STORE, machine=SPOT).start()
    attempt.prints("step 15")
    metadata.items["events/recommendations/rebalance"] = json.dumps({"noticeTime": "2026-01-01T00:00:00Z"})
    wait_until(lambda: "rebalance-recommended" in attempt.events)
    metadata.notice(machine.now() + 3600)
    wait_until(lambda: attempt.state["phase"] == "ending")
    first = attempt.state["notice_at"]
    deadline = machine.now() + 60
    metadata.notice(deadline)
    state = attempt.end()
    assert (state["cause"], state["exit_code"], state["notice_at"]) == ("notice", 137, first)
    assert state["ended"] < deadline
    assert attempt.events.count("notice") == 2
    assert verify(bucket)[-1]["step"] >= 10


def test_a_notice_during_a_stop_shortens_the_grace(machine, bucket, metadata):
    machine.speed(20)
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(90)"
    attempt = machine.attempt(script, store=STORE, machine=SPOT, grace_seconds=3600).start()
    attempt.prints("up")
    attempt.stop()
    time.sleep(0.3)
    metadata.notice(machine.now() + 40)
    state = attempt.end()
    assert (state["cause"], state["exit_code"]) == ("stop", 137)


def test_a_script_that_ignores_a_notice_loses_only_what_it_did_not_save(machine, bucket, metadata):
    machine.speed(5)  # a busy host needs some of the seconds that the last snapshot has
    script = trains().replace("stop.append(1)", "None").replace("sleep(0.02)", "sleep(0.1)")
    attempt = machine.attempt(script, store=STORE, machine=SPOT).start()
    attempt.prints("step 25")
    deadline = machine.now() + 120
    metadata.notice(deadline)
    state = attempt.end()
    assert (state["cause"], state["exit_code"]) == ("notice", 137)
    assert state["ended"] < deadline
    assert verify(bucket)[-1]["step"] >= int(attempt.log.split("step ")[-1]) - 11


def test_a_rebalance_recommendation_is_noted_and_ends_nothing(machine, bucket, metadata, wait_until):
    machine.speed(20)
    metadata.items["events/recommendations/rebalance"] = json.dumps({"noticeTime": "2026-01-01T00:00:00Z"})
    attempt = machine.attempt(trains(last=60), store=STORE, machine=SPOT).start()
    assert attempt.end()["cause"] == "finished"
    assert attempt.events.count("rebalance-recommended") == 1


@pytest.mark.parametrize("manner", ["closes", "hangs"])
def test_a_metadata_service_that_goes_away_and_forgets_its_tokens_is_asked_again(
    machine, bucket, metadata, wait_until, manner
):
    machine.speed(20)
    metadata.away = manner == "closes"
    if manner == "hangs":
        metadata.hanging.set()
    attempt = machine.attempt(trains(), store=STORE, machine=SPOT).start()
    attempt.prints("step 10")
    metadata.away = False
    metadata.hanging.clear()
    wait_until(lambda: attempt.state.get("instance_id") == "i-1")
    metadata.token += 1  # the agent's token is worth nothing now
    metadata.notice(machine.now() + 120)
    assert attempt.end()["cause"] == "notice"


@pytest.mark.parametrize("cause", ["stop", "finished"])
def test_a_store_that_is_away_for_a_minute_loses_nothing(machine, bucket, cause, wait_until):
    machine.speed(40)
    attempt = machine.attempt(trains(last=10_000 if cause == "stop" else 60), store=STORE).start()
    wait_until(lambda: verify(bucket))
    bucket.away = True
    if cause == "stop":
        attempt.stop()
    attempt.prints("saved")
    time.sleep(1.6)  # more than a minute on the cloud's clock
    assert attempt.process.poll() is None
    bucket.away = False
    state = attempt.end()
    assert state["cause"] == cause
    assert verify(bucket)[-1]["step"] == int(attempt.log.split()[-1])
    assert log_of(bucket).decode() == attempt.log
    assert bucket.json(f"{PREFIX}/attempt-1/state.json")["phase"] == "ended"


def test_a_store_that_hangs_for_a_minute_of_the_notice_loses_nothing(impatient, bucket, metadata, wait_until):
    """Requests are taken and never answered: the agent lives on, gives up on them, and is in time."""
    impatient.speed(16)
    attempt = impatient.attempt(trains(), store=STORE, machine=SPOT, lease_seconds=900).start()
    wait_until(lambda: verify(bucket))
    bucket.hanging.set()
    deadline = impatient.now() + 120
    metadata.notice(deadline)
    attempt.prints("saved")
    heard = attempt.state["heartbeat"]
    wait_until(lambda: impatient.now() > deadline - 60)
    wait_until(lambda: attempt.state["heartbeat"] > heard)
    assert attempt.process.poll() is None
    bucket.hanging.clear()
    state = attempt.end()
    assert (state["cause"], state["phase"]) == ("notice", "ended")
    assert state["ended"] < deadline
    assert verify(bucket)[-1]["step"] == int(attempt.log.split()[-1]) == state["committed"]["step"]
    assert log_of(bucket).decode() == attempt.log
    assert bucket.json(f"{PREFIX}/attempt-1/state.json")["phase"] == "ended"


def test_a_store_that_is_away_at_the_start_is_waited_for(machine, bucket, wait_until):
    machine.speed(20)
    bucket.away = True
    attempt = machine.attempt(trains(last=5), store=STORE).start()
    wait_until(lambda: attempt.state.get("step_name") == "checkpoint")
    time.sleep(1.0)
    assert attempt.state["step_name"] == "checkpoint"
    bucket.away = False
    assert attempt.end()["cause"] == "finished"


def test_errors_throttling_and_conflicts_of_the_store_pass_by(machine, bucket):
    machine.speed(20)
    answers = [(500, b""), (503, b"<Code>SlowDown</Code>"), (429, b""), (409, b""), (503, b""), (500, b"")]
    attempt = machine.attempt(trains(last=40), store=STORE).start()
    for _ in range(3):
        bucket.faults.extend(answers)
        time.sleep(0.2)
    assert attempt.end()["cause"] == "finished"
    assert verify(bucket)[-1]["step"] == 40
    assert log_of(bucket).decode() == attempt.log


def test_resume_skips_the_corrupt_and_tells_of_it(machine, bucket, wait_until):
    machine.speed(20)
    attempt = machine.attempt(waits_for_its_commits(last=30), store=STORE).start()
    for step in (10, 20, 30):
        wait_until(lambda step=step: any(commit["step"] == step for commit in verify(bucket)))
        (machine.checkpoints.parent / f"seen-{step}").touch()
    attempt.end()
    commits = verify(bucket)
    root = f"{PREFIX}/checkpoints/"
    newest, second, third = commits[-1], commits[-2], commits[-3]
    key = f"{root}{newest['name']}/checkpoints/{source(newest)}"
    bucket.objects[key] = bucket.objects[key][:-1] + b"?"
    del bucket.objects[f"{root}{second['name']}/checkpoints/{source(second)}"]
    (machine.checkpoints / source(newest)).unlink()
    (machine.checkpoints / source(second)).write_bytes(b"torn")
    state = machine.attempt(trains(last=65), 2, store=STORE).run()
    assert [skipped["name"] for skipped in state["checkpoints_skipped"]] == [newest["name"], second["name"]]
    assert state["resumed_from"] == third["name"]
    assert state["committed"]["name"] > newest["name"]


def test_a_named_checkpoint_that_is_corrupt_fails_with_its_name(machine, bucket):
    machine.speed(20)
    machine.attempt(trains(last=20), store=STORE).run()
    name = verify(bucket)[0]["name"]
    bucket.objects[f"{PREFIX}/checkpoints/{name}/checkpoints/{name[7:]}"] = b"nothing"
    (machine.checkpoints / name[7:]).unlink()
    state = machine.attempt(trains(last=30), 2, store=STORE, resume={"from": name}).run()
    assert (state["cause"], state["step_name"]) == ("prepare-failed", "checkpoint")
    assert name in state["message"]


def test_a_named_checkpoint_and_none_are_obeyed_and_the_argument_is_given(machine, bucket):
    machine.speed(20)
    machine.attempt(trains(last=60), store=STORE).run()
    first = verify(bucket)[0]
    show = "import sys, os; print(sys.argv[1:], os.environ.get('RUNCTL_RESUME_FROM'))"
    attempt = machine.attempt(show, 2, store=STORE, resume={"from": first["name"]}, resume_arg="--resume")
    state = attempt.run()
    path = str(machine.checkpoints / source(first))
    assert state["resumed_from"] == first["name"]
    assert attempt.log == f"['--resume', '{path}'] {path}\n"
    attempt = machine.attempt(show, 3, store=STORE, resume={"from": "none"}, resume_arg="--resume")
    assert attempt.run()["resumed_from"] is None
    assert attempt.log == "[] None\n"


def test_an_agent_that_was_given_up_for_lost_cannot_mix_its_files_into_a_later_commit(machine, bucket):
    """Two attempts that both believe in sequence 1 write under different names."""
    machine.speed(20)
    bucket.objects[f"{PREFIX}/checkpoints/000001-step-0009.pt/.claim"] = b"1"
    bucket.objects[f"{PREFIX}/checkpoints/000001-step-0009.pt/checkpoints/step-0009.pt"] = b"still arriving"
    machine.attempt(trains(last=9), 2, store=STORE).run()
    assert (
        bucket.objects[f"{PREFIX}/checkpoints/000001-step-0009.pt/checkpoints/step-0009.pt"]
        == b"still arriving"
    )
    assert [manifest["name"] for manifest in verify(bucket)] == ["000002-step-0009.pt"]


def test_latest_never_moves_back(machine, bucket):
    machine.speed(20)
    ahead = json.dumps({"name": "000900-x", "step": 1}).encode()
    bucket.objects[f"{PREFIX}/checkpoints/latest.json"] = ahead
    machine.attempt(trains(last=10), store=STORE).run()
    assert verify(bucket)
    assert bucket.objects[f"{PREFIX}/checkpoints/latest.json"] == ahead


def test_slow_uploads_skip_what_was_overtaken(machine, bucket):
    machine.speed(20)
    bucket.delay = lambda method, key: time.sleep(0.3 if key.endswith(".pt") else 0)
    attempt = machine.attempt(trains(last=80), store=STORE)
    attempt.run()
    committed = [manifest["step"] for manifest in verify(bucket)]
    assert committed == sorted(committed)
    assert committed[-1] == 80
    assert len(committed) < 7


def test_an_agent_started_again_on_its_attempt_joins_the_log(machine, bucket, wait_until):
    """A machine that was rebooted: the pieces of the log still join."""
    machine.speed(20)
    attempt = machine.attempt(trains(last=60), store=STORE).start()
    wait_until(lambda: len(log_of(bucket)) > 100)
    attempt.process.kill()
    attempt.process.wait()
    state = attempt.run()
    assert state["cause"] == "finished"
    assert log_of(bucket).decode() == attempt.log
    assert attempt.log.count("begins at") == 2


def test_a_fresh_machine_fetches_its_spec_and_its_code(machine, bucket, tmp_path):
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        text = b"import pathlib; print('hello', pathlib.Path.cwd().name)"
        info = tarfile.TarInfo("src/train.py")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    bucket.objects[f"runctl/bundles/{digest}.tar.gz"] = buffer.getvalue()
    bucket.objects["sets/digits/a.csv"] = b"1,2"
    bucket.objects["sets/digits/deep/b.csv"] = b"3"
    bucket.objects["sets/digits-2/c.csv"] = b"not ours"
    attempt = machine.attempt(
        ["python3", "train.py"],
        workdir="code/src",
        store=STORE,
        bundle={"key": f"runctl/bundles/{digest}.tar.gz", "sha256": digest},
        data={"location": "s3://bucket/sets/digits"},
        lease_seconds=900,
        machine={"disposable": True, "watch_notice": False},
    )
    spec = (attempt.folder / "spec.json").read_bytes()
    (attempt.folder / "spec.json").unlink()
    bucket.objects[f"{PREFIX}/attempt-1/spec.json"] = spec
    subprocess.run(boots(machine, hashlib.sha256(spec).hexdigest()), env=machine.environment, check=True)
    job = machine.root / ".runctl/jobs/job"
    assert (job / "attempt-1/output.log").read_text() == "hello src\n"
    assert sorted(str(p.relative_to(job / "data")) for p in (job / "data").rglob("*.csv")) == [
        "a.csv",
        "deep/b.csv",
    ]
    assert machine.shutdowns() == ["-P +15", "-P now"]


def boots(machine, spec_sha256, *options):
    command = [sys.executable, machine.agent, "boot", "--bucket", "bucket", "--prefix", PREFIX]
    pinned = ["--spec-sha256", spec_sha256, "--owner", "123456789012"]
    return [
        *command,
        *pinned,
        "--attempt",
        "1",
        "--region",
        "us-east-1",
        "--host",
        "s3.us-east-1.amazonaws.com",
        *options,
    ]


@pytest.mark.parametrize("disposable", [True, False])
def test_a_spec_that_is_not_the_one_that_was_launched_is_refused(machine, bucket, disposable):
    """Who writes to the bucket while a machine boots would have it run his command with its role."""
    attempt = machine.attempt("print('mine')", store=STORE)
    spec = (attempt.folder / "spec.json").read_bytes()
    (attempt.folder / "spec.json").unlink()
    theirs = {**json.loads(spec), "command": ["touch", str(machine.root / "theirs")], "lease_seconds": 0}
    bucket.objects[f"{PREFIX}/attempt-1/spec.json"] = json.dumps(theirs).encode()
    options = ["--disposable"] if disposable else []
    command = boots(machine, hashlib.sha256(spec).hexdigest(), *options)
    done = subprocess.run(command, env=machine.environment, check=False)
    assert done.returncode == 2
    assert not (machine.root / "theirs").exists()
    state = bucket.json(f"{PREFIX}/attempt-1/state.json")
    assert (state["phase"], state["cause"]) == ("ended", "prepare-failed")
    assert "attempt-1/spec.json in the bucket is not what was launched" in state["message"]
    assert machine.shutdowns() == (["-P now"] if disposable else [])


def test_every_request_of_a_machine_names_the_account_that_the_bucket_must_belong_to(machine, bucket):
    attempt = machine.attempt("print(1)", store={**STORE, "owner": "123456789012"})
    attempt.run()
    assert bucket.owners == {"123456789012"}


def test_a_preparation_that_fails_ends_a_disposable_machine_after_its_state_is_told(machine, bucket):
    attempt = machine.attempt(
        "print(1)",
        store=STORE,
        bundle={"key": "runctl/bundles/none.tar.gz", "sha256": "0"},
        lease_seconds=900,
        machine={"disposable": True, "watch_notice": False},
    )
    attempt.run()
    state = bucket.json(f"{PREFIX}/attempt-1/state.json")
    assert (state["phase"], state["cause"], state["step_name"]) == ("ended", "prepare-failed", "bundle")
    assert "none.tar.gz" in state["message"]
    assert machine.shutdowns()[-1] == "-P now"


def test_a_machine_that_is_not_ours_is_never_shut_down(machine, bucket):
    machine.attempt("print(1)", store=STORE, lease_seconds=900).run()
    assert machine.shutdowns() == []


def test_the_lease_is_renewed_while_the_agent_lives(machine, bucket):
    machine.speed(120)
    attempt = machine.attempt(
        "import time; time.sleep(2.5)",
        store=STORE,
        lease_seconds=601,
        machine={"disposable": True, "watch_notice": False},
    )
    attempt.run()
    assert machine.shutdowns()[-1] == "-P now"
    assert 3 <= machine.shutdowns().count("-P +11") <= 7


def test_the_machine_lives_while_a_long_upload_runs_after_the_script(machine, bucket):
    """The lease must not run out under the last checkpoint."""
    machine.speed(120)
    bucket.delay = lambda method, key: time.sleep(2 if key.endswith(".pt") else 0)
    machine.attempt(
        trains(last=3),
        store=STORE,
        lease_seconds=180,
        machine={"disposable": True, "watch_notice": False},
    ).run()
    assert verify(bucket)[-1]["step"] == 3
    assert machine.shutdowns().count("-P +3") >= 4
