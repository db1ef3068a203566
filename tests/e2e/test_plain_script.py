"""A plain script, which knows nothing of us: it saves in its folder and goes on from what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SCRIPT = """
import glob, os, pickle, time

os.makedirs("checkpoints", exist_ok=True)
found = sorted(glob.glob("checkpoints/step_*.pkl"), key=os.path.getmtime)
step = pickle.load(open(found[-1], "rb"))["step"] if found else 0
while step < 40:
    step += 1
    time.sleep(0.1)
    print(f"step {step}/40", flush=True)
    with open("metrics.csv", "a") as file:
        file.write(f"{step}\\n")
    if step % 5 == 0:
        with open("checkpoints/new", "wb") as file:
            pickle.dump({"step": step}, file)
        os.replace("checkpoints/new", f"checkpoints/step_{step}.pkl")
open("model.txt", "w").write("trained")
"""
EVERY = 5


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_plain_script_survives_two_interruptions_and_its_files_come_home(lab: Any) -> None:
    (lab.project / "plain.py").write_text(SCRIPT)
    home, asked = lab.project / "results", lab.project / "asked"
    asked.mkdir()
    (asked / "metrics.csv").write_text("mine")
    command = lab.train(script="plain.py", options=("--output", str(asked)))
    for number, moment in ((0, 7), (1, 22)):
        lab.stepped(moment)
        machine = lab.until(lambda number=number: lab.machines()[number:], "the next machine")[0]
        lab.until(lambda machine=machine: lab.runs(machine), "it runs")
        lab.interrupt(machine)
        lab.until(lambda machine=machine: lab.ended(machine), "it is taken")
    lab.finish(command)

    report = lab.report()
    assert (report["state"], report["interruptions"]) == ("succeeded", 2)
    assert report["steps_lost"] <= 2 * EVERY
    assert not any(attempt["began_anew"] for attempt in report["attempts"])
    lab.run("jobs", "fetch", "last", str(home))
    every = {f"checkpoints/step_{step}.pkl" for step in range(EVERY, 41, EVERY)}
    assert files(home) == {"metrics.csv", "model.txt", *every}  # and not what came with the code
    steps = [int(line) for line in (home / "metrics.csv").read_text().split()]
    assert set(steps) == set(range(1, 41))
    assert files(asked) == {"metrics.csv.before-1", *files(home)}
    assert (asked / "metrics.csv.before-1").read_text() == "mine"
    assert "it is metrics.csv.before-1 now" in lab.said()
    assert f"{len(files(home))} files" in lab.said()
