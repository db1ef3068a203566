"""The PyTorch example, interrupted in mid-epoch for real. Needs torch, which the development set lacks."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed: pip install 'runctl[torch]'", allow_module_level=True)

SCRIPT = Path(__file__).parents[3] / "examples" / "pytorch" / "train.py"
STEPS = 150
OPTIONS = ["--steps", str(STEPS), "--checkpoint-every", "40", "--log-every", "1"]
STEPS_PER_EPOCH = (1797 - 1797 // 5) // 64


def run(
    folder: Path, *options: str, interrupt_at: int | None = None, by: signal.Signals = signal.SIGTERM
) -> tuple[int, list[str]]:
    """One life of the script, ended by a signal once it has printed step `interrupt_at`."""
    environment = {
        **os.environ,
        "RUNCTL_CHECKPOINT_DIR": str(folder / "checkpoints"),
        "RUNCTL_OUTPUT_DIR": str(folder / "outputs"),
    }
    command = [sys.executable, str(SCRIPT), *OPTIONS, *options]
    lines: list[str] = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith(f"step {interrupt_at}/"):
                process.send_signal(by)
    return process.returncode, lines


def steps(lines: list[str]) -> list[int]:
    return [int(match[1]) for line in lines if (match := re.match(r"step (\d+)/", line))]


def result(folder: Path) -> dict[str, object]:
    return json.loads((folder / "outputs" / "result.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder)[0] == 0
    return folder


def test_it_learns(undisturbed: Path) -> None:
    assert float(str(result(undisturbed)["accuracy"])) > 0.93


def test_stopped_in_mid_epoch_it_goes_on_at_the_next_step(tmp_path: Path, undisturbed: Path) -> None:
    moments = sorted(random.Random(7).sample(range(5, STEPS - 5), 2))
    seen: list[int] = []
    for moment in moments:
        code, lines = run(tmp_path, interrupt_at=moment)
        assert code == 143
        seen += steps(lines)
    assert any(moment % STEPS_PER_EPOCH for moment in moments)
    code, lines = run(tmp_path)
    assert code == 0
    assert seen + steps(lines) == list(range(1, STEPS + 1)), "no step was lost or done twice"
    assert result(tmp_path) == result(undisturbed)


def test_killed_it_ends_the_same(tmp_path: Path, undisturbed: Path) -> None:
    assert run(tmp_path, interrupt_at=97, by=signal.SIGKILL)[0] == -9
    code, lines = run(tmp_path)
    assert code == 0
    # A kill arrives some steps after its line; the newest checkpoint is that of step 80 or, seldom, 120.
    assert lines[0].split()[3] in {"80", "120"}
    assert result(tmp_path) == result(undisturbed)


def test_one_that_ignores_sigterm_goes_on(tmp_path: Path, undisturbed: Path) -> None:
    code, lines = run(tmp_path, "--ignore-sigterm", interrupt_at=20)
    assert (code, steps(lines)) == (0, list(range(1, STEPS + 1)))
    assert result(tmp_path) == result(undisturbed)
