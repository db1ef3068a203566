"""It saves in place, slowly, in two slots in turn, and takes the newer one that can be read."""

import os
import pickle
import time


def load():
    best = (0, [1.0] * 20_000)
    for slot in ("a.pkl", "b.pkl"):
        try:
            with open(slot, "rb") as file:
                best = max(best, pickle.load(file), key=lambda one: one[0])
        except (OSError, EOFError, pickle.UnpicklingError):
            continue
    return best


step, w = load()
while step < 40:
    step += 1
    w = [x * 0.98 for x in w]
    print(f"iter {step} loss {sum(w):.7f}", flush=True)
    time.sleep(0.02)
    if step % 4 == 0:
        data = pickle.dumps((step, w))
        with open("ab"[step // 4 % 2] + ".pkl", "wb") as file:
            for at in range(0, len(data), 30_000):
                file.write(data[at : at + 30_000])
                file.flush()
                time.sleep(0.005)
