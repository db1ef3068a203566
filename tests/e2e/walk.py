"""The script of the end-to-end tests: steps, checkpoints and listens, with nothing but the standard library.

Its result depends on every step, so that a step that is lost, or done twice on the same state, shows.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
import zipfile
from pathlib import Path

CHECKPOINTS = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
OUTPUTS = Path(os.environ["RUNCTL_OUTPUT_DIR"])
ATTEMPT = int(os.environ["RUNCTL_ATTEMPT"])
LAST = 3


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.1, help="of work in each step")
    parser.add_argument("--every", type=int, default=1, help="steps between two checkpoints")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--interruptions", type=int, default=0, help="attempts that wait to be taken away")
    options = parser.parse_args()
    stop: list[int] = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.deaf else lambda number, _: stop.append(number))

    done, state = resume()
    for step in range(done + 1, options.steps + 1):
        time.sleep(options.seconds)
        # However slow the host: an interruption that a test announces finds the script at work.
        while step > options.steps - LAST and options.interruptions >= ATTEMPT and not stop:
            time.sleep(0.05)
        state = hashlib.sha256(f"{state} {step}".encode()).hexdigest()
        print(f"step {step}/{options.steps} {state[:12]}", flush=True)
        if stop or step == options.steps or step % options.every == 0:
            save(step, state)
        if stop and step < options.steps:
            return 128 + signal.SIGTERM
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    (OUTPUTS / "result.txt").write_text(f"{options.steps} {state}\n")
    return 0


def save(step: int, state: str) -> None:
    target = CHECKPOINTS / f"step-{step:05}.zip"
    partial = target.with_name(target.name + ".tmp")
    with zipfile.ZipFile(partial, "w") as archive:
        archive.writestr("state.json", json.dumps({"step": step, "state": state}))
    partial.replace(target)
    for old in sorted(CHECKPOINTS.glob("step-*.zip"))[:-2]:
        old.unlink()


def resume() -> tuple[int, str]:
    named = os.environ.get("RUNCTL_RESUME_FROM")
    if named is None:
        return 0, "start"
    with zipfile.ZipFile(named) as archive:
        found = json.loads(archive.read("state.json"))
    return found["step"], found["state"]


if __name__ == "__main__":
    sys.exit(main())
