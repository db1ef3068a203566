"""A folder for each epoch, renamed into its place; order from seed and epoch."""

import os
import shutil
import time

import numpy as np

root = "model_dir"
os.makedirs(root, exist_ok=True)
done = sorted(int(name.split("-")[1]) for name in os.listdir(root) if name.startswith("epoch-"))
w, m = np.zeros(5), np.zeros(5)
if done:
    w, m = (np.load(f"{root}/epoch-{done[-1]}/{name}.npy") for name in ("w", "m"))
for epoch in range(done[-1] + 1 if done else 1, 13):
    order = np.random.default_rng(epoch).permutation(10)
    for index in order:
        x = np.random.default_rng(int(index)).normal(size=5)
        m = 0.9 * m + 0.1 * ((w - 1) * x * x)
        w = w - 0.05 * m
        time.sleep(0.006)
    print(f"epoch: {epoch} loss: {float(((w - 1) ** 2).sum()):.8f} lr: 0.05", flush=True)
    shutil.rmtree(f"{root}/.new", ignore_errors=True)
    os.makedirs(f"{root}/.new")
    np.save(f"{root}/.new/w.npy", w)
    np.save(f"{root}/.new/m.npy", m)
    os.replace(f"{root}/.new", f"{root}/epoch-{epoch}")
