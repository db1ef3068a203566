"""The newest is chosen by its name: ckpt-9 sorts after ckpt-10."""

import glob
import os
import time

import numpy as np

os.makedirs("checkpoints", exist_ok=True)
w, epoch = np.ones(3), 0
names = sorted(glob.glob("checkpoints/ckpt-*.npz"))
if names:
    w = np.load(names[-1])["w"]
    epoch = int(names[-1].split("-")[-1].split(".")[0])
while epoch < 16:
    for _ in range(5):
        w = w * 0.99
        time.sleep(0.015)
    epoch += 1
    print(f"Epoch {epoch}/16 - loss: {float(w.sum()):.6f}", flush=True)
    np.savez("checkpoints/tmp.npz", w=w)
    os.replace("checkpoints/tmp.npz", f"checkpoints/ckpt-{epoch}.npz")
