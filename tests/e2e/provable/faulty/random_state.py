"""Dropout is drawn from a generator whose state is not saved."""

import os
import time

import numpy as np

rng = np.random.default_rng(3)
w = np.zeros(8)
start = 0
if os.path.exists("ckpt/model.npz"):
    saved = np.load("ckpt/model.npz")
    w, start = saved["w"], int(saved["step"])
    print("resumed from step", start)
target = np.arange(8) / 8
for step in range(start + 1, 61):
    mask = rng.random(8) > 0.3  # dropout
    error = (w - target) * mask
    w = w - 0.05 * error
    print({"step": step, "loss": float((error**2).mean()), "lr": 0.05}, flush=True)
    time.sleep(0.02)
    if step % 6 == 0:
        os.makedirs("ckpt", exist_ok=True)
        np.savez("ckpt/model.tmp.npz", w=w, step=step)
        os.replace("ckpt/model.tmp.npz", "ckpt/model.npz")
