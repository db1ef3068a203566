"""A bar that writes over itself, and a dictionary now and then, as trainers print them."""

import json
import os
import signal
import sys
import time

asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
place = "trainer_output/checkpoint.json"
w, step = 1.0, 0
if os.path.exists(place):
    with open(place) as file:
        w, step = json.load(file)


def save():
    os.makedirs("trainer_output", exist_ok=True)
    with open(place + ".partial", "w") as file:
        json.dump([w, step], file)
    os.replace(place + ".partial", place)


while step < 60:
    w *= 0.96
    step += 1
    sys.stdout.write(
        f"\r{step * 100 // 60:3d}%|{'#' * (step // 6):10s}| {step}/60 [00:01<00:02, 31.5it/s, loss={w:.5f}]"
    )
    sys.stdout.flush()
    if step % 10 == 0:
        print(
            f"\n{{'loss': {w:.6f}, 'grad_norm': {w / 2:.4f}, 'learning_rate': 0.001, 'epoch': {step / 20:.2f}}}",
            flush=True,
        )
    time.sleep(0.02)
    if step % 10 == 0 or asked:
        save()
    if asked:
        break
