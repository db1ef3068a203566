"""A save takes its time under its own name, and the next life reads whatever is there."""

import os
import pickle
import time

w, step = [1.0] * 50_000, 0
if os.path.exists("model.pkl"):
    with open("model.pkl", "rb") as file:
        w, step = pickle.load(file)
while step < 40:
    w = [x * 0.99 for x in w]
    step += 1
    print(f"step {step}: loss {sum(w) / len(w):.6f}", flush=True)
    time.sleep(0.02)
    if step % 4 == 0:
        data = pickle.dumps((w, step))
        with open("model.pkl", "wb") as file:
            for at in range(0, len(data), 50_000):
                file.write(data[at : at + 50_000])
                file.flush()
                time.sleep(0.01)
