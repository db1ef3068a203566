"""Ctrl-C twice: one clean line and 130 wherever the process is; real processes, real signals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

RUNCTL = str(Path(sys.executable).parent / "runctl")
SECOND = "error: interrupted again, and left at once; a job may go on: runctl jobs list, runctl tx list"
FIRST = "error: interrupted"
DEADLINE = 60


@contextmanager
def process(*command: str, cwd: Path, **environment: str) -> Generator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


PLACES = {
    "an import": "exec('class Slow:\\n  import time; say(); time.sleep(99)')",
    "a call of C that no signal ends": (
        "import ctypes; lock = ctypes.create_string_buffer(64); c = ctypes.CDLL(None)\n"
        "  c.pthread_mutex_lock(lock); say(); c.pthread_mutex_lock(lock)"
    ),
    "the rendering of an error": (
        "from runctl.render import output; from runctl.errors import NotFound\n"
        "  output.talk = lambda *_, **__: time.sleep(99)\n"
        "  try: say(); time.sleep(99)\n"
        "  except KeyboardInterrupt: raise NotFound('x')"
    ),
    "a handler that hears and goes on": (
        "import signal; signal.signal(signal.SIGINT, lambda *_: None); say(); time.sleep(99); time.sleep(99)"
    ),
    "a block that swallows it": (
        "say()\n  while True:\n    try: time.sleep(99)\n    except KeyboardInterrupt: pass"
    ),
    "a thread that is waited for at the end": (
        "import threading; threading.Thread(target=time.sleep, args=(99,)).start(); say(); time.sleep(99)"
    ),
    "what runs last": "import atexit; atexit.register(time.sleep, 99); say(); time.sleep(99)",
}


def program(body: str, *, as_json: bool = False) -> list[str]:
    """`runctl` whose command is `body`; `say` tells that it has come there."""
    arguments = ["-o", "json"] if as_json else []
    code = (
        "import os, sys, time\nfrom runctl.cli import main\n"
        "def say(): os.write(1, b'here\\n')\n"
        f"def _invoke(arguments):\n  {body}\n"
        f"main._invoke = _invoke\nsys.argv[1:] = {arguments!r}\nmain.main()"
    )
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("place", PLACES)
def test_the_second_leaves_at_once_with_one_line(place: str, tmp_path: Path) -> None:
    with process(*program(PLACES[place]), cwd=tmp_path) as running:
        assert running.stdout
        assert running.stdout.readline() == "here\n"
        time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two at once may be one to the system
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=DEADLINE)
    assert running.returncode == 130
    # Where the first one was told, the second may end what Python does after the last line.
    assert told.splitlines() in ([FIRST], [SECOND], [FIRST, SECOND])


def test_the_first_is_one_line_and_an_object_with_json(tmp_path: Path) -> None:
    for as_json in (False, True):
        with process(*program("say(); time.sleep(99)", as_json=as_json), cwd=tmp_path) as running:
            assert running.stdout
            running.stdout.readline()
            time.sleep(0.05)
            running.send_signal(signal.SIGINT)
            _, told = running.communicate(timeout=DEADLINE)
        assert running.returncode == 130
        if as_json:
            assert json.loads(told)["error"]["kind"] == "Interrupted"
        else:
            assert told == f"{FIRST}\n"


def test_one_that_meets_a_place_that_cannot_raise_comes_again(tmp_path: Path) -> None:
    body = (
        "class Ends:\n    def __del__(self):\n      say(); time.sleep(99)\n"
        "  one = Ends(); del one\n  time.sleep(99)"
    )
    with process(*program(body), cwd=tmp_path) as running:
        assert running.stdout
        running.stdout.readline()
        time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=DEADLINE)
    assert (running.returncode, told) == (130, f"{FIRST}\n")


def test_after_the_work_is_done_the_result_stands(tmp_path: Path) -> None:
    body = "import atexit; atexit.register(lambda: (say(), time.sleep(99))); return 4"
    with process(*program(body), cwd=tmp_path) as running:
        assert running.stdout
        running.stdout.readline()
        time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=DEADLINE)
    assert (running.returncode, told) == (4, "")


def test_whoever_is_started_without_a_ctrl_c_stays_without(tmp_path: Path) -> None:
    command = [*program("say(); time.sleep(0.5); return 7")]
    shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *command]
    with process(*shell, cwd=tmp_path) as running:
        assert running.stdout
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=DEADLINE)
    assert running.returncode == 7


SCRIPT = (
    "import time\nfor number in range(3000):\n    print('epoch', number, flush=True)\n    time.sleep(0.05)\n"
)


def _interrupted_twice(project: Path, arguments: list[str], dice: random.Random) -> None:
    home = {"RUNCTL_HOME": str(project / "home"), "RUNCTL_CONFIG": str(project / "none.toml")}
    with process(RUNCTL, *arguments, cwd=project, **home) as running:
        _wait_until_it_listens(running)
        time.sleep(dice.choice([dice.uniform(0, 0.3), dice.uniform(0, 2.5)]))
        running.send_signal(signal.SIGINT)
        time.sleep(dice.choice([0, dice.uniform(0, 0.02), dice.uniform(0, 0.3), dice.uniform(0, 2)]))
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=DEADLINE)
    assert running.returncode == 130, told
    assert "Traceback" not in told
    assert "KeyboardInterrupt" not in told
    assert "error: " in told


def _wait_until_it_listens(running: subprocess.Popen[str]) -> None:
    """Before that a Ctrl-C is Python's own business: its threads show when runctl has begun."""
    deadline = time.monotonic() + DEADLINE
    tasks = Path(f"/proc/{running.pid}/task")
    while len(list(tasks.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _many(folder: Path, runs: int, seed: int) -> None:
    (folder / ".runctl.toml").touch()
    (folder / "t.py").write_text(SCRIPT)
    home = {**os.environ, "RUNCTL_HOME": str(folder / "home"), "RUNCTL_CONFIG": str(folder / "none.toml")}
    dice = random.Random(seed)

    def call(*arguments: str) -> None:
        subprocess.run([RUNCTL, *arguments], cwd=folder, env=home, capture_output=True, check=False)

    try:
        for _ in range(runs):
            _interrupted_twice(folder, ["train", "t.py"], dice)
        call("train", "t.py", "--name", "followed", "--detach")
        for _ in range(runs):
            _interrupted_twice(folder, ["jobs", "logs", "last", "-f"], dice)
        _interrupted_twice(folder, ["jobs", "wait", "last"], dice)
    finally:
        listed = subprocess.run(
            [RUNCTL, "jobs", "list", "-q"], cwd=folder, env=home, capture_output=True, text=True, check=False
        )
        for job in listed.stdout.split():
            call("jobs", "stop", job)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads when a process listens from /proc")
def test_two_interrupts_at_any_moment_of_real_commands(tmp_path: Path) -> None:
    _many(tmp_path, runs=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads when a process listens from /proc")
@pytest.mark.parametrize("seed", [2, 3])
def test_many_times_two_interrupts(tmp_path: Path, seed: int) -> None:
    _many(tmp_path, runs=15, seed=seed)
