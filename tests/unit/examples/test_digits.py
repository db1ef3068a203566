"""The digits example, interrupted for real at moments that a seed chooses."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "digits" / "train.py"
EPOCHS = 14
OPTIONS = ["--epochs", str(EPOCHS), "--hidden", "128", "--learning-rate", "0.1"]


pytestmark = pytest.mark.xdist_group("digits")  # which share one nursery


@dataclass(frozen=True)
class Run:
    code: int
    lines: list[str]

    @property
    def epochs(self) -> list[int]:
        return [int(match[1]) for line in self.lines if (match := re.match(r"epoch (\d+)/", line))]


# Reading scikit-learn in takes 2 s: one process does it, and each life of the script begins as its copy.
NURSERY = """
import json, os, runpy, sys
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
import numpy, sklearn.datasets

def live(arguments, environment, output):
    os.dup2(os.open(output, os.O_WRONLY), 1)
    os.environ.update(environment)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            live(*json.loads(line))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Run]]:
    """One life of the script, ended by a signal once it has printed epoch `interrupt_at`."""
    pipe = tmp_path_factory.mktemp("nursery") / "output"
    os.mkfifo(pipe)

    def live(
        folder: Path,
        *options: str,
        interrupt_at: int | None = None,
        by: signal.Signals = signal.SIGTERM,
        **extra: str,
    ) -> Run:
        arguments = [str(SCRIPT), *OPTIONS, *options]
        assert nursery.stdin
        assert nursery.stdout
        nursery.stdin.write(json.dumps([arguments, surroundings(folder) | extra, str(pipe)]) + "\n")
        nursery.stdin.flush()
        child = int(nursery.stdout.readline())
        lines: list[str] = []
        with pipe.open() as output:
            for line in output:
                lines.append(line.rstrip("\n"))
                if line.startswith(f"epoch {interrupt_at}/"):
                    os.kill(child, by)
        return Run(int(nursery.stdout.readline()), lines)

    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as nursery:
        yield live


def surroundings(folder: Path) -> dict[str, str]:
    return {
        "RUNCTL_CHECKPOINT_DIR": str(folder / "checkpoints"),
        "RUNCTL_OUTPUT_DIR": str(folder / "outputs"),
    }


def result(folder: Path) -> dict[str, object]:
    return json.loads((folder / "outputs" / "result.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole life as a process of its own, as users start it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, str(SCRIPT), *OPTIONS]
    subprocess.run(command, env={**os.environ, **surroundings(folder)}, stdout=subprocess.DEVNULL, check=True)
    return folder


def assert_same_end(folder: Path, undisturbed: Path) -> None:
    assert result(folder) == result(undisturbed)
    name = "outputs/weights.npz"
    assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()


def test_it_learns(undisturbed: Path) -> None:
    found = result(undisturbed)
    assert set(found) == {"epochs", "accuracy", "weights_sha256", "seed"}
    assert float(str(found["accuracy"])) > 0.93
    assert [path.name for path in sorted((undisturbed / "checkpoints").iterdir())] == [
        f"epoch-{EPOCHS - 1:05}.npz",
        f"epoch-{EPOCHS:05}.npz",
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_interrupted_by_sigterm_it_ends_the_same(
    run: Callable[..., Run], tmp_path: Path, undisturbed: Path, seed: int
) -> None:
    moments = sorted(random.Random(seed).sample(range(1, EPOCHS - 1), 2))
    seen: list[int] = []
    for moment in moments:
        life = run(tmp_path, interrupt_at=moment)
        assert life.code == 143
        assert life.lines[-1].startswith(f"SIGTERM: saved epoch {life.epochs[-1]}")
        seen += life.epochs
    last = run(tmp_path)
    assert last.code == 0
    assert last.lines[-2].startswith("accuracy on the held-out fifth: 0.9")
    assert seen + last.epochs == list(range(1, EPOCHS + 1)), "no epoch was lost or done twice"
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.parametrize("seed", [3, 4])
def test_killed_it_ends_the_same(
    run: Callable[..., Run], tmp_path: Path, undisturbed: Path, seed: int
) -> None:
    moments = sorted(random.Random(seed).sample(range(2, EPOCHS - 1), 2))
    for moment in moments:
        assert run(tmp_path, "--checkpoint-every", "3", interrupt_at=moment, by=signal.SIGKILL).code == -9
    assert run(tmp_path, "--checkpoint-every", "3").code == 0
    assert_same_end(tmp_path, undisturbed)


def test_a_sigterm_between_checkpoints_saves(
    run: Callable[..., Run], tmp_path: Path, undisturbed: Path
) -> None:
    first = run(tmp_path, "--checkpoint-every", "100", interrupt_at=4)
    assert first.code == 143
    assert f"resumed after epoch {first.epochs[-1]} " in run(tmp_path, "--checkpoint-every", "100").lines[0]
    assert_same_end(tmp_path, undisturbed)


def test_one_that_ignores_sigterm_goes_on(run: Callable[..., Run], tmp_path: Path, undisturbed: Path) -> None:
    assert run(tmp_path, "--ignore-sigterm", interrupt_at=3).epochs == list(range(1, EPOCHS + 1))
    assert_same_end(tmp_path, undisturbed)


def test_it_resumes_from_the_checkpoint_that_is_named(
    run: Callable[..., Run], tmp_path: Path, undisturbed: Path
) -> None:
    assert run(tmp_path, interrupt_at=5).code == 143
    named = min((tmp_path / "checkpoints").iterdir()).rename(tmp_path / "restored.npz")
    again = run(tmp_path / "elsewhere", RUNCTL_RESUME_FROM=str(named))
    assert again.lines[0].endswith("from restored.npz")
    assert_same_end(tmp_path / "elsewhere", undisturbed)


def test_a_checkpoint_of_another_run_is_refused(run: Callable[..., Run], tmp_path: Path) -> None:
    assert run(tmp_path, interrupt_at=1).code == 143
    assert run(tmp_path, "--seed", "2").code == 1
    assert not (tmp_path / "outputs").exists()
