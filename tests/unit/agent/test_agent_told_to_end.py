"""Ends that only look like a finished script: a signal to all, a worker that the kernel killed for memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl.agent.memory import Memory

EXITS_0_ON_SIGTERM = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("step 1 of 100000", flush=True)
    time.sleep(600)
"""

GOES_ON_WITHOUT_ITS_WORKER = """
    import os, sys
    worker = os.fork()
    if worker == 0:
        eaten = bytearray(300 * 1024**2)
        os._exit(0)
    _, how = os.waitpid(worker, 0)
    print("worker ended with", how, flush=True)
    sys.exit(CODE)
"""


@pytest.mark.parametrize("first", ["script", "agent"])
@pytest.mark.parametrize(("disposable", "cause"), [(True, "shutdown"), (False, "stop")])
def test_a_signal_to_agent_and_script_at_once_is_not_a_finished_script(machine, disposable, cause, first):
    """As systemd sends it at a shutdown, and where a process of the unit is killed for memory."""
    attempt = machine.attempt(
        EXITS_0_ON_SIGTERM, machine={"disposable": disposable, "watch_notice": False}
    ).start()
    attempt.prints("step 1")
    pids = [attempt.state["pid"], attempt.process.pid]
    for pid in pids if first == "script" else reversed(pids):
        os.kill(pid, signal.SIGTERM)
    state = attempt.end()
    assert (state["cause"], state["exit_code"]) == (cause, 0)


def test_a_script_that_finished_before_a_signal_came_stays_finished(machine, wait_until):
    """The machine is shut down while the last files are sent."""
    attempt = machine.attempt("print('done')", store={"kind": "folder", "path": str(machine.job)}).start()
    wait_until(lambda: attempt.state.get("phase") == "ended", what="it ends")
    with contextlib.suppress(ProcessLookupError):
        attempt.process.send_signal(signal.SIGTERM)
    assert attempt.end()["cause"] == "finished"


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group of 64 MiB, of either version."""
    own = Path("/proc/self/cgroup").read_text().splitlines()
    first = [line.split(":", 2)[2] for line in own if "memory" in line.split(":")[1].split(",")]
    root = Path("/sys/fs/cgroup/memory" if first else "/sys/fs/cgroup")
    path = first[0] if first else own[-1].split(":", 2)[2]
    group = root / path.lstrip("/") / f"runctl-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if first else "memory.max")
        limit.write_text(str(64 * 1024**2))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_whose_worker_was_killed_for_memory_does_not_end_succeeded(machine, little_memory, code):
    attempt = machine.attempt(GOES_ON_WITHOUT_ITS_WORKER.replace("CODE", str(code)))
    enter = f"echo $$ > {little_memory}/cgroup.procs && exec {sys.executable} {machine.agent} run"
    attempt.process = machine.spawn(["sh", "-c", f"{enter} {attempt.folder}/spec.json"])
    state = attempt.end()
    assert "worker ended with 9" in attempt.log
    assert (state["cause"], state["exit_code"]) == ("failed", code)
    assert state["message"].startswith("out of memory: a worker was killed")


def test_a_script_that_is_killed_for_memory_says_so(machine, little_memory):
    attempt = machine.attempt("print('up', flush=True); bytearray(300 * 1024**2)")
    enter = f"echo $$ > {little_memory}/cgroup.procs && exec {sys.executable} {machine.agent} run"
    attempt.process = machine.spawn(["sh", "-c", f"{enter} {attempt.folder}/spec.json"])
    state = attempt.end()
    assert (state["cause"], state["message"]) == ("failed", "out of memory: the script was killed")


@pytest.mark.parametrize(
    ("line", "group", "name"),
    [
        ("0::/system.slice/runctl-j-1.service", "system.slice/runctl-j-1.service", "memory.events"),
        ("4:memory:/system.slice/u.service\n0::/", "memory/system.slice/u.service", "memory.oom_control"),
    ],
)
def test_kills_are_counted_by_either_version_of_control_groups(tmp_path, line, group, name):
    folder = tmp_path / "sys/fs/cgroup" / group
    folder.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(line + "\n")
    (folder / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (folder / name).write_text("oom 1\noom_kill 2\n")
    memory = Memory(str(tmp_path))
    assert memory.why(0) is None
    (folder / name).write_text("oom 3\noom_kill 4\n")
    assert memory.killed() == 2
    assert memory.why(0) == "out of memory: a worker was killed"
    assert memory.why(137) == "out of memory: the script was killed"


def test_a_group_that_others_are_in_proves_nothing_of_our_workers(tmp_path):
    folder = tmp_path / "sys/fs/cgroup/user.slice"
    folder.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user.slice\n")
    (folder / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    (folder / "memory.events").write_text("oom_kill 0\n")
    memory = Memory(str(tmp_path))
    (folder / "memory.events").write_text("oom_kill 1\n")
    assert memory.why(0) is None
    assert memory.why(137) == "out of memory: the script was killed"


def test_what_an_agent_that_is_spared_starts_is_not_spared(machine, tmp_path):
    """The unit gives the agent a score; processes inherit theirs."""
    if subprocess.run(["sh", "-c", "echo -900 >/proc/self/oom_score_adj"], check=False).returncode:
        pytest.skip("nobody may spare a process here")
    attempt = machine.attempt(
        "print('score', open('/proc/self/oom_score_adj').read(), flush=True); import time; time.sleep(600)"
    )
    spared = f"echo -900 > /proc/self/oom_score_adj && exec {sys.executable} {machine.agent} run"
    attempt.process = machine.spawn(["sh", "-c", f"{spared} {attempt.folder}/spec.json"])
    attempt.prints("score 0")
    assert Path(f"/proc/{attempt.process.pid}/oom_score_adj").read_text().strip() == "-900"
    attempt.stop()
    assert attempt.end()["cause"] == "stop"
