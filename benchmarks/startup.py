"""How long a command takes before anything of the user's happens, beside what it is measured against.

Run with `python -m benchmarks.startup`. Interleaved runs, medians, one table.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.goals import Goals

RUNS = 15
MOST_TIMES = 6.0
MOST_ADDED = 0.25
"""Seconds that `train` may add until the script's first line."""

RUNCTL = str(Path(sys.executable).parent / "runctl")
SCRIPT = "import time, sys; sys.stdout.write(repr(time.time())); sys.stdout.flush()\n"


def seconds(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Until the command has ended."""
    begun = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begun


def until_first_line(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Until the script's first line ran, by its own clock."""
    begun = time.time()
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[0]) - begun


def main() -> int:
    goals = Goals()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "train.py").write_text(SCRIPT)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["RUNCTL_HOME"] = str(folder / "home")
        commands = {
            "python -c pass": (seconds, [sys.executable, "-c", "pass"]),
            "runctl --version": (seconds, [RUNCTL, "--version"]),
            "runctl --help": (seconds, [RUNCTL, "--help"]),
            "runctl jobs list": (seconds, [RUNCTL, "jobs", "list"]),
            "python3 train.py, first line": (until_first_line, ["python3", "train.py"]),
            "runctl train train.py, first line": (until_first_line, [RUNCTL, "train", "train.py"]),
        }
        times: dict[str, list[float]] = {label: [] for label in commands}
        for _ in range(RUNS):
            for label, (measure, command) in commands.items():
                times[label].append(measure(command, folder, environment))
    middle = {label: statistics.median(found[1:]) for label, found in times.items()}
    print(f"{'what':<36}{'median ms':>10}")
    for label, value in middle.items():
        print(f"{label:<36}{value * 1000:>10.0f}")
    added = middle["runctl train train.py, first line"] - middle["python3 train.py, first line"]
    told = goals.under(added, MOST_ADDED)
    print(f"{'added by runctl train':<36}{added * 1000:>10.0f}   must: under {MOST_ADDED * 1000:.0f}  {told}")
    for label in ("runctl --version", "runctl --help"):
        times_python = middle[label] / middle["python -c pass"]
        told = goals.under(times_python, MOST_TIMES)
        print(f"{label + ' against python':<36}{times_python:>9.1f}x   must: under {MOST_TIMES:.0f}x  {told}")
    return goals.exit_code


if __name__ == "__main__":
    sys.exit(main())
