"""Whole attempts on a local folder: real processes, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

SAVES_ON_SIGTERM = """
    import os, pathlib, signal, time
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    came = os.environ.get("RUNCTL_RESUME_FROM")
    step = int(pathlib.Path(came).read_text()) if came else 0
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    print("begins at", step, flush=True)
    while not stop and step < 10_000:
        step += 1
        print("step", step)
        time.sleep(0.02)
    path = folder / f"step-{step}.txt"
    path.with_suffix(".tmp").write_text(str(step))
    path.with_suffix(".tmp").rename(path)
    print("saved", step)
"""


def test_a_script_that_succeeds_is_finished_with_its_log_and_exit_file(machine):
    attempt = machine.attempt("print('step 7'); print('done')")
    state = attempt.run()
    assert (state["phase"], state["cause"], state["exit_code"]) == ("ended", "finished", 0)
    assert attempt.log == "step 7\ndone\n"
    assert (attempt.folder / "exit").read_text() == "0"
    assert state["step"] == 7
    assert state["log_bytes"] == len(attempt.log)
    assert not state["signalled"]
    assert attempt.process.returncode == 0


def test_a_script_that_fails_is_failed_with_its_exit_code(machine):
    attempt = machine.attempt("import sys; sys.exit(7)")
    state = attempt.run()
    assert (state["cause"], state["exit_code"], attempt.process.returncode) == ("failed", 7, 7)


def test_a_script_killed_with_sigkill_is_failed_with_137_and_a_whole_log(machine):
    attempt = machine.attempt("import os; print('last words', flush=True); os.kill(os.getpid(), 9)")
    state = attempt.run()
    assert (state["cause"], state["exit_code"]) == ("failed", 137)
    assert attempt.log == "last words\n"


def test_output_that_no_newline_ended_is_still_there(machine):
    assert machine.attempt("import sys; sys.stdout.write('x' * 100_000)").run()["log_bytes"] == 100_000


def test_the_script_sees_its_folders_and_its_attempt(machine):
    attempt = machine.attempt(
        "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('RUNCTL')}))",
        environment={"RUNCTL_CUSTOM": "1"},
    )
    attempt.run()
    seen = json.loads(attempt.log)
    assert seen == {
        "RUNCTL_JOB_ID": "job",
        "RUNCTL_ATTEMPT": "1",
        "RUNCTL_CHECKPOINT_DIR": str(machine.checkpoints),
        "RUNCTL_OUTPUT_DIR": str(machine.job / "outputs"),
        "RUNCTL_CUSTOM": "1",
    }


def test_a_script_that_cannot_be_started_is_a_failed_preparation(machine):
    state = machine.attempt(["no-such-program"]).run()
    assert (state["phase"], state["cause"], state["step_name"]) == ("ended", "prepare-failed", "script")
    assert "no-such-program" in state["message"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#!/no/such/interpreter -u\n", "its first line names '/no/such/interpreter -u', which is not here"),
        ("#!/bin/sh\r\n", "its first line names '/bin/sh\\r', which is not here"),
        ("echo hello\n", "it is no program of this machine, and has no first line with #!"),
    ],
)
def test_a_script_without_its_interpreter_is_not_called_missing(machine, tmp_path, text, why):
    script = tmp_path / "train.sh"
    script.write_bytes(text.encode())
    script.chmod(0o755)
    state = machine.attempt([str(script)]).run()
    assert (state["cause"], state["step_name"]) == ("prepare-failed", "script")
    assert state["message"] == f"{script} cannot start: {why}"


def test_stop_saves_and_the_next_attempt_goes_on_there(machine):
    first = machine.attempt(SAVES_ON_SIGTERM).start()
    first.prints("step 5")
    first.stop()
    state = first.end()
    assert (state["cause"], state["exit_code"], state["signalled"]) == ("stop", 0, True)
    step = state["committed"]["step"]
    assert state["committed"]["name"] == f"000001-step-{step}.txt"
    assert f"saved {step}" in first.log
    second = machine.attempt(SAVES_ON_SIGTERM, 2).start()
    second.prints(f"begins at {step}")
    second.process.send_signal(signal.SIGTERM)  # a signal to the agent asks for the same end
    state = second.end()
    assert (state["cause"], state["resumed_step"]) == ("stop", step)
    assert state["committed"]["step"] > step
    assert state["committed"]["name"].startswith("000002-")


def test_a_checkpoint_committed_after_the_end_is_final_and_takes_its_step_from_the_log(machine):
    state = machine.attempt(
        "import os, pathlib, pickle; print('step 41\\nstep 42');"
        " pathlib.Path(os.environ['RUNCTL_CHECKPOINT_DIR'], 'model.pkl').write_bytes(pickle.dumps(['x']))"
    ).run()
    assert state["committed"] == {
        "name": "000001-model.pkl",
        "checkpoint": "checkpoints/model.pkl",
        "step": 42,
        "at": state["committed"]["at"],
        "seconds_after_notice": None,
    }
    manifest = json.loads((machine.job / "committed/000001-model.pkl/manifest.json").read_text())
    assert (manifest["final"], manifest["step"], manifest["attempt"]) == (True, 42, 1)


def test_a_file_of_unknown_format_is_not_trusted_when_its_writer_was_shot(machine):
    state = machine.attempt(
        "import os, pathlib; p = pathlib.Path(os.environ['RUNCTL_CHECKPOINT_DIR']);"
        "(p / 'whole.npz').write_bytes(__import__('pathlib').Path(os.environ['NPZ']).read_bytes());"
        "(p / 'torn.pkl').write_bytes(b'x' * 10); os.kill(os.getpid(), 9)",
        environment={"NPZ": str(_npz(machine.root))},
    ).run()
    assert state["committed"]["name"] == "000001-whole.npz"


def _npz(folder: Path) -> Path:
    import numpy as np

    np.savez(folder / "a.npz", a=np.arange(10))
    return folder / "a.npz"


def test_only_the_newest_two_commits_stay_on_this_machine(machine):
    machine.speed(20)
    script = """
        import os, pathlib, time
        for step in range(4):
            (pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"]) / f"step-{step}.txt").write_text(str(step))
            time.sleep(0.8)
        """
    machine.attempt(script).run()
    kept = sorted(path.name for path in (machine.job / "committed").iterdir() if path.is_dir())
    assert [name.split("-", 1)[1] for name in kept] == ["step-2.txt", "step-3.txt"]


def test_what_lay_in_a_shared_folder_before_the_job_is_not_its_work(machine):
    """A local script may keep its checkpoints where earlier jobs left theirs."""
    folder = machine.root / "project"
    folder.mkdir()
    (folder / "old.npz").write_bytes(_npz(machine.root).read_bytes())
    os.utime(folder / "old.npz", (1, 1))
    first = machine.attempt("print(1)", checkpoint_dir=str(folder)).run()
    assert first["committed"] is None
    second = machine.attempt("print(1)", 2, checkpoint_dir=str(folder)).run()
    assert (second["committed"], second["resumed_from"]) == (None, None)


def test_an_attempt_after_a_step_back_goes_on_from_what_was_committed_since(machine):
    """And from nothing that was left behind, although that is newer than where it stepped back to."""
    script = """
        import os, pathlib, sys
        pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"], sys.argv[1] + ".txt").write_text(sys.argv[1])
        """
    path = machine.root / "save.py"
    path.write_text(textwrap.dedent(script))

    def attempt(number, saves, **resume):
        command = [sys.executable, str(path), saves] if saves else [sys.executable, "-c", ""]
        state = machine.attempt(command, number, resume=resume or {"from": "newest"}).run()
        assert state["exit_code"] == 0
        return state["resumed_from"], (state["committed"] or {}).get("name")

    assert attempt(1, "old") == (None, "000001-old.txt")
    assert attempt(2, "left-behind") == ("000001-old.txt", "000002-left-behind.txt")
    back = {"from": "000001-old.txt", "since": 3}
    assert attempt(3, "", **back) == ("000001-old.txt", None)
    assert attempt(4, "anew", **back) == ("000001-old.txt", "000003-anew.txt"), "nothing was committed since"
    assert attempt(5, "more", **back) == ("000003-anew.txt", "000004-more.txt")
    newest = machine.job / "checkpoints" / "more.txt"
    newest.unlink()
    for file in machine.job.rglob("000004-more.txt/checkpoints/more.txt"):
        file.write_text("torn")
    assert attempt(6, "", **back)[0] == "000003-anew.txt", "one that does not verify is passed over"


def test_a_local_checkpoint_that_is_torn_is_put_aside_and_restored(machine):
    script = """
        import os, pathlib
        path = os.environ.get("RUNCTL_RESUME_FROM")
        print(pathlib.Path(path).read_text() if path else None)
        pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"], "state.txt").write_text("whole")
        """
    machine.attempt(script).run()
    (machine.checkpoints / "state.txt").write_text("to")
    os.utime(machine.checkpoints / "state.txt", (1, 1))
    second = machine.attempt(script, 2)
    second.run()
    assert second.log == "whole\n"
    assert (machine.checkpoints / "state.txt.corrupt-1").read_text() == "to"


def test_stop_is_noticed_at_once(machine):
    attempt = machine.attempt("import time; print('up', flush=True); time.sleep(60)").start()
    attempt.prints("up")
    begun = time.monotonic()
    attempt.stop()
    assert attempt.end()["exit_code"] == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 4  # and not with the next heartbeat, after five


def test_the_stop_command_asks_for_the_end(machine):
    attempt = machine.attempt("import time; print('up', flush=True); time.sleep(60)").start()
    attempt.prints("up")
    subprocess.run([sys.executable, machine.agent, "stop", attempt.folder], check=True)
    assert attempt.end()["cause"] == "stop"


def test_a_script_that_ignores_the_signal_is_killed_and_what_is_complete_is_kept(machine):
    machine.speed(25)
    attempt = machine.attempt(
        """
        import os, pathlib, signal, time, zipfile
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        for step in range(3):
            with zipfile.ZipFile(folder / f"step-{step}.pt", "w") as file:
                file.writestr("a", b"x" * 1000)
        (folder / "step-3.pt").write_bytes((folder / "step-2.pt").read_bytes()[:-30])
        print("up", flush=True)
        time.sleep(60)
        """
    ).start()
    attempt.prints("up")
    attempt.stop()
    state = attempt.end()
    assert (state["cause"], state["exit_code"]) == ("stop", 137)
    assert state["committed"]["name"].endswith("step-2.pt")
    assert "killed" in attempt.events


def test_no_process_of_the_script_remains(machine, still_living):
    attempt = machine.attempt(
        """
        import os, subprocess, time
        subprocess.Popen(["sleep", "300"])
        subprocess.Popen(["setsid", "sleep", "300"])
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(300)
            os._exit(0)
        time.sleep(0.3)
        print("gone")
        """
    )
    state = attempt.run()
    assert state["cause"] == "finished"
    assert still_living(str(machine.root)) == []


def test_children_that_trap_the_signal_do_not_remain_after_a_stop(machine, still_living):
    machine.speed(40)
    attempt = machine.attempt(
        ["bash", "-c", "trap '' TERM; setsid bash -c \"trap '' TERM; sleep 300\" & echo up; wait; sleep 300"]
    ).start()
    attempt.prints("up")
    attempt.stop()
    assert attempt.end()["exit_code"] == 137
    assert still_living(str(machine.root)) == []


def test_what_a_shell_started_hears_the_signal_when_the_shell_is_gone(machine):
    script = machine.root / "child.py"
    script.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('heard', flush=True), sys.exit(0)))\n"
        "print('up', flush=True)\ntime.sleep(60)\n"
    )
    attempt = machine.attempt(["sh", "-c", f"{sys.executable} {script}; echo never"]).start()
    attempt.prints("up")
    attempt.stop()
    attempt.end()
    assert attempt.log == "up\nheard\n"


def test_zombies_of_orphans_are_collected_while_the_script_runs(machine, wait_until):
    machine.speed(20)
    attempt = machine.attempt(
        """
        import os, time
        for _ in range(5):
            if os.fork() == 0:
                if os.fork() == 0:
                    os._exit(0)
                time.sleep(0.1)
                os._exit(0)
            os.wait()
        print("up", flush=True)
        time.sleep(60)
        """
    ).start()
    attempt.prints("up")
    wait_until(lambda: len(_children(attempt.process.pid)) == 1)
    attempt.stop()
    attempt.end()


def test_the_deadline_ends_an_attempt(machine):
    machine.speed(40)
    attempt = machine.attempt("import time; time.sleep(60)", deadline=machine.now() + 160)
    state = attempt.run()
    assert (state["cause"], state["message"]) == ("deadline", "its time is over")


def test_the_budget_ends_an_attempt_and_says_what_was_spent(machine):
    machine.speed(40)
    budget = {"usd": 1.0, "spent_usd": 0.5, "usd_per_hour": 60.0, "since": machine.now()}
    state = machine.attempt("import time; time.sleep(60)", budget=budget).run()
    assert state["cause"] == "budget"
    assert "of a budget of $1.00 are spent" in state["message"]
    assert 30 <= state["ended"] - budget["since"] <= 90


def test_the_budget_is_enforced_while_preparing_too(machine):
    """An installation that takes for ever must not cost for ever."""
    fake = machine.root / "bin" / "uv"
    fake.write_text("#!/bin/sh\nsleep 300\n")
    fake.chmod(0o755)
    python = {"kind": "requirements", "requirements": ["no-such-thing-7"], "digest": "d"}
    budget = {"usd": 0.0123, "spent_usd": 0.01229999, "usd_per_hour": 0.01, "since": time.time()}
    state = machine.attempt("print(1)", python=python, budget=budget).run(10)
    assert (state["cause"], state["step_name"], state["exit_code"]) == ("budget", "environment", None)
    # A sum below a dollar is worth its hundredths of a cent.
    assert state["message"].startswith("$0.0123 of a budget of $0.0123 are spent")


def test_no_step_of_the_preparation_outlives_its_end(machine):
    """The step that was ended was followed by the next, which nobody ended."""
    machine.speed(10)
    started = machine.root / "started"
    for name in ("python3", "uv"):
        fake = machine.root / "bin" / name
        fake.unlink(missing_ok=True)
        fake.write_text(f"#!/bin/sh\necho $$ >> {started}\nexec sleep 300\n")
        fake.chmod(0o755)
    python = {"kind": "requirements", "requirements": ["no-such-thing-7"], "digest": "d"}
    attempt = machine.attempt("print(1)", python=python, deadline=machine.now() + 20)
    assert attempt.run()["cause"] == "deadline"
    pids = started.read_text().split()
    assert pids
    assert [pid for pid in pids if Path("/proc", pid).exists()] == []


def test_an_attempt_that_ended_or_runs_is_refused(machine):
    attempt = machine.attempt("import time; print('up', flush=True); time.sleep(60)").start()
    attempt.prints("up")
    command = [sys.executable, machine.agent, "run", attempt.folder / "spec.json"]
    assert subprocess.call(command, env=machine.environment, stderr=subprocess.DEVNULL) == 3
    attempt.stop()
    attempt.end()
    assert subprocess.call(command, env=machine.environment, stderr=subprocess.DEVNULL) == 3
    assert attempt.log == "up\n"


def test_a_spec_that_cannot_be_used_is_said_so(machine):
    attempt = machine.attempt("print(1)")
    (attempt.folder / "spec.json").write_text("{")
    attempt.start().process.wait(10)
    assert attempt.process.returncode == 2
    assert "spec" in (machine.root / "agent.out").read_text()


def test_an_agent_that_is_killed_leaves_a_script_that_the_next_attempt_ends_first(machine, still_living):
    first = machine.attempt(SAVES_ON_SIGTERM).start()
    first.prints("step 5")
    first.process.kill()
    first.process.wait()
    assert still_living(str(machine.root))
    second = machine.attempt(SAVES_ON_SIGTERM, 2).start()
    second.prints("begins at")
    assert len(still_living(str(machine.root))) == 1
    second.stop()
    second.end()
    assert "saved" in first.log  # it was asked, not shot


@pytest.mark.parametrize("after", [0.12, 0.3, 0.55, 0.9, 1.4])
def test_a_killed_agent_is_followed_by_one_that_resumes_from_a_whole_checkpoint(machine, after):
    script = """
        import os, pathlib, time, zipfile
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        came = os.environ.get("RUNCTL_RESUME_FROM")
        step = int(zipfile.ZipFile(came).read("step")) if came else 0
        print("begins at", step, flush=True)
        for step in range(step + 1, step + (20_000 if not came else 2)):
            with zipfile.ZipFile(folder / f"step-{step:04}.pt", "w") as file:
                for part in range(20):
                    file.writestr(f"{part}", os.urandom(20_000))
                file.writestr("step", str(step))
            time.sleep(0.005)
        """
    machine.speed(10)
    first = machine.attempt(script).start()
    first.prints("begins at")
    time.sleep(after)
    for pid in [first.process.pid, *([first.state["pid"]] if first.state.get("pid") else [])]:
        os.kill(pid, signal.SIGKILL)
    first.process.wait()
    state = machine.attempt(script, 2).run()
    assert state["cause"] == "finished", (machine.root / "agent.out").read_text()
    if state["resumed_from"]:
        assert state["resumed_step"] >= 1
    assert state["resumed_from"] or after < 0.5
    assert state["checkpoints_skipped"] == []


# Saves step 1, waits until that is safe, fills the disk to its last byte, fails to save step 2, and goes on.
FILLS_THE_DISK = """
    import os, pathlib, subprocess, time, zipfile
    folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
    root = pathlib.Path("ROOT")
    came = os.environ.get("RUNCTL_RESUME_FROM")
    if came:
        print("resumed at", zipfile.ZipFile(came).read("step").decode(), flush=True)
        raise SystemExit
    def save(step):
        with zipfile.ZipFile(folder / f"step-{step:04}.pt", "w") as file:
            file.writestr("step", str(step))
            file.writestr("weights", os.urandom(50_000))
    save(1)
    print("step 1", flush=True)
    while not (root / "safe").exists():
        time.sleep(0.02)
    with open(root / "job" / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass
    subprocess.Popen(["setsid", "sleep", "300"])
    try:
        save(2)
    except OSError:
        pass
    (root / "full").touch()
    while not (root / "go").exists():
        time.sleep(0.02)
"""


@pytest.fixture
def small_disk(machine):
    """The job's folder on a disk of its own of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    machine.job.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", machine.job], check=False)
    if mounted.returncode != 0:
        pytest.skip("no mount is allowed here")
    yield machine.job
    subprocess.run(["umount", "-l", machine.job], check=True)


def test_a_full_disk_ends_nothing_and_hides_neither_the_end_nor_what_was_safe(
    machine, small_disk, still_living, wait_until
):
    machine.speed(20)
    script = FILLS_THE_DISK.replace("ROOT", str(machine.root))
    attempt = machine.attempt(script).start()
    wait_until(lambda: (attempt.state.get("committed") or {}).get("step") == 1)
    (machine.root / "safe").touch()
    wait_until((machine.root / "full").exists)
    assert attempt.process.poll() is None
    (machine.root / "go").touch()

    state = attempt.end()
    assert (state["phase"], state["cause"], state["exit_code"]) == ("ended", "finished", 0)
    assert state["committed"]["step"] == 1
    assert (attempt.folder / "exit").read_text() == "0"
    assert attempt.process.returncode == 0
    assert still_living(str(machine.root)) == []
    (small_disk / "filler").unlink()
    second = machine.attempt(script, 2)
    assert second.run()["resumed_step"] == 1
    assert second.log == "resumed at 1\n"


def test_writing_less_than_a_state_is_a_trouble_that_the_state_tells(machine, monkeypatch):
    """A limit on file sizes is a full disk for one process."""
    from runctl.agent.attempt import Attempt

    monkeypatch.setenv("HOME", str(machine.root))
    attempt = Attempt(str(machine.attempt("print(1)").folder))
    attempt.update(phase="running")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        attempt.update(step=3)
        attempt.event("something")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    told = json.loads(attempt.snapshot())
    assert told["step"] == 3
    assert "could not be written" in told["message"]
    on_disk = json.loads(Path(attempt.path("state.json")).read_text())
    assert on_disk["step"] is None  # the old state is whole
    attempt.write()
    assert json.loads(Path(attempt.path("state.json")).read_text())["step"] == 3
    assert b"something" in attempt.events()


FOR_EVER = """
import runpy, sys, threading
wait, join = threading.Condition.wait, threading.Thread.join
threading.Condition.wait = lambda self, timeout=None: wait(self)
threading.Thread.join = lambda self, timeout=None: join(self)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("seconds", "cause"), [(1, "finished"), (600, "stop")])
def test_where_the_clock_of_a_process_is_set_its_agent_hears_the_script_and_a_stop(machine, seconds, cause):
    """Under faketime a lock that is waited for with a limit is waited for without one: so does FOR_EVER."""
    attempt = machine.attempt(f"import time; print('up', flush=True); time.sleep({seconds})")
    spec = str(attempt.folder / "spec.json")
    attempt.process = machine.spawn([sys.executable, "-c", FOR_EVER, str(machine.agent), "run", spec])
    attempt.prints("up")
    if cause == "stop":
        attempt.stop()
    assert attempt.end()["cause"] == cause


def _children(pid: int) -> list[str]:
    """Of each thread: the script is the child of the one that started it."""
    found: list[str] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found += path.read_text().split()
    return found


def test_steps_that_go_on_without_a_checkpoint_are_told_while_the_script_runs(machine, wait_until):
    """It saves as usual, then into files that are never whole."""
    machine.speed(100)
    attempt = machine.attempt(
        """
        import os, pathlib, time, zipfile
        folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
        step = 0
        while not (folder / "end").exists():
            step += 1
            path = folder / f"step-{step}.pt"
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("a", b"x" * 1000)
            if step > 8:
                path.write_bytes(path.read_bytes()[:-30])
            print("step", step, flush=True)
            time.sleep(0.3)
        """
    )
    attempt.start()
    silence = wait_until(lambda: attempt.state.get("silence"))
    assert silence["seen"].endswith("is torn, by its format")
    assert silence["since"] >= attempt.state["script_started"]
    (machine.checkpoints / "end").write_text("")
    attempt.end()
    assert attempt.events.count("silence") == 1
