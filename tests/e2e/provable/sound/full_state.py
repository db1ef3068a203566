"""Weights, momentum, generator and place in the data, saved on SIGTERM too."""

import os
import pickle
import random
import signal
import sys
import time

folder = os.environ["RUNCTL_CHECKPOINT_DIR"]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
state = {"w": 3.0, "v": 0.0, "step": 0, "rng": random.Random(1).getstate(), "order": []}
if os.environ.get("RUNCTL_RESUME_FROM"):
    with open(os.environ["RUNCTL_RESUME_FROM"], "rb") as file:
        state = pickle.load(file)
rng = random.Random()
rng.setstate(state["rng"])


def save():
    state["rng"] = rng.getstate()
    with open(f"{folder}/.new", "wb") as file:
        pickle.dump(state, file)
    os.replace(f"{folder}/.new", f"{folder}/step_{state['step']:05d}.pkl")


while state["step"] < 60:
    if not state["order"]:
        state["order"] = rng.sample(range(20), 20)
    batch = [state["order"].pop() for _ in range(4)]
    noise = rng.gauss(0, 0.01)
    state["v"] = 0.9 * state["v"] + 2 * state["w"] / 20 * sum(batch) / 40 + noise
    state["w"] -= 0.05 * state["v"]
    state["step"] += 1
    print(f"step {state['step']} ids {batch} loss {state['w'] ** 2:.9f} time {time.time():.3f}", flush=True)
    time.sleep(0.02)
    if asked:
        save()
        sys.exit(0)
    if state["step"] % 7 == 0:
        save()
