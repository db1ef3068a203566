"""It resumes at the next epoch, whatever of the last one was not seen."""

import os
import pickle
import signal
import sys
import time

here = os.environ["RUNCTL_CHECKPOINT_DIR"]
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
epoch, w = 0, 1.0
if os.environ.get("RUNCTL_RESUME_FROM"):
    with open(os.environ["RUNCTL_RESUME_FROM"], "rb") as file:
        epoch, w = pickle.load(file)
    epoch += 1


def save():
    with open(here + "/last.tmp", "wb") as file:
        pickle.dump((epoch, w), file)
    os.replace(here + "/last.tmp", here + "/last.pkl")


while epoch < 6:
    for batch in range(10):
        loss = abs(w - (epoch * 10 + batch) / 60)
        w *= 0.97
        print("epoch", epoch, "step", batch, "loss", round(loss, 7), flush=True)
        time.sleep(0.02)
        if batch % 3 == 0:
            save()
        if stop:
            save()
            sys.exit()
    epoch += 1
