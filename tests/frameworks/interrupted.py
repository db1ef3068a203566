"""A job of one's own in a sandbox, driven by the commands that a user has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STEP = re.compile(r"\bstep (\d+)/")
SPEED = 10
INSTANCE_TYPE = "m7i.large"
QUIET = {
    "OMP_NUM_THREADS": "1",  # two machines' worth of threads would end no sooner, and not with the same bits
}


class Failed(Exception):
    """The job is not where it should be; with what its command wrote."""


class Sandbox:
    """One that is up, with the Python of an environment as its machines' image."""

    def __init__(self, environment: Path, home: Path) -> None:
        self.environment, self.home = environment, home
        self.run(home, "sandbox", "up", "--speed", str(SPEED))

    def run(self, home: Path, *arguments: str) -> str:
        """The stdout of a runctl command that succeeds."""
        done = subprocess.run(
            [self.environment / "bin/runctl", *arguments],
            env=variables(home), capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        if done.returncode != 0:
            raise Failed(f"runctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def down(self) -> None:
        self.run(self.home, "sandbox", "down")


def variables(home: Path) -> dict[str, str]:
    """The environment of a command whose ledger is in `home`."""
    return {**os.environ, **QUIET, "RUNCTL_HOME": str(home)}


class Job:
    """`runctl train --on sandbox --spot` in the folder of a script, with a ledger of its own."""

    def __init__(self, sandbox: Sandbox, project: Path, command: tuple[str, ...]) -> None:
        self._sandbox = sandbox
        self._home = project.with_suffix(".home")
        self._home.mkdir()
        (self._home / "sandbox").symlink_to(sandbox.home / "sandbox", target_is_directory=True)
        self._log = project.with_suffix(".log")
        place = ("--on", "sandbox", "--spot", "--instance-type", INSTANCE_TYPE)
        what = (*place, "--", *command) if command else ("train.py", *place)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sandbox.environment / "bin/runctl", "train", *what],
                env=variables(self._home), cwd=project, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def report(self) -> dict[str, Any]:
        """What `jobs show` reports of it."""
        shown = self._sandbox.run(self._home, "jobs", "show", "last", "--output", "json")
        return json.loads(shown)["report"]

    def output(self, attempt: int) -> str:
        """What the script wrote in one attempt."""
        return self._sandbox.run(self._home, "jobs", "logs", "last", "--attempt", str(attempt))

    def interrupt(self, number: int, step: int) -> None:
        """Take the machine of this attempt back once its script has said that it came to this step."""
        self._until(lambda: self._of(number, step), f"step {step} of attempt {number}")
        machine = re.findall(rf"^\[staging {number}\] (i-\w+)", self.said(), re.MULTILINE)[0]
        self._sandbox.run(self._home, "sandbox", "interrupt", machine)

    def wait(self, seconds: float = 420) -> None:
        """To its end, which must be a success."""
        code = self._process.wait(timeout=seconds)
        if code != 0:
            raise Failed(f"runctl train: exit code {code}\n{self.said()}")

    def end(self) -> None:
        """Of a job that went wrong: its command; its machines end with the sandbox."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=60)

    def _of(self, number: int, step: int) -> bool:
        """Whether this attempt came to this step."""
        _, began, said = self.said().partition(f"\n[running {number}]")
        return bool(began) and max(steps_in(said), default=-1) >= step

    def _until(self, condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if self._process.poll() is not None:
                raise Failed(f"it ended before: {what}\n{self.said()}")
            if time.monotonic() > end:
                raise Failed(f"not in {seconds:g} s: {what}\n{self.said()}")
            time.sleep(0.1)


def steps_in(text: str) -> list[int]:
    """The steps that a script's output names, in their order."""
    return [int(step) for step in _STEP.findall(text)]
