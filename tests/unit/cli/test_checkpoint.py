"""Checkpoints of a job, a folder or a prefix: found, looked at, brought home, cleaned up."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
HOURS = 3600


def save(folder: Path, name: str, *, hours: float = 5.0, torn: bool = False) -> Path:
    """A checkpoint in the format of PyTorch, so many hours old."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", "x" * 100)
    if torn:
        path.write_bytes(path.read_bytes()[:-30])
    then = path.stat().st_mtime - hours * HOURS
    os.utime(path, (then, then))
    return path


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def runs(project: Path) -> Path:
    """A folder as Lightning and the Trainer leave it."""
    folder = project / "runs"
    for epoch, loss in enumerate((0.9, 0.25, 0.4, 0.5)):
        save(folder, f"epoch={epoch}-val_loss={loss}.ckpt", hours=9.0 - epoch)
    for step in (500, 1000, 1500):
        save(folder, f"hf/checkpoint-{step}/model.pt", hours=9.0 - step / 1000)
        (folder / f"hf/checkpoint-{step}/config.json").write_text("{}")
        os.utime(folder / f"hf/checkpoint-{step}/config.json", (0, 0))
    (folder / "metrics.csv").write_text("1\n")
    return folder


def test_what_is_kept_is_the_newest_the_best_and_every_so_many(run: Run, runs: Path) -> None:
    before = names(runs)
    arguments = ("checkpoint", "cleanup", "runs", "--keep-last", "1", "--keep-every", "1000")
    best = ("--keep-best", "val_loss")
    planned = json.loads(run(*arguments, *best, "--dry-run", "-o", "json").stdout)
    gone = {"epoch=0-val_loss=0.9.ckpt", "epoch=2-val_loss=0.4.ckpt", "hf/checkpoint-500"}
    assert {one["name"] for one in planned["delete"]} == gone - {
        "epoch=0-val_loss=0.9.ckpt"
    }  # 0 is a multiple
    assert names(runs) == before
    shown = run(*arguments, *best, "--dry-run").stdout
    assert "best val_loss: 0.25" in shown
    assert "a multiple of 1000 steps" in shown
    done = run(*arguments, *best, "--yes")
    assert done.returncode == 0, done.stderr
    assert before - names(runs) == {
        "epoch=2-val_loss=0.4.ckpt",
        "hf/checkpoint-500/model.pt",
        "hf/checkpoint-500/config.json",
    }
    assert not (runs / "hf/checkpoint-500").exists()


def test_a_metric_that_no_name_has_deletes_nothing(run: Run, runs: Path) -> None:
    before = names(runs)
    refused = run("checkpoint", "cleanup", "runs", "--keep-last", "1", "--keep-best", "f1", "--yes")
    assert refused.returncode == 1
    assert "tells f1 of a checkpoint" in refused.stderr
    assert names(runs) == before


def test_the_best_is_known_by_what_a_trainer_logged(run: Run, runs: Path) -> None:
    rows = [{"step": step, "eval_f1": value} for step, value in ((500, 0.7), (1000, 0.9), (1500, 0.8))]
    for number, step in enumerate((500, 1000, 1500), 1):
        path = runs / f"hf/checkpoint-{step}/trainer_state.json"
        path.write_text(json.dumps({"global_step": step, "log_history": [{"step": 1}, *rows[:number]]}))
        os.utime(path, (0, 0))
    arguments = (
        "checkpoint",
        "cleanup",
        "runs/hf",
        "--keep-last",
        "1",
        "--keep-best",
        "eval_f1",
        "--dry-run",
    )
    planned = json.loads(run(*arguments, "-o", "json").stdout)
    assert [one["name"] for one in planned["delete"]] == ["checkpoint-500"]
    assert "best eval_f1: 0.9" in run(*arguments).stdout


def test_the_newest_complete_one_stays_whatever_is_asked(run: Run, project: Path) -> None:
    folder = project / "runs"
    save(folder, "step_1.pt", hours=5)
    save(folder, "step_2.pt", hours=4)
    save(folder, "step_3.pt", hours=3, torn=True)
    assert run("checkpoint", "cleanup", "runs", "--keep-last", "1", "--yes").returncode == 0
    assert names(folder) == {"step_2.pt", "step_3.pt"}


def test_a_young_one_goes_only_with_force_and_a_link_keeps_what_it_leads_to(run: Run, project: Path) -> None:
    folder = project / "runs"
    for step in (1, 2, 3):
        save(folder, f"step_{step}.pt", hours=0.2 if step == 2 else 5.0 / step)
    (folder / "best.pt").symlink_to("step_1.pt")
    run("checkpoint", "cleanup", "runs", "--keep-last", "1", "--yes")
    assert names(folder) == {"step_1.pt", "step_2.pt", "step_3.pt", "best.pt"}
    run("checkpoint", "cleanup", "runs", "--keep-last", "1", "--yes", "--force")
    assert "step_1.pt" in names(folder)
    assert "step_3.pt" in names(folder)


def test_a_list_tells_what_is_complete_and_info_what_it_consists_of(run: Run, runs: Path) -> None:
    save(runs, "hf/checkpoint-2000/model.pt", torn=True)
    found = {one["name"]: one for one in json.loads(run("checkpoint", "list", "runs", "-o", "json").stdout)}
    assert (found["hf/checkpoint-1500"]["step"], found["hf/checkpoint-1500"]["complete"]) == (1500, True)
    assert found["hf/checkpoint-2000"]["complete"] is False
    assert "metrics.csv" not in found
    told = json.loads(run("checkpoint", "info", "runs", "hf/checkpoint-500", "-o", "json").stdout)
    assert set(told["files"]) == {"hf/checkpoint-500/model.pt", "hf/checkpoint-500/config.json"}
    assert "There is no checkpoint none" in run("checkpoint", "info", "runs", "none").stderr


def test_a_job_s_checkpoint_is_found_proven_and_pulled(run: Run, project: Path) -> None:
    (project / "train.py").write_text(
        "import os, zipfile\n"
        "folder = os.environ['RUNCTL_CHECKPOINT_DIR']\n"
        "with zipfile.ZipFile(folder + '/step_7.pt', 'w') as archive:\n"
        "    archive.writestr('archive/data.pkl', 'weights')\n"
    )
    assert run("train", "train.py").returncode == 0
    (one,) = json.loads(run("checkpoint", "list", "last", "-o", "json").stdout)
    assert (one["checkpoint"], one["step"], one["ours"]) == ("checkpoints/step_7.pt", 7, True)
    assert "every byte is what was committed" in run("checkpoint", "info", "last", "--verify").stdout
    assert run("checkpoint", "pull", "last", "home").returncode == 0
    assert names(project / "home") == {"step_7.pt"}
    refused = run("checkpoint", "cleanup", "last", "--keep-last", "1")
    assert "keeps its newest snapshots by itself" in refused.stderr
    (job,) = (project / ".runctl" / "jobs").iterdir()
    (file,) = (job / "committed").rglob("step_7.pt")
    file.chmod(0o600)
    file.write_bytes(b"torn")
    assert "is corrupt" in run("checkpoint", "info", "last", "--verify").stderr
    left = run("checkpoint", "pull", "last", "again")
    assert left.returncode == 1
    assert "step_7.pt was left where it is" in left.stderr
    assert names(project / "again") == set()


def test_the_outputs_of_a_local_job_are_fetched_and_what_cannot_come_is_named(
    run: Run, project: Path
) -> None:
    (project / "train.py").write_text(
        "import os\n"
        "folder = os.environ['RUNCTL_OUTPUT_DIR']\n"
        "open(folder + '/score.txt', 'w').write('1')\n"
        "os.mkfifo(folder + '/control')\n"
        "os.symlink('score.txt', folder + '/newest')\n"
    )
    assert run("train", "train.py").returncode == 0
    fetched = run("jobs", "fetch", "last", "home")
    assert fetched.returncode == 1
    assert "outputs/control was left where it is: a named pipe" in fetched.stderr
    assert names(project / "home") == {"score.txt", "newest"}
    assert (project / "home/newest").readlink() == Path("score.txt")
