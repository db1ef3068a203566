"""Whom the end of an attempt signals: scripts behind shells, pipes, launchers and wrappers still save."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.agent import listeners
from runctl.agent.listeners import FORWARDERS, WRAPPERS, Process, look, whom_to_signal

TRAINER = """
import os, pathlib, signal, sys, time
stop = []
def hear(*_):
    print("signal", len(stop) + 1, flush=True)
    stop.append(1)
signal.signal(signal.SIGTERM, hear)
workers = []
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 0):
    pid = os.fork()  # as a data loader's worker, it has its parent's handler
    if pid == 0:
        while not stop:
            time.sleep(0.01)
        os._exit(1)
    workers.append(pid)
print("up", flush=True)
while not stop:
    time.sleep(0.02)
for pid in workers:
    if os.waitpid(pid, os.WNOHANG) != (0, 0):
        sys.exit("a worker was ended under the script")
for line in range(1000):
    print("saving", line, flush=True)  # whoever reads this must still be there
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
(folder / "step-1.tmp").write_text("1")
(folder / "step-1.tmp").rename(folder / "step-1.txt")
for pid in workers:
    os.kill(pid, signal.SIGKILL)
print("saved", flush=True)
if "--again" in sys.argv:  # ends as many frameworks do: by the signal itself
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit(143)
"""
RANKS = """
import os, signal, subprocess, sys
def end(*_):
    for rank in ranks:
        os.killpg(rank.pid, signal.SIGTERM)
signal.signal(signal.SIGTERM, end)
ranks = [subprocess.Popen([sys.executable, "trainer", "2"], start_new_session=True) for _ in range(2)]
codes = [rank.wait() for rank in ranks]
print("ranks ended", codes, flush=True)
"""
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)\n"
KEEPS_IT = (
    "import signal, subprocess, sys\n"
    "signal.signal(signal.SIGTERM, lambda *_: None)\n"
    "sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)\n"
)
BEHIND = {
    "itself": "exec python trainer",
    "by the signal itself": "exec python trainer 0 --again",
    "shell": "python trainer; echo next",
    "shell that exits on failure": "set -e; python trainer; echo next",
    "tee": "python trainer 2>&1 | tee copy; echo next",
    "loop that reads": "python trainer 2>&1 | while read line; do echo $line; done",
    "substitution": 'out=$(python trainer); echo "$out"',
    "trap": "trap 'echo trapped; exit 1' TERM; python trainer; echo next",
    "trap that waits": "trap 'echo trapped' TERM; python trainer & wait; wait; echo end",
    "workers behind a shell": "python trainer 2; echo next",
    "launcher": "python launcher trainer",
    "launcher with workers": "python launcher trainer 2",
    "launcher that keeps the signal": "python keeps trainer",
    "torchrun, which signals groups": "python torchrun",
    "make": "make -s -f makefile",
    "make with tee": "make -s -f makefile tee",
    "timeout with workers": "timeout 300 python trainer 2",
    "script": "script -qefc 'python trainer' /dev/null",
    "xargs": "echo 0 | xargs python trainer",
    "a session of its own": "setsid python trainer & wait; echo next",
    "two of them": "python trainer & python trainer & wait; echo next",
}


@pytest.mark.parametrize("behind", BEHIND)
def test_a_script_that_saves_on_the_signal_saves_behind(behind, machine, wait_until):
    for name, text in {
        "trainer": TRAINER,
        "launcher": LAUNCHER,
        "keeps": KEEPS_IT,
        "torchrun": RANKS,
    }.items():
        (machine.root / name).write_text(text)
    (machine.root / "makefile").write_text("all:\n\t@python trainer\ntee:\n\t@python trainer | tee copy\n")
    machine.speed(10)
    wrapper = f'export PATH="{Path(sys.executable).parent}:$PATH"\n{BEHIND[behind]}\n'
    (machine.root / "run.sh").write_text(wrapper)
    attempt = machine.attempt(["bash", "run.sh"], grace_seconds=80.0).start()
    if behind == "substitution":  # what it prints is seen at its end alone
        wait_until(lambda: _listens(attempt))
    else:
        attempt.prints("up")
    attempt.stop()
    state = attempt.end()
    assert state["committed"], attempt.log
    assert (machine.checkpoints / "step-1.txt").read_text() == "1"
    assert "next" not in attempt.log
    assert "signal 2" not in attempt.log  # a second signal would interrupt a save
    assert "killed" not in attempt.events


def test_a_wrapper_with_a_trap_gets_its_turn_when_the_script_has_saved(machine):
    (machine.root / "trainer").write_text(TRAINER)
    (machine.root / "run.sh").write_text(
        f"trap 'echo trapped; exit 7' TERM\n{sys.executable} trainer\necho next\n"
    )
    attempt = machine.attempt(["bash", "run.sh"]).start()
    attempt.prints("up")
    attempt.stop()
    assert attempt.end()["exit_code"] == 7
    assert attempt.log.index("saved") < attempt.log.index("trapped")


def test_what_proc_says_of_a_process():
    import os
    import subprocess

    code = "import signal as s, time; s.signal(s.SIGTERM, print); s.signal(s.SIGHUP, s.SIG_IGN)"
    with subprocess.Popen(
        [sys.executable, "-c", code + "; print(1, flush=True); time.sleep(60)"], stdout=-1
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = look(child.pid, signal.SIGTERM)
        assert found is not None
        assert (found.parent, found.catches, found.ignores) == (os.getpid(), True, False)
        assert found.program.startswith("python")
        hup = look(child.pid, signal.SIGHUP)
        assert hup is not None
        assert (hup.catches, hup.ignores) == (False, True)
        child.kill()
        child.wait()
        assert look(child.pid, signal.SIGTERM) is None


PROGRAMS = st.sampled_from(["python3.11", "bash", "tee", "uv", "make", "java", "torchrun"])
COMMANDS = st.sampled_from([b"python train.py", b"python serve.py", b"python -c multiprocessing.spawn", b"x"])


@st.composite
def trees(draw) -> dict[int, Process]:
    living = {}
    for pid in range(2, draw(st.integers(3, 10))):
        catches = draw(st.booleans())
        ignores = not catches and draw(st.booleans())
        parent = draw(st.integers(1, pid - 1))
        living[pid] = Process(pid, parent, draw(PROGRAMS), draw(COMMANDS), catches, ignores)
    return living


def above(pid: int, living: dict[int, Process]) -> list[int]:
    found = []
    while (pid := living[pid].parent) in living:
        found.append(pid)
    return found


@given(living=trees(), late=st.booleans())
def test_while_one_listens_only_listeners_are_signalled_each_once(living, late):
    told: dict[int, float] = {}
    for now in range(20):
        chosen = whom_to_signal(living, told, float(now), late=late)
        assert chosen.isdisjoint(told)
        if any(process.listens for process in living.values()):
            assert all(living[pid].listens for pid in chosen)
            assert all(living[pid].program not in WRAPPERS for pid in chosen)
        for pid in chosen:
            listening = [one for one in above(pid, living) if living[one].listens]
            if listening:  # the one above seems to keep it to itself
                assert late
                assert listening[0] in told
                assert living[listening[0]].command != living[pid].command
                assert living[listening[0]].program not in FORWARDERS
        told.update(dict.fromkeys(chosen, float(now)))


@given(living=trees(), dies=st.sets(st.integers(2, 10)))
def test_at_last_everybody_who_lives_was_signalled(living, dies):
    """Those who hear it end; of the rest some do and some do not."""
    told: dict[int, float] = {}
    ever = set()
    for now in range(50):
        chosen = whom_to_signal(living, told, float(now))
        told.update(dict.fromkeys(chosen, float(now)))
        ever |= chosen
        gone = {pid for pid in chosen if living[pid].listens or (pid in dies and not living[pid].ignores)}
        living = {
            pid: process if process.parent not in gone else process._replace(parent=1)
            for pid, process in living.items()
            if pid not in gone
        }
    assert set(living) <= ever


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (["python", "bin/torchrun", "train.py"], "torchrun"),
        (["python", "-u", "-m", "torch.distributed.run", "train.py"], "torch.distributed.run"),
        (["python", "train.py", "--deepspeed", "torchrun"], "python"),
        (["python", "-m", "train", "torchrun"], "python"),
        (["bash", "torchrun.sh"], "bash"),
    ],
)
def test_a_launcher_is_known_by_what_python_runs(command, program):
    text = b"\0".join(word.encode() for word in command) + b"\0"
    assert listeners._program(0, text) == program  # pid 0 has no executable: the first word stands for it


def _listens(attempt) -> bool:
    pid = attempt.state.get("pid")
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if pid else []
    for child in found:
        grand = Path(f"/proc/{child}/task/{child}/children").read_text().split()
        for one in [child, *grand]:
            process = look(int(one), signal.SIGTERM)
            if process is not None and process.listens:
                return True
    return False
